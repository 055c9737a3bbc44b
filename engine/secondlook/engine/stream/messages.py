"""Between what travels (`secondlook.edge.wire_stream`) and what a stream knows (`state`)."""

from __future__ import annotations

from typing import Literal

from secondlook.edge.geometry import Rectangle, Region, Size
from secondlook.edge.wire import Box
from secondlook.edge.wire_stream import FocusAt, FrameHeader, FrameReply, HistoryEntry
from secondlook.engine.stream.history import Entry
from secondlook.engine.stream.state import Focus, FrameInfo, Verdict

__all__ = ["box_of", "frame_info", "frame_reply"]


def frame_info(header: FrameHeader) -> FrameInfo:
    """
    Raises:
        GeometryError: the focus is empty.
    """
    window, focus = header.window, header.focus
    return FrameInfo(
        header.frame,
        header.captured,
        Size(header.width, header.height),
        None if window is None else Rectangle(window.left, window.top, window.right, window.bottom),
        None if focus is None else Region(focus.left, focus.top, focus.right, focus.bottom),
    )


def frame_reply(
    info: FrameInfo, status: Literal["answered", "held", "superseded"], verdict: Verdict
) -> FrameReply:
    """What holds for a frame, as its camera is told."""
    return FrameReply(
        frame=info.number,
        status=status,
        answer=verdict.text,
        source=verdict.source,
        uncertainty=verdict.uncertainty,
        context_uncertainty=verdict.context_uncertainty,
        history=None if verdict.entry is None else _history(verdict.entry, info),
        age=verdict.age,
        chance=verdict.chance,
        focus=None if verdict.focus is None else _focus(verdict.focus),
    )


def box_of(region: Region) -> Box:
    left, top, right, bottom = region.as_tuple()
    return Box(left=left, top=top, right=right, bottom=bottom)


def _history(entry: Entry, info: FrameInfo) -> HistoryEntry:
    return HistoryEntry(
        frame=entry.frame,
        by=entry.by,
        text=entry.text,
        uncertainty=entry.uncertainty,
        age=info.captured - entry.captured,
    )


def _focus(focus: Focus) -> FocusAt:
    return FocusAt(frame=focus.frame, region=box_of(focus.region))
