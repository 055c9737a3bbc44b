"""What the tests of the gateway share: signs that a camera sees, and a gateway that listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
from PIL import Image

from engine.serving_harness import SECONDS, listening
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.render import render
from secondlook.edge.retry import ClientSettings
from secondlook.engine.gateway.camera import Camera, HoldLimits
from secondlook.engine.gateway.crops import CameraCrops
from secondlook.engine.serve.gateway import Gateway, create_gateway_app
from secondlook.engine.serve.settings import GatewaySettings

IMPATIENT = ClientSettings(wait_budget=0, retries=0)


@cache
def sight(number: int) -> Image.Image:
    """What the camera sees at a request: always another scene."""
    return render(SignsPicture("test", 7, number % 4).scene)


@contextmanager
def gateway(
    camera: str,
    server: str,
    hold: HoldLimits | None = None,
    crops: str | None = None,
    most: int = 8,
    settings: ClientSettings = IMPATIENT,
    bounds: GatewaySettings | None = None,
) -> Iterator[httpx.Client]:
    """One that listens, and its client."""
    opened = Gateway(
        Camera(camera, hold), server, settings, None if crops is None else CameraCrops(crops), most
    )
    with (
        listening(create_gateway_app(opened, bounds)) as url,
        httpx.Client(base_url=url, timeout=SECONDS) as client,
    ):
        yield client


def ask(client: httpx.Client, question: str, **more: Any) -> httpx.Response:
    return client.post("/v1/ask", json={"question": question, **more})
