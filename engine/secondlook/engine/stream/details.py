"""Details of key frames that a stream's cloud waits for, until the camera sends them with a later frame."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from secondlook.edge.wire_stream import Detail, Wanted
from secondlook.engine.errors import LostDetailError

__all__ = ["Details"]


@dataclass(eq=False)
class _Awaited:
    """Every reply tells it until it comes, for replies may be lost."""

    wanted: Wanted
    captured: float
    jpeg: asyncio.Future[bytes]


class Details:
    """One stream's; all of it belongs to one event loop.

    Args:
        seconds: that they are of use, from the capture of their frame on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._awaited: dict[Detail, _Awaited] = {}

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What the camera has not sent yet."""
        return tuple(each.wanted for each in self._awaited.values() if not each.jpeg.done())

    async def want(self, wanted: Wanted, captured: float) -> bytes:
        """The detail's JPEG, from the camera's next frames.

        Args:
            captured: seconds on the camera's clock, of the frame that it is of.

        Raises:
            LostDetailError: the camera has no such detail any more, or did not send it in time.
        """
        key = Detail(frame=wanted.frame, region=wanted.region)
        jpeg: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._awaited[key] = _Awaited(wanted, captured, jpeg)
        try:
            return await jpeg
        finally:
            self._awaited.pop(key, None)

    def take(self, detail: Detail, jpeg: bytes) -> None:
        """It came. One that nobody waits for is passed over."""
        known = self._awaited.get(detail)
        if known is not None and not known.jpeg.done():
            known.jpeg.set_result(jpeg)

    def miss(self, detail: Detail, why: str) -> None:
        """It will not come.

        Args:
            why: what the camera did; behind "the camera".
        """
        known = self._awaited.get(detail)
        if known is not None and not known.jpeg.done():
            known.jpeg.set_exception(LostDetailError(f"the camera {why}, of frame {detail.frame}"))

    def forget(self, captured: float) -> None:
        """Those that are of no use any more when a frame was captured then."""
        for detail, known in self._awaited.items():
            if captured - known.captured > self._seconds:
                self.miss(detail, "did not send the detail in time")
