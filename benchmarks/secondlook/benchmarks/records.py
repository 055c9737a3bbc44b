"""What one question cost and gave when it was looked at twice: the log every curve is replayed from.

A *full-retransmission run* asks every question with a second look and makes one record of each. A log holds
them as JSON lines, one line a picture, under a header that says what was run. Nothing in a record depends
on a threshold, a measure or an arbitration rule.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from secondlook.edge.errors import SecondLookError
from secondlook.engine.uncertainty import TokenStatistics

__all__ = ["LogError", "LoggedLook", "Record", "RunLog"]


class LogError(SecondLookError):
    """A run's log cannot be used: damaged, or of another run."""


@dataclass(frozen=True)
class LoggedLook:
    """One look's answer, its score (0 to 1), the doubt of each token, and what it cost to send and to see."""

    text: str
    score: float
    tokens: tuple[TokenStatistics, ...]
    pixels: int
    bytes: int
    visual_tokens: int


@dataclass(frozen=True)
class Record:
    """One question of a full-retransmission run.

    Attributes:
        index: the picture's index in its split.
        region: left, top, right, bottom in original pixels; None where there was no detail to gain.
        region_hit: whether the region contains the asked object's centre; None where no one place is asked
            for, or there was no detail to gain.
        second: None where there was no detail to gain.
        original_bytes: size of the original as a camera would store it.
    """

    index: int
    type: str
    question: str
    truth: str
    first: LoggedLook
    second: LoggedLook | None
    region: tuple[int, int, int, int] | None
    region_hit: bool | None
    original_pixels: int
    original_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Record:
        return cls._from_values(json.loads(text))

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Record:
        read = dict(values)
        for name in ("first", "second"):
            look = values[name]
            if look is not None:
                tokens = tuple(TokenStatistics(**token) for token in look["tokens"])
                read[name] = LoggedLook(**{**look, "tokens": tokens})
        if values["region"] is not None:
            read["region"] = tuple(values["region"])
        return cls(**read)


class RunLog:
    """A file of records under a header; opening it again goes on where an interrupted run stopped.

    A line holds all records of one picture: one cut short loses the whole picture, never a part of it.

    Raises:
        LogError: the file belongs to a run with another header, is damaged before its last line, or cannot
            be opened.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header
        self.records: list[Record] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise LogError(f"cannot keep a log in {path}: {error.strerror}; choose another file") from error
        try:
            if self._file.tell():
                self._read()
            else:
                self._write(json.dumps(header))
        except BaseException:
            self._file.close()
            raise

    def append(self, records: list[Record]) -> None:
        """Write one picture's records, at once and together."""
        self._write(f"[{','.join(record.to_json() for record in records)}]")
        self.records += records

    def close(self) -> None:
        self._file.close()

    def done(self) -> set[int]:
        """Indices of pictures already asked about."""
        return {record.index for record in self.records}

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            first, *lines = whole.decode("utf-8").split("\n")[:-1] or [""]
            header = json.loads(first)
            self.records = [Record._from_values(values) for line in lines for values in json.loads(line)]
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(
                f"{self.path} is not a log of an evaluation run ({error}); move it or choose another file"
            ) from error
        if header != self.header:
            raise LogError(f"{self.path} logs another run ({header}, not {self.header}); choose another file")
        self._file.truncate(len(whole))  # without a line cut short by an interruption
