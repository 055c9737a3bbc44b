"""OpenAI's interface over the embedded model: answers, both looks, tools, streams and kept pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from engine.chats import (
    PATH,
    SURE,
    UNSURE,
    ZOOM_TOOL,
    about,
    assert_chat_error,
    body,
    chat,
    data_url,
    events,
    image_part,
    recorded,
    sign,
    streamed,
    text_of,
    user,
    zoomed,
)
from engine.serving_harness import SECONDS, listening
from secondlook.edge import AnswerOptions, EdgeClient, open_picture
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model("demo"))


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with listening(create_app(engine)) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=SECONDS) as client:
        yield client


@pytest.mark.parametrize(
    ("index", "decision", "looks"), [(SURE, "sure", 1), (UNSURE, "took_second", 2)], ids=["sure", "unsure"]
)
def test_a_plain_client_gets_the_right_answer(
    client: httpx.Client, index: int, decision: str, looks: int
) -> None:
    drawn = sign(index)
    reply = chat(client, about(drawn, model="demo", max_tokens=16))
    choice, extension, usage = reply["choices"][0], reply["secondlook"], reply["usage"]
    assert choice["message"] == {"role": "assistant", "content": drawn.answer, "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"], choice["index"]) == ("stop", None, 0)
    assert (reply["object"], reply["model"]) == ("chat.completion", "demo")
    assert extension["decision"] == decision
    assert extension["bytes"] == len(drawn.jpeg)
    assert (extension["second"] is None) == (looks == 1)
    told = [extension["first"], extension["second"]][:looks]
    assert usage["completion_tokens"] == sum(look["tokens"] for look in told)
    assert usage["prompt_tokens_details"]["image_tokens"] == sum(look["visual_tokens"] for look in told)
    assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["image_tokens"]
    # The second look goes on from the first; who asks again about the picture, from the start.
    assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) >= (looks == 2)
    cached = chat(client, about(drawn))["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= looks * told[0]["visual_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("index", range(4))
def test_both_looks_are_the_engines_own_of_pictures_that_were_not_compressed(
    client: httpx.Client, engine: Engine, index: int
) -> None:
    drawn = sign(index)
    found = chat(client, about(drawn))["secondlook"]
    picture = open_picture(drawn.jpeg)
    other = Engine(engine.model)
    first = other.first_look(picture.shrunk(other.card.global_view), drawn.question, picture.size)
    assert found["first"]["text"] == first.text
    assert found["first"]["uncertainty"] == pytest.approx(first.uncertainty, abs=1e-4)
    if first.pending is not None:
        local = picture.closer(first.pending.region, other.card.local_view)
        both = other.second_look(first.pending, local)
        assert found["second"]["text"] == both.second.text
        assert found["second"]["uncertainty"] == pytest.approx(both.second.uncertainty, abs=1e-4)
        assert found["decision"] == both.decision


@pytest.mark.parametrize("index", range(4))
def test_pictures_made_as_an_edge_makes_them_get_the_edges_answers_and_doubts(
    client: httpx.Client, address: str, engine: Engine, index: int
) -> None:
    drawn, agent = sign(index), {"tools": [ZOOM_TOOL]}
    card = engine.card
    with EdgeClient(address) as edge:
        answer = edge.ask(drawn.jpeg, drawn.question, AnswerOptions(second_look="always"))
    picture = open_picture(drawn.jpeg)
    original = {"width": picture.size.width, "height": picture.size.height}
    asked = user(drawn.question, image_part(picture.global_image(card.global_view).jpeg))
    extension = {"original": original, "second_look": "always"}
    message, call = zoomed(client, body(asked, secondlook=extension, **agent))
    assert answer.region is not None
    sent = picture.local_image(answer.region, card.local_view).jpeg
    tool = {"role": "tool", "tool_call_id": call["id"], "content": [image_part(sent)]}
    found = chat(client, body(asked, message, tool, **agent))["secondlook"]
    assert found["region"] == {
        name: getattr(answer.region, name) for name in ("left", "top", "right", "bottom")
    }
    assert found["first"]["text"] == answer.first.text
    assert found["first"]["uncertainty"] == pytest.approx(answer.first.uncertainty, abs=1e-4)
    assert answer.second is not None
    assert found["second"]["text"] == answer.second.text
    assert found["second"]["uncertainty"] == pytest.approx(answer.second.uncertainty, abs=1e-4)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_taken(client: httpx.Client, kind: str) -> None:
    drawn = sign()
    with Image.open(io.BytesIO(drawn.jpeg)) as image:
        lossless = io.BytesIO()
        image.resize((600, 600)).save(lossless, kind, lossless=True)
    url = data_url(lossless.getvalue(), f"image/{kind.lower()}")
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    reply = chat(client, body(user(drawn.question, part)))
    assert reply["choices"][0]["message"]["content"]
    assert reply["secondlook"]["bytes"] == len(lossless.getvalue())


def test_options_travel_in_the_extension(client: httpx.Client) -> None:
    drawn = sign()
    never = chat(client, about(drawn, secondlook={"second_look": "never", "relevance": True}))["secondlook"]
    assert (never["decision"], never["second"]) == ("disabled", None)
    assert set(never["relevance"]) == {"width", "height", "data"}
    sure = chat(client, about(drawn, secondlook={"threshold": 100.0}))["secondlook"]
    assert sure["decision"] == "sure"
    margin = chat(client, about(sign(SURE), secondlook={"measure": "margin", "threshold": 0.9}))["secondlook"]
    assert margin["uncertainty"] < 0.9
    box = {"left": 0, "top": 1200, "right": 500, "bottom": 1700}
    given = chat(client, about(drawn, secondlook={"region": box, "second_look": "always"}))["secondlook"]
    assert given["region"] == box


@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_logprobs_are_those_of_the_answer_that_stands(client: httpx.Client, index: int) -> None:
    reply = chat(client, about(sign(index), logprobs=True, top_logprobs=3))
    content = reply["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == reply["choices"][0]["message"]["content"]
    for token in content:
        assert bytes(token["bytes"]).decode() == token["token"]
        likeliest = token["top_logprobs"]
        assert len(likeliest) == 3
        assert likeliest[0]["token"] == token["token"]
        assert likeliest[0]["logprob"] == pytest.approx(token["logprob"], abs=1e-4)
        values = [other["logprob"] for other in likeliest]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6
    # The doubt counts the end token too, which is no token of the text.
    stands = reply["secondlook"]["second"] or reply["secondlook"]["first"]
    told = -sum(token["logprob"] for token in content) / stands["tokens"]
    assert 0 <= stands["uncertainty"] - told < 0.1
    plain = chat(client, about(sign(index), logprobs=True))["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in plain] == [[], []]


def test_the_length_of_answers(client: httpx.Client) -> None:
    drawn = sign(SURE)
    cut = chat(client, about(drawn, max_completion_tokens=1, max_tokens=8))
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 1
    generous = chat(client, about(drawn, max_tokens=100_000))
    assert generous["choices"][0]["message"]["content"] == drawn.answer
    never = {"second_look": "never"}
    whole = chat(client, about(drawn, max_tokens=9, ignore_eos=True, secondlook=never))
    assert (whole["usage"]["completion_tokens"], whole["choices"][0]["finish_reason"]) == (9, "length")
    least = chat(client, about(drawn, max_tokens=9, min_tokens=5, secondlook=never))
    assert 5 < least["usage"]["completion_tokens"] <= 9
    assert whole["choices"][0]["message"]["content"].startswith(drawn.answer)


# Streams


@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_a_stream_tells_the_same(client: httpx.Client, index: int) -> None:
    drawn = sign(index)
    whole = chat(client, about(drawn, logprobs=True))
    chunks = streamed(client, about(drawn, logprobs=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == drawn.answer
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-2]["secondlook"]["decision"] == whole["secondlook"]["decision"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    told = [
        token
        for chunk in chunks
        for choice in chunk["choices"]
        for token in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert [token["token"] for token in told] == list(drawn.answer)


def test_tokens_that_stand_come_one_by_one_and_others_whole(client: httpx.Client) -> None:
    drawn, long = sign(UNSURE), {"max_tokens": 12, "ignore_eos": True}
    usage = {"include_usage": True, "continuous_usage_stats": True}
    never = streamed(client, about(drawn, **long, secondlook={"second_look": "never"}, stream_options=usage))
    contents = [chunk for chunk in never if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    assert len(contents) > 6
    counts = [chunk["usage"]["completion_tokens"] for chunk in contents]
    assert counts == sorted(set(counts))
    assert never[-1]["usage"]["completion_tokens"] == 12
    replaced = streamed(client, about(drawn, **long, secondlook={"second_look": "always"}))
    assert sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in replaced) == 1
    always = {"second_look": "always", "arbitration": False}
    second = streamed(client, about(drawn, **long, secondlook=always))
    assert sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in second) > 6
    decided = streamed(client, about(drawn, **long, secondlook={"threshold": 100.0, "decide_after": 3}))
    assert sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in decided) > 6
    assert text_of(decided) == text_of(never)


def test_what_fails_before_the_first_token_is_an_error_and_no_stream(client: httpx.Client) -> None:
    response = client.post(PATH, json=body(user("Lo"), stream=True))
    assert_chat_error(response, 400, "image_required")


# Recorded requests


@pytest.mark.parametrize(
    "client_name",
    ["openai", "litellm", "langchain", "langchain_tools", "aiperf_plain", "aiperf_stream", "guidellm"],
)
def test_recorded_requests_are_answered(client: httpx.Client, client_name: str) -> None:
    requests = recorded(client_name)
    assert requests
    for request in requests:
        response = client.request(
            request["method"], request["path"], headers=request["headers"], json=request["body"]
        )
        if request["path"] == "/v1/responses":
            assert_chat_error(response, 404, "not_found", "/v1/responses")
            continue
        assert response.status_code == 200, response.text
        if request["body"] is None:
            continue
        streams = request["body"].get("stream")
        told = events(response.text) if streams else [response.json()]
        asked = request["body"]
        if not streams and len(asked["messages"]) == 1 and "tools" in asked:
            assert told[0]["choices"][0]["finish_reason"] == "tool_calls"
        if asked.get("ignore_eos"):
            # Of both looks.
            assert told[-1]["usage"]["completion_tokens"] == 2 * asked["max_completion_tokens"]
            assert all("usage" in chunk for chunk in told[1:])


def test_aiperfs_probe_is_told_that_there_is_no_picture(client: httpx.Client) -> None:
    (probe,) = recorded("aiperf")
    response = client.post(probe["path"], headers=probe["headers"], json=probe["body"])
    error = assert_chat_error(response, 400, "image_required", "one picture; send an image_url part")
    assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
