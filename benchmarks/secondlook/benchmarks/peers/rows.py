"""What peers told, in rows, and how far ours is ahead."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["METRICS", "OURS", "Sample", "ahead", "peer_rows", "same_tokens", "times_as_fast"]

OURS: Final = "ours"
METRICS: Final = ("first_token_ms", "per_token_ms", "final_ms", "two_looks_ms", "answers_per_second")
"""Milliseconds to the first token of one look, for each further one, and to the last; to the last of the
second look; and answers of one look a second, to many clients together."""


@dataclass(frozen=True)
class Sample:
    """What a peer told of one task.

    Attributes:
        busy: processes that computed beside it.
        index: of the task; all peers are asked the same ones.
        told: by `METRICS`, those that the task has; and the `tokens` of one look.
    """

    precision: str
    busy: int
    peer: str
    index: int
    told: Mapping[str, Any]


def peer_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each precision, load, metric and peer: the median, the least and the most of so many."""
    measured = list(dict.fromkeys((sample.precision, sample.busy) for sample in samples))
    found = defaultdict[tuple[str, int, str, str], list[float]](list)
    for sample in samples:
        for metric in sample.told.keys() & METRICS:
            found[sample.precision, sample.busy, metric, sample.peer].append(sample.told[metric])
    return [
        {
            **dict(zip(("precision", "busy", "metric", "peer"), key, strict=True)),
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "count": len(values),
        }
        for key, values in sorted(
            found.items(), key=lambda item: (measured.index(item[0][:2]), METRICS.index(item[0][2]))
        )
    ]


def ahead(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How many times as fast as each peer ours is where that is least; below 1 it is behind there."""
    times = defaultdict[str, list[float]](list)
    for (*_, peer), each in times_as_fast(rows).items():
        times[peer].append(each)
    return {peer: min(each) for peer, each in times.items()}


def times_as_fast(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, str, str], float]:
    """By precision, load, metric and peer, how many times as fast as that peer ours is."""
    cells = {(row["precision"], row["busy"], row["metric"], row["peer"]): row["median"] for row in rows}
    times = dict[tuple[str, int, str, str], float]()
    for (precision, busy, metric, peer), theirs in cells.items():
        ours = cells.get((precision, busy, metric, OURS))
        if peer != OURS and ours is not None:
            more_is_better = metric == "answers_per_second"
            times[precision, busy, metric, peer] = ours / theirs if more_is_better else theirs / ours
    return times


def same_tokens(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """By precision and peer, the share of answers in one look whose tokens are ours."""
    looks = {(s.precision, s.busy, s.index, s.peer): s.told["tokens"] for s in samples if "tokens" in s.told}
    same = defaultdict[str, defaultdict[str, list[bool]]](lambda: defaultdict(list))
    for (precision, busy, index, peer), tokens in looks.items():
        ours = looks.get((precision, busy, index, OURS))
        if peer != OURS and ours is not None:
            same[precision][peer].append(tuple(tokens) == tuple(ours))
    return {
        precision: {peer: statistics.fmean(each) for peer, each in peers.items()}
        for precision, peers in same.items()
    }
