"""The answers of a full-retransmission log, as a policy that decides early would meet them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray, IntArray
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.replay import Replay
from secondlook.benchmarks.run_log import LogError, LoggedRun, RunHeader, differences, read_log
from secondlook.engine.method.policy import Policy

__all__ = ["Answers", "ReadLogs", "answers_of", "read_logs"]


@dataclass(frozen=True)
class ReadLogs:
    """One run's records, from one log or from those of its shards.

    Attributes:
        digests: SHA-256 of each log's bytes, its first 16 hexadecimal digits.
    """

    header: RunHeader
    records: list[Record]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """Arrays, each [questions].

    Attributes:
        doubt: the uncertainty that decides; -inf where there was no detail to gain, so that no threshold
            is reached. Of the first `decide_after` tokens, for a server decides when it has these.
        first: scores of first answers.
        kept: scores of the answers that stand after a second look, under the policy's arbitration.
        first_bytes, second_bytes: sent for each look; the second's are 0 where there is none.
        picture: whose question it is, counted from 0.
    """

    doubt: FloatArray
    first: FloatArray
    kept: FloatArray
    first_bytes: FloatArray
    second_bytes: FloatArray
    picture: IntArray

    def __len__(self) -> int:
        return len(self.doubt)


def read_logs(paths: Sequence[Path]) -> ReadLogs:
    """The records of logs that belong together.

    Raises:
        LogError: a log is damaged or empty, the logs' settings differ, two have the same picture, or there is
            no second look in them.
    """
    runs = {path: read_log(path) for path in dict.fromkeys(paths)}
    first = next(iter(runs))
    seen: dict[int, Path] = {}
    for path, run in runs.items():
        _check(path, run, first, runs[first].header)
        for index in {record.index for record in run.records}:
            if index in seen:
                raise LogError(f"{path} and {seen[index]} both have picture {index}; name each log once")
            seen[index] = path
    records = [record for run in runs.values() for record in run.records]
    if all(record.second is None for record in records):
        raise LogError(f"{first} has no second look: no picture had detail to gain, and no threshold matters")
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in runs)
    return ReadLogs(runs[first].header, records, digests)


def answers_of(records: Sequence[Record], policy: Policy) -> Answers:
    """What the policy would meet, whatever its threshold."""
    replay = Replay(records, policy)
    columns = replay.columns
    _, picture = np.unique(columns.picture, return_inverse=True)
    return Answers(
        doubt=np.where(replay.possible, replay.doubt, -np.inf),
        first=replay.first,
        kept=replay.kept,
        first_bytes=columns.first.bytes,
        second_bytes=columns.second.bytes,
        picture=picture.astype(np.int64),
    )


def _check(path: Path, run: LoggedRun, first: Path, header: RunHeader) -> None:
    other = differences(run.header.settings, header.settings)
    if other:
        raise LogError(
            f"{path} and {first} are logs of different runs, which are never mixed: in {path.name} "
            f"{'; '.join(other)} as in {first.name}"
        )
    if not run.records:
        raise LogError(f"{path} has no answers yet; finish it with the command that began it")
