"""Pictures made ready for the model: on worker threads, in their clients' turns, within limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.imaging import PictureLimits, decode_jpeg
from secondlook.engine.serve.places import Place, Places

__all__ = ["FEW_BYTES", "Decoding", "Made", "most_bytes"]

ResultT = TypeVar("ResultT")

_DECODED_OVERSIZE = 4
"""A JPEG with more than this many times the pixels that are taken is refused before it is decoded."""

_BYTES_A_PIXEL = 8
"""Noise of the best quality takes some 5 bytes a pixel; a JPEG with more than these is no sensible one."""

FEW_BYTES = 65536
"""For a JPEG's headers, and again for a form's fields beside question and image."""


@dataclass(frozen=True)
class Made(Generic[ResultT]):
    """What was made of a picture: how long it waited for its turn, and how long that took."""

    prepared: ResultT
    queue_seconds: float
    decode_seconds: float


class Decoding:
    """The threads that pictures are decoded on, and their limits.

    Args:
        places: gives the turns.
        threads: pictures decoded at one time.
    """

    def __init__(self, places: Places, threads: int) -> None:
        self._places = places
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="secondlook-decode")

    async def jpeg(
        self, place: Place, jpeg: bytes, most: Size, prepare: Callable[[Image.Image], ResultT]
    ) -> Made[ResultT]:
        """What is made of a JPEG of about a size, when its turn has come; see `in_turn`.

        Raises:
            NotAPictureError, PictureTooLargeError: not one whole JPEG of about that size.
        """
        limits = PictureLimits(max_pixels=_DECODED_OVERSIZE * most.pixels, max_bytes=most_bytes(most.pixels))
        limits.check_bytes(len(jpeg), "the JPEG")  # before it waits
        return await self.in_turn(place, lambda: prepare(decode_jpeg(jpeg, limits)))

    async def in_turn(self, place: Place, make: Callable[[], ResultT]) -> Made[ResultT]:
        """What is made on one of the threads when a place's turn has come.

        Cancelled, nothing is made, or what was begun is of no use; the pictures' limits bound that.
        """
        queue_seconds = await self._places.turn(place)
        started = time.perf_counter()
        prepared = await self.run(make)
        self._places.decoded(place)
        return Made(prepared, queue_seconds, time.perf_counter() - started)

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """What `work` returns, on one of the threads, without a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Begin nothing more; what was begun is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def most_bytes(pixels: int) -> int:
    """What a sensible JPEG of so many pixels has at most."""
    return _BYTES_A_PIXEL * pixels + FEW_BYTES
