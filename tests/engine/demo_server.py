"""A real server on the embedded model, and questions asked of it byte by byte."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from engine.serving_harness import SECONDS, SPOKEN, listening
from secondlook.benchmarks.signs.asked import asked_pictures
from secondlook.edge.geometry import Size, target
from secondlook.edge.wire import Answer, AnswerReply, ModelCard
from secondlook.engine import Engine, load_model
from secondlook.engine.embedded import DEMO
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings


@cache
def demo_model() -> VisionLanguageModel:
    return load_model(DEMO)


def demo_app(settings: ServerSettings | None = None, **choices: Any) -> FastAPI:
    return create_app(Engine(demo_model()), settings, **choices)


@contextmanager
def demo_server(settings: ServerSettings | None = None, **choices: Any) -> Iterator[httpx.Client]:
    """A client of a server of its own."""
    with listening(demo_app(settings, **choices)) as url, client_of(url) as client:
        yield client


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=SECONDS, headers=SPOKEN)


@cache
def signs(count: int) -> tuple[tuple[Image.Image, str], ...]:
    """Pictures of signs, each with a question."""
    pictures = islice(asked_pictures(), count)
    return tuple((Image.open(io.BytesIO(one.jpeg)).convert("RGB"), one.questions[0]) for one in pictures)


@dataclass
class Asked:
    """One question: its replies, and the bytes of the pictures that were sent for it."""

    first: AnswerReply
    bytes_first: int
    final: AnswerReply | None = None
    bytes_second: int = 0
    answers: list[Answer] = field(default_factory=list)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def ask_first(
    client: httpx.Client,
    picture: Image.Image,
    question: str,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> Asked:
    """The first look alone; a session may wait then."""
    card = ModelCard.model_validate_json(client.get("/v1/model").content)
    size = target(card.global_view, original := _size(picture))
    jpeg = encoded(picture.resize((size.width, size.height)))
    form = {"question": question, "width": original.width, "height": original.height}
    reply = client.post(
        "/v1/answers",
        data={**form, "options": json.dumps(options)},
        files={"image": ("global.jpg", jpeg, "image/jpeg")},
        headers=headers,
    )
    assert reply.status_code == 200, reply.text
    first = AnswerReply.model_validate_json(reply.content)
    return Asked(first, len(jpeg), answers=[first.answer])


def look_closer(
    client: httpx.Client, picture: Image.Image, asked: Asked, headers: dict[str, str] | None = None
) -> None:
    """The second look, for the session that waits."""
    assert asked.first.session is not None
    box = asked.first.region
    assert box is not None
    crop = picture.crop((box.left, box.top, box.right, box.bottom))
    card = ModelCard.model_validate_json(client.get("/v1/model").content)
    size = target(card.local_view, _size(crop))
    jpeg = encoded(crop.resize((size.width, size.height)))
    name = asked.first.session.id
    files = {"image": ("local.jpg", jpeg, "image/jpeg")}
    reply = client.post(f"/v1/answers/{name}/local", files=files, headers=headers)
    assert reply.status_code == 200, reply.text
    asked.final = AnswerReply.model_validate_json(reply.content)
    asked.bytes_second = len(jpeg)
    assert asked.final.second is not None
    asked.answers = [asked.final.first, asked.final.second]


def ask(client: httpx.Client, picture: Image.Image, question: str, **options: Any) -> Asked:
    """Both looks, if the server wants a second."""
    asked = ask_first(client, picture, question, **options)
    if asked.first.session is not None:
        look_closer(client, picture, asked)
    return asked


def _size(image: Image.Image) -> Size:
    return Size(*image.size)
