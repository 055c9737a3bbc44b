"""Messages refuse what is of another type, though Python would take it for a number."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from secondlook.edge import AnswerOptions
from secondlook.edge.wire import Answer, Relevance


@pytest.mark.parametrize(
    "options",
    [
        '{"threshold": true}',
        '{"threshold": "0.5"}',
        '{"first_k": true}',
        '{"decide_after": 2.0}',
        '{"max_new_tokens": "8"}',
        '{"relevance": 1}',
        '{"include_eos": "yes"}',
    ],
)
def test_options_of_another_type_are_refused(options: str) -> None:
    with pytest.raises(ValidationError, match="should be a valid"):
        AnswerOptions.model_validate_json(options)


def test_whole_numbers_are_numbers_too() -> None:
    assert AnswerOptions.model_validate_json('{"threshold": 1, "first_k": 3}') == AnswerOptions(
        threshold=1.0, first_k=3
    )


@pytest.mark.parametrize("doubt", ["NaN", "Infinity", "-Infinity"])
def test_a_doubt_is_a_finite_number(doubt: str) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Answer.read(f'{{"text": "7", "uncertainty": {doubt}, "tokens": 2, "visual_tokens": 4}}'.encode())


def test_a_map_has_so_many_rows_and_columns_at_most() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 65536"):
        Relevance.read(b'{"width": 1, "height": 65537, "data": ""}')
