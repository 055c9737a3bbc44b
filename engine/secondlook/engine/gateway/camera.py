"""A camera for whoever stands beside it: its newest frame, held so that all that is seen is one picture.

A frame is held until there are too many, they have too many bytes, or it is too old; and as long as it is in
use.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import PositiveFloat, PositiveInt

from secondlook.edge.errors import NoFrameError, PictureError, SourceError
from secondlook.edge.frames import Frame, Source
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import LOCAL_JPEG, Picture, PictureLimits
from secondlook.edge.sources import open_source, source_name
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fixed, View
from secondlook.engine.errors import QueueFullError, UnknownFrameError

__all__ = ["Camera", "HeldFrame", "HoldLimits", "in_thread"]

ResultT = TypeVar("ResultT")

_FRESH_SECONDS: Final = 10.0
"""How old the newest frame may be: a camera that has given none for longer is lost."""

_WAIT_SECONDS: Final = 1.0
"""How long a frame is waited for that is newer than the last one."""

_OPENING_SECONDS: Final = 20.0
"""How long whoever asks waits for a camera that is being opened; it goes on for the next one."""


@validated(frozen=True)
class HoldLimits:
    """How many frames are held that nobody uses, how many bytes all frames have, and for how many seconds one
    is held; the newest in any case."""

    most: PositiveInt = 256
    bytes: PositiveInt = 64 * 2**20
    seconds: PositiveFloat = 30.0


@dataclass(eq=False)
class HeldFrame:
    """A frame that is held.

    Attributes:
        id: names it, and none of another gateway, or of this one before it was started again.
        captured: on the scale of `time.monotonic`.
        nbytes: that it keeps in memory.
    """

    captured: float
    _picture: Picture
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    users: int = 0

    def __post_init__(self) -> None:
        self._jpeg = self._picture.upright_jpeg
        self.nbytes, self.size = self._picture.held_bytes, self._picture.size

    @property
    def age(self) -> float:
        """Seconds since it was captured."""
        return time.monotonic() - self.captured

    def picture(self) -> Picture:
        """For one question, or one crop: one that is used may keep what it decodes, and is not for two."""
        return self._picture.again()

    def jpeg(self, region: Region | None = None) -> bytes:
        """The whole as the camera sent it, where it sent an upright JPEG; else compressed, as a region is.

        Raises:
            GeometryError: the region reaches outside.
            NotAPictureError: the picture is damaged.
        """
        if region is None and self._jpeg is not None:
            return self._jpeg
        region = region or Region(0, 0, self.size.width, self.size.height)
        as_it_is = View(size=Fixed(width=region.width, height=region.height))
        return self.picture().local_image(region, as_it_is, LOCAL_JPEG).jpeg


class Camera:
    """A camera, opened when its first frame is wanted, and its frames that are held. For one event loop.

    Args:
        address: see `secondlook.edge.open_source`; a camera's password is in no message and no log.

    Attributes:
        name: fit to be shown.

    Raises:
        SourceError: the address is none, or what it takes is not installed.
    """

    def __init__(
        self, address: str, hold: HoldLimits | None = None, limits: PictureLimits | None = None
    ) -> None:
        self.name, self._address = source_name(address), address
        self._hold, self._limits = hold or HoldLimits(), limits or PictureLimits()
        self._source: Source | None = None
        self._taking: asyncio.Task[HeldFrame] | None = None
        self._held: dict[str, HeldFrame] = {}
        self._newest: HeldFrame | None = None
        self._closed = False

    async def newest(self) -> HeldFrame:
        """The newest frame; of several who ask while it is on its way, all get the same.

        Raises:
            SourceError: there is none, or the newest is too old.
            PictureTooLargeError: it is above a limit.
            QueueFullError: the frames in use leave no room for it.
        """
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take())
            self._taking.add_done_callback(lambda task: task.cancelled() or task.exception())  # if none waits
        try:
            return await asyncio.wait_for(asyncio.shield(self._taking), _OPENING_SECONDS)
        except asyncio.TimeoutError:
            raise NoFrameError(f"the camera has given no frame within {_OPENING_SECONDS:g} s") from None

    def held(self, name: str) -> HeldFrame:
        """
        Raises:
            UnknownFrameError: there is no such frame any more.
        """
        self._give_up()
        if name not in self._held:
            raise UnknownFrameError(
                f"the frame {name[:40]!r} is not held: one is given up after {self._hold.seconds:g} s, or "
                "for newer ones; ask for the newest"
            )
        return self._held[name]

    @contextmanager
    def using(self, frame: HeldFrame) -> Iterator[HeldFrame]:
        """A frame that is not given up meanwhile."""
        frame.users += 1
        try:
            yield frame
        finally:
            frame.users -= 1
            self._give_up()

    async def close(self) -> None:
        """Let go of the camera and of all frames."""
        self._closed = True
        self._let_go()
        if self._taking is not None:
            await asyncio.wait({self._taking}, timeout=_WAIT_SECONDS)
            self._taking.cancel()
        self._held.clear()

    async def _take(self) -> HeldFrame:
        frame = await in_thread(self._read)
        if frame is None:
            assert self._newest is not None, "then there would be a reason"
            return self._newest
        held = HeldFrame(frame.captured, frame.picture)
        used = sum(each.nbytes for each in self._held.values() if each.users)
        if used and used + held.nbytes > self._hold.bytes:
            raise QueueFullError(
                f"the frames that questions are being asked about have {used} bytes, and with one more would "
                f"have over {self._hold.bytes}; ask again later, or hold more (--hold-mb)",
                _WAIT_SECONDS,
            )
        self._held[held.id] = self._newest = held
        self._give_up()
        return held

    def _read(self) -> Frame | None:
        """The camera's next frame, in a thread; None: it has none yet, and the last one is new enough."""
        source = self._source = self._source or open_source(self._address, limits=self._limits)
        end = time.monotonic() + _FRESH_SECONDS
        while not self._closed:
            try:
                frame = source.newest(timeout=_WAIT_SECONDS)
            except NoFrameError:
                last = self._newest
                if last is not None and last.age < _FRESH_SECONDS:
                    return None
                if time.monotonic() > end:
                    raise
                continue
            except (SourceError, PictureError):
                self._let_go()  # the next one who asks has it opened anew
                raise
            if frame is None:
                break
            if time.monotonic() - frame.captured < _FRESH_SECONDS:
                return frame
        self._let_go()
        raise NoFrameError(f"{self.name} has ended")

    def _let_go(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _give_up(self) -> None:
        """Let go of the oldest that nobody uses, until all bounds hold; the newest stays."""
        unused = [each for each in self._held.values() if not each.users and each is not self._newest]
        total = sum(each.nbytes for each in self._held.values())
        for place, frame in enumerate(unused):
            above = total > self._hold.bytes or len(unused) - place > self._hold.most
            if above or frame.age > self._hold.seconds:
                del self._held[frame.id]
                total -= frame.nbytes


def in_thread(function: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
    """What a function returns, from a thread that no end waits for: a camera may be silent for long."""
    done = Future[ResultT]()

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001  - whatever it is, it is raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="camera", daemon=True).start()
    return asyncio.wrap_future(done)
