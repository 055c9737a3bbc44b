"""Pictures, and a server that answers from a script."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import httpx
from PIL import Image

from secondlook.edge.wire import Fit, Fixed, ModelCard, View

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def gradient(width: int, height: int) -> Image.Image:
    """An RGB picture in which every place has its own colour: red grows to the right, green downwards."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.new("L", (width, height), 77)))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(side: int, fit: Fit = "squash") -> View:
    return View(size=Fixed(width=side, height=side), fit=fit)


def card_of(side: int, fit: Fit = "squash") -> dict[str, Any]:
    view = square(side, fit)
    card = ModelCard(name="demo", global_view=view, local_view=view, crop_size=side, threshold=0.5)
    return card.model_dump(mode="json")


CARD = card_of(96)
FIRST = {"text": "17", "uncertainty": 1.25, "tokens": 3, "visual_tokens": 36}
SECOND = {"text": "71", "uncertainty": 0.25, "tokens": 3, "visual_tokens": 72}


def final(**changes: Any) -> dict[str, Any]:
    return {"status": "final", "decision": "sure", "answer": FIRST, "first": FIRST, **changes}


def wants_region(**changes: Any) -> dict[str, Any]:
    return {
        "status": "region",
        "decision": "unsure",
        "answer": FIRST,
        "first": FIRST,
        "region": {"left": 100, "top": 50, "right": 300, "bottom": 150},
        "session": {"id": "abc", "expires_in": 30.0},
        **changes,
    }


def refined(**changes: Any) -> dict[str, Any]:
    region = {"left": 100, "top": 50, "right": 300, "bottom": 150}
    return final(decision="took_second", answer=SECOND, second=SECOND, region=region, **changes)


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "some_error", "message": message}, headers=headers)


Step = httpx.Response | dict[str, Any] | type[httpx.RequestError]


@dataclass
class ScriptedServer:
    """Answers requests in turn from `steps`; an exception class stands for a connection that breaks so.

    Until `back_at` it answers `away` instead. By its `clock` a request takes a second, sleep its time.
    """

    steps: list[Step] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    away: Step = httpx.ConnectError
    back_at: float = 0

    def clock(self) -> float:
        return len(self.requests) + sum(self.slept)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert self.steps, f"unexpected {request.method} {request.url}"
        step = self.away if self.clock() < self.back_at else self.steps.pop(0)
        if isinstance(step, dict):
            return httpx.Response(200, json=step)
        if isinstance(step, type):
            raise step("it broke", request=request)
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]
