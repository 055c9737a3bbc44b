"""An upstream that is `vllm serve`, with the embedded model: first looks as our own engine has them.

Pictures reach it in the model's own size, so that nothing is resized there. In words the model cannot point.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.demo_server import signs
from secondlook.benchmarks.peers.vllm_server import vllm_server
from secondlook.edge.imaging import Picture, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.embedded import DEMO, EMBEDDED
from secondlook.engine.opening import EngineOptions, load_engine
from secondlook.engine.results import FirstLook
from secondlook.engine.upstream.engine import UpstreamEngine
from secondlook.engine.upstream.settings import UpstreamSettings, parsed_view

pytestmark = [pytest.mark.needs_vllm, pytest.mark.slow]

COUNT, CLOSE = 12, 1e-4


@pytest.fixture(scope="module")
def behind() -> Iterator[UpstreamEngine]:
    started = ("demo-behind", "float32", "--enforce-eager", "--block-size", "32")
    with vllm_server(Path(sys.prefix), EMBEDDED[DEMO], *started) as address:
        view = parsed_view("168x168")
        extra = {"add_special_tokens": True}  # else the prompt begins without its <s>
        settings = UpstreamSettings(
            address, global_view=view, local_view=view, crop_size=168, extra=extra, max_new_tokens=20
        )
        engine = UpstreamEngine(settings)
        yield engine
        engine.close()


def first_looks(engine: Any, asked: list[tuple[Picture, str]], options: AnswerOptions) -> list[FirstLook]:
    """All at once."""
    begun, view = [], engine.card.global_view
    for picture, question in asked:
        jpeg = picture.global_image(view).jpeg
        seen = open_picture(jpeg).original()
        begun.append(
            engine.start_first_look(engine.prepare(seen, question, picture.size, options, jpeg=jpeg))
        )
    while engine.round():
        pass
    return [request.future.result(0) for request in begun]


def test_first_looks_are_those_of_our_own_engine(behind: UpstreamEngine) -> None:
    own = load_engine(EngineOptions(DEMO, "float32", "cpu"))
    asked = [(open_picture(image), question) for image, question in signs(COUNT)]
    once = AnswerOptions(second_look="never")
    ours, theirs = (first_looks(engine, asked, once) for engine in (own, behind))
    furthest = 0.0
    for our, their in zip(ours, theirs, strict=True):
        assert their.text.strip() == our.text
        assert len(their.tokens) == len(our.tokens)
        assert their.look.ended == our.look.ended
        for mine, behind_it in zip(our.tokens, their.tokens, strict=True):
            assert behind_it.is_eos == mine.is_eos
            assert behind_it.margin == pytest.approx(mine.margin, abs=CLOSE)
            furthest = max(furthest, abs(behind_it.min_entropy - mine.min_entropy))
        assert their.uncertainty == pytest.approx(our.uncertainty, abs=CLOSE)
        assert their.look.prompt_tokens == our.look.prompt_tokens
    assert furthest < CLOSE


def test_a_model_that_cannot_point_gives_its_first_answer(behind: UpstreamEngine) -> None:
    asked = [(open_picture(image), question) for image, question in signs(2)]
    for look in first_looks(behind, asked, AnswerOptions(second_look="always")):
        assert (look.decision, look.source, look.region, look.pending) == ("unsure", "not_found", None, None)
        assert look.text.strip()
