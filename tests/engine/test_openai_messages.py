"""What is read of requests in OpenAI's format: what they ask, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.chats import ZOOM_TOOL, body, image_part, user
from secondlook.edge.geometry import Region, Size
from secondlook.engine.serve.openai.errors import ChatError
from secondlook.engine.serve.openai.messages import ChatRequest, ToolCall, read_request
from secondlook.engine.serve.openai.reading import (
    Conversation,
    read_conversation,
    region_of,
    zoom_arguments,
)

RED, BLUE, CROP = (image_part(name.encode(), uuid=name) for name in ("red", "blue", "crop"))
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def called(identity: str = "call_s1", name: str = "image_zoom_in_tool", **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"bbox_2d": [1, 2, 3, 4]}'}
    call = {"id": identity, "type": "function", "function": function}
    return {"role": "assistant", "content": "66", "tool_calls": [call], **fields}


def tool(*parts: dict[str, Any], identity: str = "call_s1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": list(parts) or "done"}


def both() -> dict[str, Any]:
    """A call of another tool, and one of the zoom tool."""
    calls = called("call_x", "search")["tool_calls"] + called()["tool_calls"]
    return {**called(), "tool_calls": calls}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def read(*messages: dict[str, Any]) -> Conversation:
    return read_conversation(read_request(json.dumps(body(*messages)).encode()).messages)


def refused(request: object) -> ChatError:
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    with pytest.raises(ChatError) as caught:
        read_conversation(read_request(raw).messages)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("messages", "question", "picture", "crop", "ignored"),
    [
        ([user("Q", RED)], "Q", "red", None, []),
        ([{"role": "user", "content": "Q"}], "Q", None, None, []),
        ([user("Q", RED, {"type": "text", "text": "R"})], "Q\nR", "red", None, []),
        ([SYSTEM, user("Q", RED)], "Q", "red", None, [0]),
        ([user("P", RED), said("1"), user("Q")], "Q", "red", None, [1]),
        ([user("P", RED), said("1"), user("Q", BLUE)], "Q", "blue", None, [0, 1]),
        ([user(None, RED), user("P", BLUE), said("1"), user("Q")], "Q", "blue", None, [0, 2]),
        ([user("Q", RED), called(), tool(CROP)], "Q", "red", "crop", []),
        ([user("Q", RED), called(), user(None, CROP)], "Q", "red", "crop", []),
        ([user("Q", RED), called(), tool(), user("See", CROP)], "Q", "red", "crop", []),
        ([user("Q", RED), called(), tool()], "Q", "red", "nothing", []),
        ([SYSTEM, user("P", BLUE), said("1"), user("Q"), called(), tool(CROP)], "Q", "blue", "crop", [0, 2]),
        # The call was not followed: it is a turn like any other.
        ([user("P", RED), called(), user("Q")], "Q", "red", None, [1]),
        # Crops of earlier turns are no originals.
        ([user("P", RED), called(), tool(CROP), said("2"), user("Q")], "Q", "red", None, [1, 2, 3]),
        (
            [user("P", RED), called(), tool(), user(None, CROP), said("2"), user("Q")],
            "Q",
            "red",
            None,
            [1, 2, 3, 4],
        ),
        # A picture that another tool brought is none of the region.
        ([user("Q", RED), both(), tool(BLUE, identity="call_x"), tool(CROP)], "Q", "red", "crop", []),
        ([user("Q", RED), both(), tool(BLUE, identity="call_x"), tool()], "Q", "red", "nothing", []),
        ([user("Q", RED), called(), {"role": "tool", "content": [CROP]}], "Q", "red", "crop", []),
        # Another tool's call.
        ([user("P", RED), called(name="search"), tool(), said("2"), user("Q")], "Q", "red", None, [1, 2, 3]),
    ],
)
def test_what_a_conversation_asks(
    messages: list[dict[str, Any]], question: str, picture: str | None, crop: str | None, ignored: list[int]
) -> None:
    found = read(*messages)
    assert found.question == question
    assert (found.picture.uuid if found.picture else None) == picture
    if crop is None:
        assert found.closer is None
    else:
        assert found.closer is not None
        assert found.closer.session == "s1"
        assert (found.closer.picture.uuid if found.closer.picture else "nothing") == crop
    assert found.ignored == tuple(f"messages.{at}" for at in ignored)


def test_boxes_are_fractions_in_thousandths_and_come_back_to_the_pixel() -> None:
    size, region = Size(1157, 1157), Region(771, 482, 963, 674)
    arguments = zoom_arguments(region, size, "What number is on the red sign?")
    assert json.loads(arguments) == {
        "bbox_2d": [666.379, 416.595, 832.325, 582.541],
        "label": "What number is on the red sign?",
        "img_idx": 0,
    }
    function = {"name": "image_zoom_in_tool", "arguments": arguments}
    call = ToolCall.model_validate({"id": "call_1", "function": function})
    assert region_of(call, size) == region


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "[]", "{}", '{"bbox_2d": 5}', '{"bbox_2d": [1, 2, 3]}', '{"bbox_2d": [5, 5, 5, 5]}'),
        '{"bbox_2d": ' + "[" * 100_000 + "]" * 100_000 + "}",
        *('{"bbox_2d": ["a", 2, 3, 4]}', '{"bbox_2d": [NaN, 2, 3, 4]}', '{"bbox_2d": [9, 1, 3, 4]}'),
    ],
)
def test_arguments_that_are_no_box_are_refused(arguments: str) -> None:
    function = {"name": "image_zoom_in_tool", "arguments": arguments}
    call = ToolCall.model_validate({"id": "call_1", "function": function})
    with pytest.raises(ChatError, match="no bbox_2d of four numbers"):
        region_of(call, Size(100, 100))


@pytest.mark.parametrize(
    ("messages", "code", "text"),
    [
        ([], "invalid_field", "messages"),
        ([said("Q")], "question_required", "the user's"),
        ([SYSTEM], "question_required", "the user's"),
        ([user("Q", RED), said("1")], "question_required", "the last message"),
        ([user("Q", RED, BLUE)], "too_many_images", "2 pictures"),
        ([user("Q", RED), called(), tool(CROP, CROP)], "too_many_images", "since the call"),
        ([user("Q", {"type": "input_audio", "input_audio": {}})], "unsupported_content", "input_audio"),
        ([{"role": "wizard", "content": "Q"}], "invalid_field", "role"),
        ([{"role": "user", "content": 5}], "invalid_field", "content"),
        (["Q"], "invalid_field", "messages.0"),
    ],
)
def test_conversations_without_one_question_are_refused(messages: list[Any], code: str, text: str) -> None:
    error = refused({"messages": messages})
    assert (error.code, error.status) == (code, 400)
    assert text in f"{error} {error.param}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"stop": ["\n"]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"min_tokens": 9, "max_tokens": 8}, None),
        ({"tool_choice": "perhaps"}, "tool_choice.literal['none','auto','required']"),
        ({"secondlook": {"treshold": 1}}, "secondlook.treshold"),
        ({"secondlook": {"threshold": "high"}}, "secondlook.threshold"),
        ({"secondlook": {"original": {"width": 0, "height": 5}}}, "secondlook.original.width"),
        ({"stream": "yes please"}, "stream"),
    ],
)
def test_fields_that_cannot_be_done_are_refused_by_name(fields: dict[str, Any], param: str | None) -> None:
    error = refused(body(user("Q", RED), **fields))
    assert error.param == param
    assert error.code in ("unsupported_value", "invalid_field")
    assert error.status == 400


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user("Q", RED), called(), tool(CROP, identity="call_s2")], "messages.2.tool_call_id"),
        ([user("Q", RED), called(), tool(identity="s1"), user(None, CROP)], "messages.2.tool_call_id"),
        ([user("Q", RED), called(), tool(CROP), tool(identity="call_s2")], "messages.3.tool_call_id"),
        ([user("Q", RED), said("1"), tool(CROP)], "messages.2.tool_call_id"),
    ],
)
def test_what_answers_a_call_that_was_not_made_is_refused(messages: list[Any], param: str) -> None:
    error = refused(body(*messages))
    assert (error.code, error.status, error.param) == ("invalid_field", 400, param)
    assert "but the calls of the assistant's last message are " in str(error)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": [0] * 50_000}, "messages.0: "),
        ({"messages": [{"role": "user", "content": [0] * 50_000}]}, "messages.0.content"),
        ({"messages": [user("Q")] * 2049}, "at most 2048 items"),
        ({"messages": [user("Q")], "tools": [0] * 50_000}, "tools.0: "),
        ({"messages": [user("Q")], "stop": [0] * 50_000}, "stop"),
        ({"messages": [user("Q")], "logit_bias": {str(at): "x" for at in range(50_000)}}, "logit_bias"),
        (
            {"messages": [user("Q")], "secondlook": {str(at): 0 for at in range(50_000)}},
            "thousands of places",
        ),
        ({"messages": [user("Q")], "secondlook": {"a" * 50_000: 0}}, "Extra inputs"),
        ({"messages": [user("Q")], "secondlook": {"a\nb\rc": 0}}, "secondlook.a b c: "),
    ],
)
def test_what_is_wrong_a_thousand_times_is_told_in_a_few_words(fields: dict[str, Any], text: str) -> None:
    error = refused(fields)
    assert text in str(error)
    assert len(str(error)) < 1000
    assert len(error.param or "") <= 100


def test_unknown_fields_are_named_as_far_as_there_is_room() -> None:
    fields = {f"{at}": 0 for at in range(5000)}
    request = read_request(json.dumps({**body(user("Q", RED)), "a" * 5000: 0, **fields}).encode())
    told = request.unknown()
    assert len(told) == 64
    assert told[0] == "a" * 100


@pytest.mark.parametrize("raw", [b"", b"{", b"5", b"[]", b"\xff", b'{"messages": NaN}'])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    assert refused(raw).code in ("invalid_json", "invalid_field")


def test_harmless_fields_are_taken_and_unknown_ones_named() -> None:
    fields = {"temperature": 1, "top_p": 0.9, "n": 1, "seed": 7, "user": "me", "stop": [], "stream": None}
    request = read_request(
        json.dumps(
            body(
                user("Q", {**RED, "cache_control": 1}),
                **fields,
                top_k=5,
                metadata={},
                response_format={"type": "text"},
                secondlook={"threshold": 1},
            )
        ).encode()
    )
    assert list(request.unknown()) == ["top_k", "metadata", "messages.content.cache_control"]
    assert request.secondlook is not None
    assert request.secondlook.options.threshold == 1


@pytest.mark.parametrize(
    ("choice", "zooms", "must"),
    [
        (None, True, False),
        ("auto", True, False),
        ("none", False, False),
        ("required", True, True),
        ({"type": "function", "function": {"name": "image_zoom_in_tool"}}, True, True),
        ({"type": "function", "function": {"name": "search"}}, False, False),
    ],
)
def test_when_the_zoom_tool_may_be_called(choice: Any, zooms: bool, must: bool) -> None:
    request = ChatRequest.model_validate(body(user("Q", RED), tools=[ZOOM_TOOL], tool_choice=choice))
    assert (request.zooms, request.must_zoom) == (zooms, must)
    assert not ChatRequest.model_validate(body(user("Q", RED), tool_choice=choice)).zooms
