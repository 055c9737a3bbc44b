"""Streams of questions drawn from a log, whose mix of easy and hard ones shifts.

A log's questions are put into two groups, and the share of the first group moves from phase to phase: by the
size of what is asked for, in relation to its picture (where boxes are known), by type of question, and by
picture size. Within a group questions are drawn at random, with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray, IntArray
from secondlook.benchmarks.records import Record

__all__ = ["Shift", "draw", "shifts_of"]

_SUDDEN: Final = (0.1, 0.8, 0.4, 0.9, 0.05)
_MILD: Final = (0.3, 0.5, 0.3, 0.5, 0.3)
_DRIFT: Final = (0.1, 0.5, 0.9, 0.5, 0.1)
_ALTERNATING: Final = (0.1, 0.8) * 10


@dataclass(frozen=True)
class Shift:
    """How a stream's mix moves.

    Attributes:
        inside, outside: the questions of the two groups, as places in the log.
        shares: of the group `inside`: in each phase, or, if it drifts, at points in between lies a line.
        phases: how long the stream is, in phases.
    """

    name: str
    inside: IntArray
    outside: IntArray
    shares: tuple[float, ...]
    drifts: bool = False
    phases: int = len(_SUDDEN)


def shifts_of(records: Sequence[Record]) -> list[Shift]:
    """Every shift that the log has the questions for."""
    everything = np.arange(len(records))
    found = [Shift("steady", everything, everything, (0.5,))]
    boxed = np.array([index for index, record in enumerate(records) if record.boxes], dtype=np.int64)
    if len(boxed):
        sizes = np.array([_relative_size(records[index]) for index in boxed])
        found += _by("size asked for", boxed, sizes <= np.quantile(sizes, 1 / 3))
    types = sorted({record.type for record in records})
    if len(types) > 1:
        for kind in types:
            chosen = np.array([record.type == kind for record in records])
            found.append(_shift(f"type {kind}, sudden", everything, chosen, _SUDDEN))
    pixels = np.array([record.original_pixels for record in records])
    if pixels.min() < pixels.max():
        large = pixels > np.quantile(pixels, 2 / 3)
        found.append(_shift("picture size, sudden", everything, large, _SUDDEN))
    return [shift for shift in found if len(shift.inside) and len(shift.outside)]


def draw(shift: Shift, phase: int, generator: np.random.Generator) -> IntArray:
    """The stream's questions, as places in the log; `phase` is how many one phase has."""
    length = shift.phases * phase
    shares = _shares(shift, length)
    within = generator.random(length) < shares
    inside = generator.choice(shift.inside, length)
    outside = generator.choice(shift.outside, length)
    return np.where(within, inside, outside)


def _shares(shift: Shift, length: int) -> FloatArray:
    points = np.array(shift.shares)
    if shift.drifts:
        knots = np.linspace(0, length - 1, len(points))
        line: FloatArray = np.interp(np.arange(length), knots, points)
        return line
    stepped: FloatArray = points[np.arange(length) * len(points) // length]
    return stepped


def _by(name: str, places: IntArray, hard: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[Shift]:
    return [
        _shift(f"{name}, sudden", places, hard, _SUDDEN),
        _shift(f"{name}, sudden, reversed", places, hard, _SUDDEN[::-1]),
        _shift(f"{name}, mild", places, hard, _MILD),
        _shift(f"{name}, drift", places, hard, _DRIFT, drifts=True),
        _shift(f"{name}, alternating", places, hard, _ALTERNATING),
    ]


def _shift(
    name: str,
    places: IntArray,
    inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    shares: tuple[float, ...],
    *,
    drifts: bool = False,
) -> Shift:
    return Shift(name, places[inside], places[~inside], shares, drifts)


def _relative_size(record: Record) -> float:
    left, top, right, bottom = record.boxes[0]
    return (right - left) * (bottom - top) / record.original_pixels
