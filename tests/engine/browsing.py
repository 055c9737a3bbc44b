"""What the tests of the server's page share: the page in a browser, used as people do, and listened to."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, Request, ViewportSize

from engine.fake_engine import ORIGINAL
from engine.serving_harness import SECONDS

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
INSECURE = "insecure.test"
"""A name of this machine that is not trusted with a camera, as an address in a network is not."""

SWITCHES = (*CAMERA, f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1")
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


@contextmanager
def browsing(browser: Browser, url: str, *, refusals: bool = False, **context: Any) -> Iterator[Page]:
    """The page in a tab of its own, whose console stays quiet, and which asks nobody but its server.

    Args:
        refusals: whether the server is to refuse something, which browsers tell the console too.
    """
    said, asked = list[str](), set[str]()
    with browser.new_context(**{"viewport": DESKTOP, **context}) as tab:
        tab.set_default_timeout(1000 * SECONDS)
        page = tab.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(request.url))
        page.goto(url)
        yield page
    if refusals:
        said = [text for text in said if not text.startswith("Failed to load resource")]
    assert not said
    origin = "/".join(url.split("/")[:3])
    assert not {one for one in asked if not one.startswith((f"{origin}/", f"blob:{origin}/"))}


def choose(page: Page, data: bytes, name: str = "street.jpg", kind: str = "image/jpeg") -> None:
    page.get_by_label("Choose picture").set_input_files({"name": name, "mimeType": kind, "buffer": data})


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Ask").click()


def answered(page: Page) -> str:
    """What stands, when it does."""
    page.locator("#decision:not(:empty)").wait_for()
    return page.locator("#text").inner_text()


def trouble(page: Page) -> str:
    """What went wrong, in the page's words."""
    told = page.get_by_role("alert")
    told.wait_for()
    return told.inner_text()


def form(request: Request) -> dict[str, bytes]:
    """The parts of a request's body."""
    kind = request.all_headers()["content-type"].encode()
    parsed = BytesParser().parsebytes(
        b"Content-Type: " + kind + b"\r\n\r\n" + (request.post_data_buffer or b"")
    )
    parts = [part for part in parsed.walk() if not part.is_multipart()]
    found = {}
    for part in parts:
        name, payload = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(payload, bytes)
        found[name] = payload
    return found


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(width: int, height: int) -> Image.Image:
    """A picture that shows which way it is turned: four colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 200)
    pixels[height // 2 :, width // 2 :] = (230, 230, 60)
    return Image.fromarray(pixels)


PICTURE = encoded(quarters(ORIGINAL.width, ORIGINAL.height))
"""What fake engines are asked about."""


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
