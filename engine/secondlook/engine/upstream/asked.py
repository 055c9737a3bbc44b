"""What an upstream is asked: questions with their pictures as these are sent on, and the requests' bodies."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.jpeg import read_jpeg
from secondlook.edge.limits import PictureLimits
from secondlook.engine.results import LocalImage, Question
from secondlook.engine.upstream.answers import FEWEST_LIKELIEST
from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["AskedQuestion", "Bodies", "CloserImage", "data_url"]

_BOX_TOKENS = 128
"""Of an answer that is to be a box."""

_CLOSER = "A part of this picture, closer:"
"""Stands between the whole picture and its part."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AskedQuestion(Question):
    """A question with its picture.

    Attributes:
        url: the picture, as a `data:` URL.
        sent: its size.
    """

    url: str = field(repr=False)
    sent: Size

    @property
    def nbytes(self) -> int:
        """What the picture takes in memory."""
        return len(self.url)


@dataclass(frozen=True, eq=False)
class CloserImage(LocalImage):
    """A region's picture, as a `data:` URL."""

    url: str = field(repr=False)


def data_url(image: Image.Image, jpeg: bytes | None) -> str:
    """A picture, without loss: the JPEG that it came as, without its metadata, or a PNG."""
    if jpeg is not None:
        kind, data = "jpeg", read_jpeg(jpeg, PictureLimits(), "the JPEG").data
    else:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Bodies:
    """Bodies of requests for chat completions. Pictures come first, so that an upstream's cache has them for
    every question about them."""

    settings: UpstreamSettings
    model: str

    def first(self, asked: AskedQuestion) -> dict[str, Any]:
        """A question about a picture."""
        return self._answer(asked, [_picture(asked.url), _text(asked.text)])

    def second(self, asked: AskedQuestion, closer: CloserImage) -> dict[str, Any]:
        """The same about the picture and a part of it."""
        between, pictures = _text(_CLOSER), (_picture(asked.url), _picture(closer.url))
        return self._answer(asked, [pictures[0], between, pictures[1], _text(asked.text)])

    def box(self, asked: AskedQuestion) -> dict[str, Any]:
        """Where one must look to answer it."""
        text = self.settings.pointing.replace("{question}", asked.text)
        return self._body([_picture(asked.url), _text(text)], _BOX_TOKENS)

    def _answer(self, asked: AskedQuestion, content: list[dict[str, Any]]) -> dict[str, Any]:
        likeliest = max(FEWEST_LIKELIEST, asked.wanted.likeliest)
        least = {"min_tokens": asked.wanted.least} if asked.wanted.least else {}
        told = {"logprobs": True, "top_logprobs": likeliest}
        return self._body(content, asked.max_new_tokens) | told | least

    def _body(self, content: list[dict[str, Any]], most: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": most,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.settings.extra,
        }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}
