"""Agents, and whoever asks again: the zoom tool, conversations, and pictures that are sent once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from engine.chats import (
    PATH,
    SURE,
    ZOOM_TOOL,
    about,
    assert_chat_error,
    body,
    box_of,
    chat,
    cropped,
    encoded,
    image_part,
    sign,
    streamed,
    user,
    zoomed,
)
from engine.serving_harness import SECONDS, listening
from secondlook.edge import open_picture
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


# The zoom tool


@pytest.mark.parametrize("role", ["tool", "user"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_agent_looks_closer_with_any_crop(client: httpx.Client, role: str, kind: str) -> None:
    drawn = sign()
    asked = user(drawn.question, image_part(drawn.jpeg))
    message, call = zoomed(client, body(asked, tools=[ZOOM_TOOL]))
    assert call["function"]["name"] == "image_zoom_in_tool"
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) == {"bbox_2d", "label", "img_idx"}
    assert all(0 <= edge <= 1000 for edge in arguments["bbox_2d"])
    # Some agents enlarge what they cut, some keep it.
    crop = encoded(cropped(drawn.jpeg, box_of(call)).resize((700, 500)), kind)
    came = {"role": "tool", "tool_call_id": call["id"], "content": "cropped"}
    rest = [came, user("Here it is", image_part(crop))]
    if role == "tool":
        rest = [{**came, "content": [image_part(crop)]}]
    reply = chat(client, body(asked, message, *rest, tools=[ZOOM_TOOL]))
    assert reply["choices"][0]["message"]["content"] == drawn.answer
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["secondlook"]["decision"] == "took_second"
    assert reply["secondlook"]["bytes"] == len(crop)


def test_a_sure_answer_calls_no_tool_unless_it_must(client: httpx.Client) -> None:
    drawn = sign(SURE)
    assert chat(client, about(drawn, tools=[ZOOM_TOOL]))["choices"][0]["finish_reason"] == "stop"
    named = {"type": "function", "function": {"name": "image_zoom_in_tool"}}
    for choice in ("required", named):
        reply = chat(client, about(drawn, tools=[ZOOM_TOOL], tool_choice=choice))
        assert reply["choices"][0]["finish_reason"] == "tool_calls"


def test_without_the_tool_or_a_choice_the_server_looks_closer_itself(client: httpx.Client) -> None:
    drawn = sign()
    other = {"type": "function", "function": {"name": "get_weather"}}
    for fields in ({"tools": [ZOOM_TOOL], "tool_choice": "none"}, {"tools": [other]}):
        reply = chat(client, about(drawn, **fields))
        assert reply["choices"][0]["message"]["content"] == drawn.answer


def test_a_call_streams_and_its_history_may_be_stripped(client: httpx.Client) -> None:
    drawn = sign()
    asked = user(drawn.question, image_part(drawn.jpeg, uuid="camera 7"))
    chunks = streamed(client, body(asked, tools=[ZOOM_TOOL]))
    (call,) = (
        called
        for chunk in chunks
        for choice in chunk["choices"]
        for called in choice["delta"].get("tool_calls") or ()
    )
    assert call["index"] == 0
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    crop = image_part(encoded(cropped(drawn.jpeg, box_of(call)), "JPEG"))
    history = [
        user(drawn.question, image_part(None, uuid="camera 7")),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": [crop]},
    ]
    first = chat(client, body(*history))
    assert first["choices"][0]["message"]["content"] == drawn.answer
    # A reply that was lost is told again; so is it when nothing but the call is left of the conversation.
    again = chat(client, body(*history))
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


def test_a_tool_that_brings_no_picture_leaves_the_first_answer(client: httpx.Client) -> None:
    drawn = sign()
    asked = user(drawn.question, image_part(drawn.jpeg))
    message, call = zoomed(client, body(asked, tools=[ZOOM_TOOL]))
    failed = {"role": "tool", "tool_call_id": call["id"], "content": "the camera is off"}
    reply = chat(client, body(asked, message, failed, tools=[ZOOM_TOOL]))
    assert reply["choices"][0]["message"]["content"] == message["content"]
    assert reply["secondlook"]["decision"] == "unsure"


@pytest.mark.parametrize("picture", ["whole", "global image", "global image, its original not told"])
def test_a_session_that_is_gone_is_answered_from_the_conversation(
    client: httpx.Client, engine: Engine, picture: str
) -> None:
    drawn = sign()
    opened = open_picture(drawn.jpeg)
    sent, extension = drawn.jpeg, {}
    if picture != "whole":
        sent = opened.global_image(engine.card.global_view).jpeg
        extension = {"original": {"width": opened.size.width, "height": opened.size.height}}
    asked = user(drawn.question, image_part(sent))
    message, call = zoomed(client, body(asked, tools=[ZOOM_TOOL], secondlook=extension))
    call["id"] = message["tool_calls"][0]["id"] = "call_another-servers"
    crop = encoded(cropped(drawn.jpeg, box_of(call)))
    tool = {"role": "tool", "tool_call_id": call["id"], "content": [image_part(crop)]}
    extension = {} if picture.endswith("not told") else extension
    reply = chat(client, body(asked, message, tool, tools=[ZOOM_TOOL], secondlook=extension))
    assert reply["choices"][0]["message"]["content"] == drawn.answer
    assert reply["secondlook"]["decision"] == "took_second"
    stripped = body(user(drawn.question, image_part(None, uuid="never sent")), message, tool)
    assert_chat_error(client.post(PATH, json=stripped), 410, "expired_session", "ask the question again")


def test_later_turns_ask_about_the_picture_of_earlier_ones(client: httpx.Client) -> None:
    drawn, other = sign(), sign(SURE)
    asked = user(drawn.question, image_part(drawn.jpeg))
    message, call = zoomed(client, body(asked, tools=[ZOOM_TOOL]))
    crop = image_part(encoded(cropped(drawn.jpeg, box_of(call))))
    told = [asked, message, {"role": "tool", "tool_call_id": call["id"], "content": [crop]}]
    told.append({"role": "assistant", "content": drawn.answer})
    again = chat(client, body(*told, user(drawn.question)))
    assert again["choices"][0]["message"]["content"] == drawn.answer
    assert again["secondlook"]["bytes"] == len(drawn.jpeg)
    assert again["secondlook"]["ignored"] == ["messages.1", "messages.2", "messages.3"]
    newer = chat(client, body(*told, user(other.question, image_part(other.jpeg))))
    assert newer["choices"][0]["message"]["content"] == other.answer


# Send once, ask many


@pytest.mark.parametrize("uuid", ["front door", None])
def test_a_picture_is_sent_once_and_asked_about_often(client: httpx.Client, uuid: str | None) -> None:
    drawn = sign()
    named = {} if uuid is None else {"uuid": uuid}
    first = chat(client, body(user(drawn.question, image_part(drawn.jpeg, **named))))
    image_id = first["secondlook"]["image_id"]
    assert uuid in (None, image_id)
    again = chat(client, body(user(drawn.question, image_part(None, uuid=image_id))))
    assert again["choices"][0]["message"]["content"] == drawn.answer
    assert again["secondlook"]["first"]["uncertainty"] == pytest.approx(
        first["secondlook"]["first"]["uncertainty"], abs=1e-4
    )
    assert again["secondlook"]["image_id"] == image_id
