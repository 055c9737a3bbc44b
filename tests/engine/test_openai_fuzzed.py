"""Requests in OpenAI's format with anything in any place: answered or refused, never the server's fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.chats import PATH, ZOOM_TOOL, body, image_part, user
from engine.fake_engine import jpeg
from engine.serving_harness import served
from properties import examples

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "tool", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
VALID = {
    **body(
        user("sure", image_part(jpeg(), uuid="door")),
        {
            "role": "assistant",
            "content": "1",
            "tool_calls": [{"id": "call_1", "function": {"name": "image_zoom_in_tool", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [image_part(jpeg())]},
    ),
    "model": "fake",
    "max_tokens": 5,
    "temperature": 0,
    "n": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [ZOOM_TOOL],
    "tool_choice": "auto",
    "stream": False,
    "stream_options": {"include_usage": True},
    "secondlook": {"threshold": 1.0, "original": {"width": 40, "height": 30}},
}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that a JSON value has."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*way, key)
        yield from places(one, (*way, key))


@settings(deadline=None, max_examples=examples(300))
@given(st.sampled_from(sorted(places(VALID), key=str)), VALUES)
def test_whatever_a_field_holds_it_is_answered_or_refused(way: tuple[Any, ...], value: Any) -> None:
    request = copy.deepcopy(VALID)
    holder: Any = request
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = value
    raw = json.dumps(request).encode()

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, content=raw, headers={"content-type": "application/json"})
        assert response.status_code in (200, 400, 404, 410), response.text
        if response.status_code != 200:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    served(scenario)
