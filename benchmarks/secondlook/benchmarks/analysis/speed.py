"""How long a long log takes: to be read, and to be replayed under every policy that a report draws."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

from secondlook.benchmarks.analysis.columns import Columns, read_columns
from secondlook.benchmarks.analysis.curves import Cost
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.replay import WHOLE, Replay
from secondlook.benchmarks.run_log import LogError, read_log, write_log
from secondlook.edge.wire import Measure
from secondlook.engine.method.policy import Policy

__all__ = ["bench_replay", "replay_text"]

_MOST_TOKENS: Final = 10


def bench_replay(log: Path, rows: int) -> dict[str, Any]:
    """Time a log that is a log's pictures again and again, until it has so many records: a report, for JSON.

    Raises:
        LogError: it cannot be read, or has no record.
    """
    on = environment("cpu", "float64")
    found = read_log(log)
    if not found.records:
        raise LogError(f"{log} has no record yet; finish the run that began it")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.jsonl"
        write_log(path, found.header, _repeated(found.records, rows))
        size = path.stat().st_size
        begun = time.perf_counter()
        _, columns = read_columns(path)
        read = time.perf_counter()
        curves = sum(_curves(columns, policy) for policy in _policies())
        replayed = time.perf_counter()
    return {
        "bench": "replay",
        "seconds": replayed - begun,
        "seconds_reading": read - begun,
        "seconds_replaying": replayed - read,
        "rows": len(columns),
        "log_bytes": size,
        "curves": curves,
        "environment": on,
    }


def replay_text(report: dict[str, Any]) -> str:
    """The report as a line for people."""
    return (
        f"{report['rows']} records ({report['log_bytes'] / 1e6:.0f} MB) read in "
        f"{report['seconds_reading']:.1f} s; {report['curves']} curves, each of every threshold, in "
        f"{report['seconds_replaying']:.1f} s"
    )


def _repeated(records: Sequence[Record], rows: int) -> Iterator[list[Record]]:
    """Pictures, one after the other, as others each time round."""
    pictures: dict[int, list[Record]] = {}
    for record in records:
        pictures.setdefault(record.index, []).append(record)
    for index in count():
        picture = list(pictures.values())[index % len(pictures)][:rows]
        if not picture:
            return
        rows -= len(picture)
        yield [replace(record, index=index) for record in picture]


def _policies() -> Iterator[Policy]:
    """Every measure on all, one, and up to ten first tokens, with and without arbitration."""
    whole = Policy(0.0, decide_after=WHOLE)
    limits = [whole, *(replace(whole, aggregation="first_k", first_k=k + 1) for k in range(_MOST_TOKENS))]
    for measure, limit, arbitration in product(get_args(Measure), limits, (True, False)):
        yield replace(limit, measure=measure, arbitration=arbitration)


def _curves(columns: Columns, policy: Policy) -> int:
    """Accuracy against bytes, pixels and the retransmission rate; how many curves these are."""
    replay = Replay(columns, policy)
    trade_off = replay.trade_off
    costs = (
        Cost(columns.first.bytes, columns.second.bytes, columns.first.bytes),
        Cost(columns.first.pixels, columns.second.pixels, columns.first.pixels),
        replay.rate,
    )
    return len([trade_off.line(cost) for cost in costs])
