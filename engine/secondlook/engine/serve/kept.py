"""What is kept of a first look: for its second, while a session waits, and of one that had none."""

from __future__ import annotations

import copy
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from secondlook.engine.serve.observing import Observation
from secondlook.engine.serve.served import Served
from secondlook.engine.serve.worker import Submitted

if TYPE_CHECKING:
    from secondlook.engine.results import FirstLook, Pending

__all__ = ["KeptLook", "without_second"]


@dataclass(frozen=True)
class KeptLook:
    """What a session keeps: the second look's beginnings, and the first look, which may be going on still.

    Attributes:
        stands: what stands without a second look.
        nbytes: see `FirstLook.nbytes`.
        observed: the first look, as its observers see it.
    """

    pending: Pending
    submitted: Submitted[FirstLook]
    stands: Future[Served]
    nbytes: int
    observed: Observation


def without_second(stands: Future[Served], first: Future[FirstLook]) -> None:
    """Of the first look only its answer stays: no picture, no prefix, no map."""
    if first.cancelled():
        stands.cancel()
    elif (error := first.exception()) is not None:
        stands.set_exception(copy.copy(error))  # without its traceback, which holds the look's frames
    else:
        stands.set_result(Served(replace(first.result(), pending=None, maps=None, relevance=None)))
