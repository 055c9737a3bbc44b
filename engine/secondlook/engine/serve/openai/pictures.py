"""The pictures of conversations: as they come, and as they are kept for later questions.

A picture is kept as it came, encoded; what is decoded lives only while something is made of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from secondlook.edge.imaging import Picture, open_picture
from secondlook.edge.limits import PictureLimits
from secondlook.engine.serve.openai.errors import ChatError
from secondlook.engine.serve.settings import PictureStoreLimits

__all__ = ["Encoded", "PictureStore", "from_data_url"]

_DATA: Final = re.compile(r"data:(?P<kind>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.IGNORECASE)
_KINDS: Final = frozenset(
    {"image/jpeg", "image/jpg", "image/png", "image/webp", "application/octet-stream", ""}
)
_FORMATS: Final = {b"\xff\xd8\xff": 0, b"\x89PNG\r\n\x1a\n": 0, b"WEBP": 8}
"""How JPEG, PNG and WebP begin, and where."""


@dataclass(frozen=True)
class Encoded:
    """An encoded picture.

    Attributes:
        name: by which later questions may mean it: the client's own, or of its bytes.
        where: the field that it came in, for errors.
    """

    data: bytes = field(repr=False)
    name: str
    where: str

    @classmethod
    def of(cls, data: bytes, uuid: str | None, where: str) -> Encoded:
        """Under the client's name, or one of its own."""
        return cls(data, uuid or f"img_{hashlib.sha256(data).hexdigest()[:32]}", where)

    def open(self, limits: PictureLimits) -> Picture:
        """
        Raises:
            ChatError: no JPEG, PNG or WebP within the limits.
        """
        if not any(self.data[at : at + len(sign)] == sign for sign, at in _FORMATS.items()):
            raise ChatError(
                "the picture is neither JPEG, PNG nor WebP", code="not_a_picture", param=self.where
            )
        return open_picture(self.data, limits)


def from_data_url(url: str, uuid: str | None, where: str) -> Encoded:
    """The picture that a `data:` URL is.

    Raises:
        ChatError: it is none of JPEG, PNG and WebP in base64.
    """
    header = _DATA.match(url)
    kind = header["kind"].strip().lower() if header else None
    if header is None or "base64" not in header["parameters"].lower().split(";"):
        raise ChatError(
            "the data: URL is not data:image/jpeg;base64,... (or image/png, image/webp)",
            code="invalid_image_url",
            param=where,
        )
    if kind not in _KINDS:
        raise ChatError(
            f"pictures of type {str(kind)[:100]!r} are not taken; send image/jpeg, image/png or image/webp",
            code="unsupported_image_type",
            param=where,
        )
    try:
        data = base64.b64decode(url[header.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChatError(
            f"the data: URL is no base64: {error}", code="invalid_image_url", param=where
        ) from error
    return Encoded.of(data, uuid, where)


class PictureStore:
    """Pictures that came, for later questions of the same client.

    Beyond a limit the oldest goes of the client that keeps most. Not thread-safe: the event loop's.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, limits: PictureStoreLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[Encoded, float]] = (
            OrderedDict()
        )  # the latest used last
        self._bytes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of all pictures."""
        return self._bytes.total()

    def keep(self, client: str, picture: Encoded) -> None:
        """Remember a client's picture by its name; one that is larger than all may be is not kept."""
        self._drop((client, picture.name))
        if len(picture.data) > self._limits.max_bytes:
            return
        self._kept[client, picture.name] = picture, self._clock() + self._limits.seconds
        self._bytes[client] += len(picture.data)
        self.purge()
        while len(self._kept) > self._limits.most:
            self._drop_of(Counter(client for client, _ in self._kept))
        while self.nbytes > self._limits.max_bytes:
            self._drop_of(self._bytes)

    def find(self, client: str, name: str, where: str) -> Encoded:
        """A client's picture, which from now on is its latest.

        Raises:
            ChatError: it never came, or was given up; the client should send it again.
        """
        self.purge()
        kept = self._kept.get((client, name))
        if kept is None:
            raise ChatError(
                f"there is no picture {name[:200]!r} of yours here, or no longer; send it again, as "
                "image_url with this uuid",
                code="image_not_found",
                param=where,
                status=404,
            )
        self._kept[client, name] = kept[0], self._clock() + self._limits.seconds
        self._kept.move_to_end((client, name))
        return replace(kept[0], where=where)

    def purge(self) -> None:
        """Give up what was not asked about for so long; used last, they lie in the order of their ends."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values()))[1] <= now:
            self._drop(next(iter(self._kept)))

    def _drop_of(self, held: Counter[str]) -> None:
        """Give up the oldest of who holds most."""
        most = max(held, key=held.__getitem__)
        self._drop(next(key for key in self._kept if key[0] == most))

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes[key[0]] -= len(kept[0].data)
            if not self._bytes[key[0]]:
                del self._bytes[key[0]]
