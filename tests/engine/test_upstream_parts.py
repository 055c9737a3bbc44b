"""What an upstream's replies and an operator's words are read as, piece by piece."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.wire import Budget, Fixed
from secondlook.engine.errors import UpstreamError
from secondlook.engine.method.policy import Policy
from secondlook.engine.progress import Stages
from secondlook.engine.upstream.answers import Vocabulary, Written
from secondlook.engine.upstream.chunks import Chunk, events
from secondlook.engine.upstream.pointing import pointed
from secondlook.engine.upstream.rounds import Rounds
from secondlook.engine.upstream.settings import UpstreamSettings, parsed_view

ORIGINAL, SENT = Size(2000, 1000), Size(400, 200)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("[250, 500, 500, 750]", "thousandths"),
        ('```json\n{"bbox_2d": [250, 500, 500, 750], "label": "sign"}\n```', "thousandths"),
        ("<|box_start|>(250,500),(500,750)<|box_end|>", "thousandths"),
        ("It is 3 m high, at [ 250.0,500, 500 ,750.0 ], and at [1, 2, 3, 4].", "thousandths"),
        ("[100, 100, 200, 150]", "pixels"),
        ("(0.25, 0.5, 0.5, 0.75)", "fractions"),
    ],
)
def test_a_box_is_found_in_whatever_is_said(text: str, units: Any) -> None:
    assert pointed(text, units, SENT, ORIGINAL, 1) == Region(500, 500, 1000, 750)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see no sign.",
        "[250, 500, 500]",
        "[500, 500, 250, 750]",  # left is right of right
        "[250, 500, 250, 750]",
        "[250, 500, 1500, 750]",  # in pixels of something
        "[-250, 500, 500, 750]",
        "[nan, 500, 500, 750]",
        "250 500 500 750",
        "[1e3, 500, 500, 750]",
    ],
)
def test_what_is_no_box_in_the_picture_is_none(text: str) -> None:
    assert pointed(text, "thousandths", SENT, ORIGINAL, 1) is None


def test_a_box_that_reaches_a_little_beyond_the_picture_ends_with_it() -> None:
    assert pointed("[-5, 900, 300, 1010]", "thousandths", SENT, ORIGINAL, 1) == Region(0, 900, 600, 1000)


@given(
    st.lists(st.floats(0, 1000), min_size=4, max_size=4),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 500),
)
def test_a_region_is_in_the_picture_holds_the_box_and_is_as_large_as_it_must_be(
    box: list[float], width: int, height: int, least: int
) -> None:
    x, y = sorted(round(value, 1) for value in box[:2]), sorted(round(value, 1) for value in box[2:])
    region = pointed(json.dumps([x[0], y[0], x[1], y[1]]), "thousandths", SENT, Size(width, height), least)
    if x[0] == x[1] or y[0] == y[1]:
        assert region is None
        return
    assert region is not None
    assert region.within(Size(width, height))
    assert region.width >= min(least, width)
    assert region.height >= min(least, height)
    slack = 1e-6 * max(width, height)
    assert region.left <= x[0] * width / 1000 + slack
    assert region.right >= x[1] * width / 1000 - slack
    assert region.top <= y[0] * height / 1000 + slack
    assert region.bottom >= y[1] * height / 1000 - slack


def test_views_in_a_few_characters() -> None:
    assert parsed_view("448").size == Budget(multiple=28, least_pixels=56 * 56, most_pixels=448 * 448)
    assert parsed_view("512:32").size == Budget(multiple=32, least_pixels=64 * 64, most_pixels=512 * 512)
    assert parsed_view("640x480").size == Fixed(width=640, height=480)
    assert sent_size(parsed_view("448"), Size(4000, 3000)) == Size(504, 364)


@pytest.mark.parametrize("text", ["", "0", "448x", "448:0", "40:28", "448:", "4x4x4", "-448", "big"])
def test_what_is_no_view_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(SettingsError, match="448:28"):
        parsed_view(text)


def test_fields_that_the_looks_need_cannot_be_said_otherwise() -> None:
    with pytest.raises(SettingsError, match="logprobs, stream"):
        UpstreamSettings("http://upstream.example", extra={"stream": False, "logprobs": False})
    with pytest.raises(SettingsError, match="question"):
        UpstreamSettings("http://upstream.example", pointing="Where?")


def told(text: str, logprob: float, *others: float) -> dict[str, Any]:
    likeliest = [{"token": f"{text}{rank}", "logprob": other} for rank, other in enumerate(others)]
    return {"token": text, "logprob": logprob, "top_logprobs": likeliest}


def written(*chunks: dict[str, Any], likeliest: int = 0) -> tuple[Written, Vocabulary]:
    vocabulary = Vocabulary()
    answer = Written(vocabulary, likeliest, "http://upstream.example")
    for chunk in chunks:
        answer.add(Chunk.model_validate(chunk))
    return answer, vocabulary


def chunk(text: str, *tokens: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {
        "choices": [{"delta": {"content": text}, "logprobs": {"content": tokens}, "finish_reason": reason}]
    }


def test_doubt_is_that_of_the_greedy_token_and_its_runner_up() -> None:
    first = told("re", -0.5, -0.5, -1.5, -3.0)
    answer, vocabulary = written(
        chunk("re", first), chunk("d", told("d", 0.0, 0.0, -20.0), reason="length"), likeliest=2
    )
    look = answer.look(Policy(0.5))
    assert (look.text, vocabulary.texts(look.token_ids)) == ("red", ["re", "d"])
    assert look.uncertainty == pytest.approx(0.25)
    assert look.tokens[0].margin == pytest.approx(1 - (math.exp(-0.5) - math.exp(-1.5)))
    assert all(math.isnan(token.shannon_entropy) for token in look.tokens)
    assert [(vocabulary.texts([token])[0], value) for token, value in look.likeliest[0]] == [
        ("re0", -0.5),
        ("re1", -1.5),
    ]
    assert not look.ended


@pytest.mark.parametrize(
    ("chunks", "ends"),
    [
        ([chunk("12", told("12", -0.1)), chunk("", told("</s>", -0.1), reason="stop")], [False, True]),
        ([chunk("12", told("12", -0.1), told("</s>", -0.1), reason="stop")], [False, True]),
        ([chunk("12", told("12", -0.1), told("", -0.1), reason="stop")], [False, True]),
        ([chunk("12", told("12", -0.1), told("</s>", -0.1)), chunk("", reason="stop")], [False, True]),
        ([chunk("12", told("1", -0.1), told("2", -0.1)), chunk("", reason="stop")], [False, False]),
        ([chunk("red", told("▁re", -0.1), told("d", -0.1), reason="stop")], [False, False]),
        ([chunk("a b", told("a", -0.1), told("Ġb", -0.1), reason="stop")], [False, False]),
        ([chunk("é", told("\ufffd", -0.1), told("\ufffd", -0.1), reason="stop")], [False, False]),
        ([chunk("", told("</s>", -0.1), reason="stop")], [True]),
    ],
)
def test_the_end_token_is_told_by_some_servers_and_by_others_not(
    chunks: list[dict[str, Any]], ends: list[bool]
) -> None:
    look = written(*chunks)[0].look(Policy(0.5))
    assert [token.is_eos for token in look.tokens] == ends
    assert look.ended


def test_an_answer_without_logprobs_or_without_a_token_is_the_upstreams_fault() -> None:
    with pytest.raises(UpstreamError, match=r"upstream\.example gave no logprobs"):
        written({"choices": [{"delta": {"content": "12"}, "logprobs": None}]})
    with pytest.raises(UpstreamError, match=r"upstream\.example gave an answer without a token"):
        written({"choices": [{"delta": {}, "finish_reason": "stop"}]})[0].look(Policy(0.5))


@given(st.lists(st.binary(max_size=5), max_size=30).map(lambda parts: [p.replace(b"\n", b"") for p in parts]))
def test_events_are_the_same_however_they_are_cut(parts: list[bytes]) -> None:
    whole = b"".join(b"data: " + part.strip() + b"\r\n\r\n: kept alive\n" for part in parts)

    async def read(size: int) -> list[bytes]:
        async def cut() -> AsyncIterator[bytes]:
            for at in range(0, len(whole), size):
                yield whole[at : at + size]

        return [data async for data in events(cut(), 10_000)]

    expected = [part.strip() for part in parts]
    assert all(asyncio.run(read(size)) == expected for size in (1, 7, 1000))


async def waits(_stages: Stages) -> None:
    await asyncio.Event().wait()


async def ends(_stages: Stages) -> str:
    return "ended"


async def nothing() -> None:
    pass


def test_looks_that_are_cancelled_before_or_after_they_begin_are_gone() -> None:
    rounds = Rounds(slots=2)
    begun, waiting = rounds.start(waits), rounds.start(waits)
    rounds.wake()
    assert rounds.round()  # it returned, though nothing ended
    unbegun, answered = rounds.start(ends), rounds.start(ends)
    rounds.cancel(unbegun)
    rounds.cancel(begun)
    while len(rounds) > 1:
        rounds.round()
    assert begun.future.cancelled()
    assert unbegun.future.cancelled()
    assert answered.future.result(0) == "ended"
    rounds.close(nothing())
    assert waiting.future.cancelled()
    rounds.wake()  # of use to nobody any more, and no error


def test_more_looks_than_slots_wait_for_their_turn() -> None:
    rounds, running, most = Rounds(slots=2), [0], [0]

    async def counts(_stages: Stages) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.001)
        running[0] -= 1

    looks = [rounds.start(counts) for _ in range(7)]
    while rounds.round():
        pass
    assert most == [2]
    assert all(look.future.result(0) is None for look in looks)
    assert not rounds.round()
    rounds.close(nothing())


def test_a_round_that_waits_returns_when_another_thread_wakes_it() -> None:
    rounds = Rounds(slots=1)
    look = rounds.start(waits)
    rounds.wake()
    assert rounds.round()
    thread = threading.Timer(0.05, rounds.wake)
    thread.start()
    assert rounds.round()
    thread.join()
    assert not look.future.done()
    rounds.close(nothing())
