"""What the tests of OpenAI's interface share: drawn signs, conversations about them, recorded requests."""

from __future__ import annotations

import base64
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from PIL import Image

from engine.fake_engine import jpeg
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import all_questions

PATH = "/v1/chat/completions"

RECORDED = Path(__file__).with_name("recorded_requests.jsonl")
"""Of real clients (openai 3.57.0, litellm 1.110.2, langchain-openai, aiperf 0.13.0, guidellm 0.8.1); of each
picture nothing but a name is left, in angle brackets."""

ZOOM_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "image_zoom_in_tool",
        "description": "Zoom in on a region of an image",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                "label": {"type": "string"},
                "img_idx": {"type": "number"},
            },
            "required": ["bbox_2d", "label", "img_idx"],
        },
    },
}


class DrawnSign(NamedTuple):
    """A drawn picture and a question about one of its signs."""

    jpeg: bytes
    question: str
    answer: str


UNSURE, SURE = 0, 1
"""Pictures of the test split, seed 1, whose first look is unsure, or sure, of the first sign."""


@cache
def sign(index: int = UNSURE) -> DrawnSign:
    picture = SignsPicture("test", 1, index)
    asked = all_questions(picture.scene)["read"][0]
    return DrawnSign(picture.read(), asked.text, asked.answer)


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes | None, **fields: Any) -> dict[str, Any]:
    url = None if data is None else {"url": data_url(data)}
    return {"type": "image_url", "image_url": url, **fields}


def user(text: str | None, *pictures: dict[str, Any]) -> dict[str, Any]:
    texts = [] if text is None else [{"type": "text", "text": text}]
    return {"role": "user", "content": [*texts, *pictures]}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def about(drawn: DrawnSign, **fields: Any) -> dict[str, Any]:
    """A plain question about a drawn picture."""
    return body(user(drawn.question, image_part(drawn.jpeg)), **fields)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def cropped(jpeg: bytes, box: list[float]) -> Image.Image:
    """What the zoom tool of an agent cuts: a box in thousandths of the picture."""
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
        left, top, right, bottom = (edge / 1000 for edge in box)
        return image.crop(
            (round(left * width), round(top * height), round(right * width), round(bottom * height))
        )


def events(text: str) -> list[dict[str, Any]]:
    """What a stream told, which ended as it should."""
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def recorded(client: str) -> list[dict[str, Any]]:
    """A client's requests, with drawn pictures where their own were."""
    found = []
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        if request["client"] == client:
            whole = base64.b64encode(sign().jpeg).decode()
            request["body"] = json.loads(re.sub(r"<\w{8}>", whole, json.dumps(request["body"])))
            found.append(request)
    return found


def assert_chat_error(response: httpx.Response, status: int, code: str, text: str = "") -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert text in error["message"], error
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error


def chat(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    response = client.post(PATH, json=request)
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    return answered


def zoomed(client: httpx.Client, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reply that calls the zoom tool, and the call."""
    reply = chat(client, request)
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    return choice["message"], call


def box_of(call: dict[str, Any]) -> list[float]:
    found: list[float] = json.loads(call["function"]["arguments"])["bbox_2d"]
    return found


def streamed(client: httpx.Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post(PATH, json={**request, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events(response.text)


def text_of(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def asked(question: str = "sure", picture: bytes | None = None, **fields: Any) -> dict[str, Any]:
    return body(user(question, image_part(picture or jpeg(400, 300))), **fields)


async def zoom_called(client: httpx.AsyncClient, question: str = "unsure") -> str:
    """The id of a call of the zoom tool."""
    reply = (await client.post(PATH, json=asked(question, tools=[ZOOM_TOOL]))).json()
    identity: str = reply["choices"][0]["message"]["tool_calls"][0]["id"]
    return identity


def closer(call: str) -> dict[str, Any]:
    calls = [{"id": call, "function": {"name": "image_zoom_in_tool", "arguments": "{}"}}]
    tool = {"role": "tool", "tool_call_id": call, "content": [image_part(jpeg(96, 64))]}
    return body(user("Q", image_part(None, uuid="gone")), {"role": "assistant", "tool_calls": calls}, tool)
