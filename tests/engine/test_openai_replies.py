"""Completions and their chunks, made of answers as they become longer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from engine.chats import events, user
from secondlook.edge.wire import LookSeconds
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.results import FirstLook, Look
from secondlook.engine.serve.openai.chat import Chatted
from secondlook.engine.serve.openai.messages import ChatRequest
from secondlook.engine.serve.openai.replies import Completion, event
from secondlook.engine.serve.served import Served

TEXTS = {1: "é", 2: "�", 3: "A", 4: "</s>"}


def texts(tokens: Sequence[int]) -> list[str]:
    return [TEXTS[token] for token in tokens]


def answer(text: str, *tokens: int, min_entropy: float = 0.5, likeliest: Any = ()) -> Look:
    told = [TokenStatistics(min_entropy, 0.5, 0.5, is_eos=token == 4) for token in tokens]
    return Look(text, tokens, tuple(told), 0.5, prompt_tokens=9, visual_tokens=4, likeliest=likeliest)


def chatted(look: Look) -> Chatted:
    found = FirstLook(look, "sure", None, None, None, LookSeconds())
    return Chatted(Served(found), None, "Q", None, 0, ())


def completion(**fields: Any) -> Completion:
    return Completion("demo", ChatRequest(messages=[user("Q")], **fields), texts)


def contents(told: list[dict[str, Any]]) -> list[str]:
    deltas = [choice["delta"] for chunk in told for choice in chunk["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


@pytest.mark.parametrize("logprobs", [False, True])
def test_an_answer_that_takes_letters_back_goes_on_with_the_tokens_that_follow(logprobs: bool) -> None:
    """Byte by byte: where the next is none of a character, HF's decoder breaks the one before it too."""
    made = completion(logprobs=logprobs)
    told = made.tokens_chunk(answer("é", 1))
    assert made.tokens_chunk(answer("���", 1, 2)) == ""
    assert made.tokens_chunk(answer("���A", 1, 2, 3)) == ""
    told += made.last_chunks(chatted(answer("���A", 1, 2, 3, 4)))
    chunks = events(told)
    assert contents(chunks) == ["é", "�A"]
    if logprobs:
        listed = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
        tokens = [token["token"] for one in listed if one for token in one["content"]]
        assert "".join(tokens) == "".join(contents(chunks))
    assert chunks[-1]["secondlook"]["first"]["text"] == "���A", "what stands is told whole"


def test_an_answer_that_only_becomes_longer_is_told_as_it_is() -> None:
    made = completion()
    told = made.tokens_chunk(answer("é", 1))
    assert made.tokens_chunk(answer("é", 1)) == ""
    told += made.last_chunks(chatted(answer("éAA", 1, 3, 3, 4)))
    assert contents(events(told)) == ["é", "AA"]


@pytest.mark.parametrize(
    ("options", "usual", "last"),
    [
        (None, [False] * 3, False),
        ({}, [False] * 3, False),
        ({"include_usage": False}, [False] * 3, False),
        ({"include_usage": True}, [None] * 3, True),
        ({"include_usage": True, "continuous_usage_stats": True}, [None, 1, 2], True),
        ({"continuous_usage_stats": True}, [False, 1, 2], False),
    ],
)
def test_every_chunk_but_the_last_has_no_usage_yet(options: Any, usual: list[Any], last: bool) -> None:
    made = completion(stream_options=options)
    told = made.first_chunk() + made.tokens_chunk(answer("A", 3))
    told += made.last_chunks(chatted(answer("A", 3, 4)))
    chunks = events(told)
    if last:
        total = chunks.pop()
        assert (total["choices"], total["usage"]["completion_tokens"]) == ([], 2)
    usages = [chunk.get("usage", False) for chunk in chunks]
    assert [usage["completion_tokens"] if usage else usage for usage in usages] == usual


def test_what_has_no_chance_is_still_json() -> None:
    nothing = float("-inf")
    look = answer("A", 3, min_entropy=-nothing, likeliest=(((3, -0.1), (1, nothing)),))
    whole = completion(logprobs=True, top_logprobs=2).whole(chatted(look))
    (token,) = json.loads(json.dumps(whole, allow_nan=False))["choices"][0]["logprobs"]["content"]
    assert (token["logprob"], token["top_logprobs"][1]["logprob"]) == (-9999.0, -9999.0)


def test_an_event_is_one_line_to_every_client() -> None:
    """Some split at what Unicode calls the end of a line."""
    text = "a\u2028b\u2029c\x85d\ne\x0bf é"
    (line,) = event({"text": text}).strip().splitlines()
    assert json.loads(line.removeprefix("data: "))["text"] == text
