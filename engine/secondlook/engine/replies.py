"""What the engine found, as the messages that travel to the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secondlook.edge.geometry import Region
from secondlook.edge.wire import AnswerReply, Box, LookSeconds, PendingSession

if TYPE_CHECKING:
    from secondlook.engine.results import FinalAnswer, FirstLook

__all__ = ["final_reply", "first_reply"]


def first_reply(
    first: FirstLook,
    session: PendingSession | None,
    *,
    complete: bool = True,
    queue_seconds: float = 0.0,
    decode_seconds: float = 0.0,
) -> AnswerReply:
    """The reply to a first look: final without a `session`, else a request for its region.

    With a session the answer may be the beginning of one that is not `complete` yet.
    """
    assert (session is None) == (first.pending is None), (
        "a session is kept for what is pending, and nothing else"
    )
    answer = first.look.answer.model_copy(update={"complete": complete})
    return AnswerReply(
        status="final" if first.pending is None else "region",
        decision=first.decision,
        answer=answer,
        first=answer,
        region=None if first.pending is None else _box(first.pending.region),
        region_source=None if first.pending is None and first.source != "not_found" else first.source,
        session=session,
        relevance=first.relevance,
        seconds=_with_waiting(first.seconds, queue_seconds, decode_seconds),
    )


def final_reply(
    final: FinalAnswer, *, queue_seconds: float = 0.0, decode_seconds: float = 0.0
) -> AnswerReply:
    """The reply to a second look. Its seconds are those of the second look alone."""
    return AnswerReply(
        status="final",
        decision=final.decision,
        answer=final.look.answer,
        first=final.first.answer,
        second=final.second.answer,
        region=_box(final.region),
        region_source=final.source,
        seconds=_with_waiting(final.seconds, queue_seconds, decode_seconds),
    )


def _box(region: Region) -> Box:
    return Box(left=region.left, top=region.top, right=region.right, bottom=region.bottom)


def _with_waiting(seconds: LookSeconds, queue: float, decode_image: float) -> LookSeconds:
    return seconds.model_copy(update={"queue": seconds.queue + queue, "decode_image": decode_image})
