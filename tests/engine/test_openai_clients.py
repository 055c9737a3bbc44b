"""Real clients against a real server on the embedded model: what they ask is answered, by their own types."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from engine.chats import SURE, UNSURE, ZOOM_TOOL, cropped, encoded, image_part, sign, user
from engine.serving_harness import SECONDS, listening
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(create_app(Engine(load_model("demo")), ServerSettings())) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", timeout=SECONDS, max_retries=0) as client:
        yield client


def messages(index: int) -> Any:
    return [user(sign(index).question, image_part(sign(index).jpeg))]


@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_openai_asks(client: openai.OpenAI, index: int) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "secondlook"
    extension = {"secondlook": {"second_look": "auto"}}
    found = client.chat.completions.create(
        model="demo",
        messages=messages(index),
        max_tokens=16,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body=extension,
    )
    choice = found.choices[0]
    assert choice.message.content == sign(index).answer
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert [token.token for token in content] == list(sign(index).answer)
    assert all(math.exp(token.logprob) > 0.5 and len(token.top_logprobs) == 2 for token in content)
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert (found.model_extra or {})["secondlook"]["decision"] == ("sure" if index == SURE else "took_second")


@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_openai_streams(client: openai.OpenAI, index: int) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=messages(index), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == sign(index).answer
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_openai_zooms_in_itself(client: openai.OpenAI) -> None:
    drawn, tools = sign(UNSURE), [ZOOM_TOOL]
    conversation = messages(UNSURE)
    asked: Any = {"model": "demo", "tools": tools}
    first = client.chat.completions.create(messages=conversation, **asked).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls is not None
    (call,) = first.message.tool_calls
    assert call.type == "function"
    box = json.loads(call.function.arguments)["bbox_2d"]
    crop = image_part(encoded(cropped(drawn.jpeg, box)))
    conversation += [first.message, {"role": "tool", "tool_call_id": call.id, "content": [crop]}]
    second = client.chat.completions.create(messages=conversation, **asked).choices[0]
    assert (second.message.content, second.finish_reason) == (drawn.answer, "stop")


def test_openai_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o") as missing:
        client.chat.completions.create(model="gpt-4o", messages=messages(SURE))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match=r"temperature is 0\.7") as wrong:
        client.chat.completions.create(model="demo", messages=messages(SURE), temperature=0.7)
    assert (wrong.value.code, wrong.value.type) == ("unsupported_value", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="/v1/responses"):
        client.responses.create(model="demo", input="q")


def test_many_ask_at_once(address: str) -> None:
    async def scenario() -> None:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", timeout=SECONDS) as client:
            found = await asyncio.gather(
                *(
                    client.chat.completions.create(model="demo", messages=messages(index))
                    for index in (SURE, UNSURE) * 8
                )
            )
            answers = [one.choices[0].message.content for one in found]
            assert answers == [sign(SURE).answer, sign(UNSURE).answer] * 8

    asyncio.run(scenario())


def langchain(address: str) -> ChatOpenAI:
    return ChatOpenAI(model="demo", base_url=address, api_key=SecretStr("none"), timeout=SECONDS)


def human(index: int) -> HumanMessage:
    return HumanMessage(content=messages(index)[0]["content"])


@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_langchain_asks_and_streams(address: str, index: int) -> None:
    model = langchain(address)
    found = model.invoke([human(index)])
    assert found.content == sign(index).answer
    assert found.usage_metadata is not None
    assert found.usage_metadata["input_tokens"] > 100
    assert "".join(str(chunk.content) for chunk in model.stream([human(index)])) == sign(index).answer


def test_langchain_binds_the_tool(address: str) -> None:
    drawn = sign(UNSURE)

    @tool
    def image_zoom_in_tool(bbox_2d: list[float], label: str, img_idx: int = 0) -> list[dict[str, Any]]:
        """Zoom into a region of the picture."""
        return [image_part(encoded(cropped(drawn.jpeg, bbox_2d)))]

    model = langchain(address).bind_tools([image_zoom_in_tool])
    first = model.invoke([human(UNSURE)])
    (call,) = first.tool_calls
    seen = image_zoom_in_tool.invoke(call)
    assert isinstance(seen, ToolMessage)
    final = model.invoke([human(UNSURE), first, seen])
    assert (final.content, final.tool_calls) == (drawn.answer, [])


@pytest.mark.needs_litellm
@pytest.mark.parametrize("index", [SURE, UNSURE])
def test_litellm_asks_and_streams(address: str, index: int, tmp_path: Path) -> None:
    drawn, picture = sign(index), tmp_path / "picture.jpg"
    picture.write_bytes(drawn.jpeg)
    script = Path(__file__).with_name("litellm_client.py")
    command = [os.environ["SECONDLOOK_LITELLM_PYTHON"], str(script), address, str(picture), drawn.question]
    told = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    assert (told["whole"], told["streamed"], told["reason"]) == (drawn.answer, drawn.answer, "stop")
    assert told["logprobs"] == list(drawn.answer)
    assert told["completion_tokens"] == (3 if index == SURE else 6)


def test_a_picture_in_base64_is_as_openais_documents_show_it(client: openai.OpenAI) -> None:
    """https://platform.openai.com/docs/guides/images: `detail` and all."""
    url = f"data:image/jpeg;base64,{base64.b64encode(sign(SURE).jpeg).decode()}"
    found = client.chat.completions.create(
        model="demo",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": sign(SURE).question},
                    {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
                ],
            },
        ],
    )
    assert found.choices[0].message.content == sign(SURE).answer
