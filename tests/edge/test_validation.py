"""Settings that are checked by their types: every wrong one is named with its value, however it was given."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, replace
from typing import Any, Literal

import pytest
from pydantic import PositiveFloat, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import from_json, validated


@validated(frozen=True)
class Inner:
    count: PositiveInt = 1
    kind: Literal["a", "b"] = "a"


@validated(frozen=True)
class Outer:
    factor: PositiveFloat
    inner: Inner = field(default_factory=Inner)
    pair: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.factor == 7:
            raise SettingsError("anything but seven")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inner(0), "count should be greater than 0, not 0"),
        (lambda: Inner(count=True), "count should be a valid integer, not True"),
        (lambda: Inner(1, "c"), "kind should be 'a' or 'b', not 'c'"),
        (lambda: Inner(0.5, "c"), "count should be .*, not 0.5; kind should be .*, not 'c'"),
        (lambda: Inner(1, "a", 5), "Unexpected positional argument, not 5"),
        (lambda: Inner(counts=2), "unknown key counts; known are count, kind"),
        (lambda: Outer(), "factor is missing"),
        (lambda: Outer(float("nan")), "factor should be a finite number, not nan"),
        (lambda: Outer("1"), "factor should be a valid number, not '1'"),
        (lambda: Outer(1, {"count": 2}), "inner should be an instance of Inner, not {'count': 2}"),
        (lambda: Outer(7), "^anything but seven$"),
        (lambda: replace(Outer(1), pair=(1, "2")), "pair.1 should be a valid integer, not '2'"),
        (lambda: from_json(Outer, '{"factor": 1, "inner": {"count": 0}}'), "inner.count should .*, not 0"),
        (lambda: from_json(Outer, '{"factor": 1, "inner": {"x": 0}}'), r"^unknown key inner\.x$"),
        (lambda: from_json(Outer, '{"factor": 7}'), "^anything but seven$"),
        (lambda: from_json(Outer, "[]"), "should be an object"),
        (lambda: from_json(Outer, '{"factor'), "Invalid JSON"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_they_are_values_like_those_of_any_frozen_dataclass() -> None:
    made = Outer(2, Inner(3), (4, 5))
    assert made == from_json(Outer, '{"factor": 2, "inner": {"count": 3}, "pair": [4, 5]}')
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))
    assert replace(made, inner=Inner()) == Outer(2, pair=(4, 5))
    with pytest.raises(FrozenInstanceError):
        made.factor = 3  # type: ignore[misc]
