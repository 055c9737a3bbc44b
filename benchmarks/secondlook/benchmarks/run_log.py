"""The log of a run: a header that says what was run, then a line of records for each picture, as JSON.

A *full-retransmission run* asks every question with a second look and makes one record of each. Nothing in a
record depends on a threshold, a measure or an arbitration rule, so every policy is replayed from the log.

What results depend on is in the header's settings: data with digests, model with the digest of its weights,
prompts, JPEG, versions. Logs whose settings differ are of different runs, and are never mixed. A log that is
finished may be kept compressed, as `.jsonl.gz`.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BeforeValidator, PlainSerializer, PositiveInt, TypeAdapter, ValidationError

from secondlook.edge.errors import SecondLookError, SettingsError
from secondlook.edge.files import write_files
from secondlook.edge.validation import from_json, told, validated
from secondlook.edge.wire import Relevance
from secondlook.engine.method.uncertainty import TokenStatistics

_COMPRESSED: Final = ".gz"
_log = logging.getLogger(__name__)

T = TypeVar("T")


class LogError(SecondLookError):
    """A run's log cannot be used: damaged, or of another run."""


@validated(frozen=True)
class LoggedLook:
    """One look's answer, its score (0 to 1), the doubt of each token, and what it cost to send and to see.

    Attributes:
        pixels, bytes: of this look's image, as it was sent.
        visual_tokens: of this look's image.
        prompt_tokens: of the whole prompt, the visual tokens of all its images included; None: not known.
        flops: of the engine's work for it, see `secondlook.engine.flops`; None: not counted.
    """

    text: str
    score: float
    tokens: tuple[TokenStatistics, ...]
    pixels: int
    bytes: int
    visual_tokens: int
    prompt_tokens: int | None = None
    flops: int | None = None


@validated(frozen=True)
class Record:
    """One question of a full-retransmission run.

    Attributes:
        index: the picture's place in its data set.
        type: the question's kind, within its data set.
        question: as the model was asked it.
        region: left, top, right, bottom in original pixels; None where there was no detail to gain.
        region_hit: whether the region contains the centre of every box; None where no box is known, or there
            was no detail to gain.
        second: None where there was no detail to gain.
        original_bytes: size of the original as a camera would store it.
        id: the question's own in its data set; empty where it has none.
        boxes: where what is asked for is: left, top, right, bottom in original pixels; empty: not known.
        file: name of the original's file; empty: it has none.
        relevance: relative attention, as it travels to an edge; kept of the first pictures only.
        baseline: one look at the whole picture in tiles; None: not asked for.
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
    id: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    file: str = ""
    relevance: Relevance | None = None
    baseline: LoggedLook | None = None


@validated(frozen=True)
class Skipped:
    """A picture that could not be read and was left out: its place in its data set, its file, and why."""

    index: int
    file: str
    why: str


LoggedPicture = list[Record] | Skipped
"""What a line of a log is of."""

LINE: Final[TypeAdapter[LoggedPicture]] = TypeAdapter(LoggedPicture)


@validated(frozen=True)
class Shard:
    """One part of a run that is spread over processes: every `count`-th picture, this one the `number`-th."""

    number: PositiveInt = 1
    count: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.number > self.count:
            raise SettingsError(f"a shard i/n needs i from 1 to n, not {self}")

    @classmethod
    def parse(cls, text: str | Shard) -> Shard:
        """From "i/n"."""
        if isinstance(text, Shard):
            return text
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if found is None:
            raise SettingsError(f"a shard is written i/n, such as 2/4, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def has(self, index: int) -> bool:
        """Whether the picture of this index is in this part."""
        return index % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@validated(frozen=True)
class RunHeader:
    """What a log is of: its first line.

    Attributes:
        settings: all that the records depend on, for JSON.
        made: what they were made by and on: stated, but no part of the run's identity.
        shard: the part of the run that is in this log.
    """

    settings: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)
    shard: Annotated[Shard, BeforeValidator(Shard.parse), PlainSerializer(str)] = Shard()
    format: Literal[2] = 2

    def to_json(self) -> str:
        return TypeAdapter(RunHeader).dump_json(self).decode()


@dataclass(frozen=True)
class LoggedRun:
    """A log that was read; `whole_bytes` is how long it is without a line cut short by an interruption."""

    header: RunHeader
    records: list[Record]
    skipped: list[Skipped]
    whole_bytes: int


class RunLog:
    """A log that is being written; opening it again goes on where an interrupted run stopped.

    A line holds all records of one picture: one cut short loses the whole picture, never a part of it.

    Attributes:
        header: the one in the file, which states what the run was begun on.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        self.path = path
        self.header = header
        self.records: list[Record] = []
        self.skipped: list[Skipped] = []
        if path.suffix == _COMPRESSED:
            raise LogError(
                f"cannot log to {path}: a log is compressed when it is finished; leave {_COMPRESSED} out"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                opened.enter_context(FileLock(path.with_name(f".{path.name}.lock"), timeout=0))
                if path.is_file() and not path.stat().st_size:
                    _log.warning("%s was empty, and is begun anew", path)
                self._file: FileIO = opened.enter_context(path.open("ab", buffering=0))
                if self._file.tell() and not self._begun_anew():
                    self._continue()
                else:
                    self._write(header.to_json().encode())
                self._opened = opened.pop_all()
        except Timeout as error:
            raise LogError(f"another process is writing {path}; let it finish, or end it first") from error
        except OSError as error:
            raise LogError(f"cannot keep a log in {path}: {error.strerror}; choose another file") from error

    def append(self, picture: LoggedPicture) -> None:
        """Write one picture's records, at once and together, or that it was left out."""
        if picture in self.skipped:
            return  # tried again, in vain
        try:
            self._write(LINE.dump_json(picture))
        except OSError as error:
            raise LogError(
                f"cannot go on with the log {self.path}: {error.strerror}; make room, and start the run again"
            ) from error
        if isinstance(picture, Skipped):
            self.skipped.append(picture)
        else:
            self.records += picture
            self.skipped = [one for one in self.skipped if one.index not in {one.index for one in picture}]

    def close(self) -> None:
        """Let others have the log. Nothing waits to be written, so that no earlier error is hidden."""
        self._opened.close()

    def done(self) -> set[int]:
        """Indices of pictures already asked about."""
        return {record.index for record in self.records}

    def _write(self, line: bytes) -> None:
        """All of a line or, where there is no room, nothing."""
        rest, before = memoryview(line + b"\n"), self._file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(before)
            raise

    def _begun_anew(self) -> bool:
        """Whether all there was is the beginning of this run's own first line, which was cut short."""
        found, whole = self.path.read_bytes().rstrip(b"\0"), self.header.to_json().encode()
        own = whole[: whole.index(b',"made":')]
        if b"\n" in found or not (found.startswith(own) or own.startswith(found)):
            return False
        _log.warning("%s was cut short in its first line, and is begun anew", self.path)
        self._file.truncate(0)
        return True

    def _continue(self) -> None:
        found = read_log(self.path)
        wanted = self.header
        other = differences(found.header.settings, wanted.settings)
        if found.header.shard != wanted.shard:
            other.insert(0, f"shard is {found.header.shard}, not {wanted.shard}")
        if other:
            raise LogError(f"{self.path} logs another run: {'; '.join(other)}; choose another file")
        self.header, self.records, self.skipped = found.header, found.records, found.skipped
        if self._file.tell() > found.whole_bytes:
            _log.warning("%s was cut short in its last line; its picture is asked about again", self.path)
            self._file.truncate(found.whole_bytes)


def read_log(path: Path) -> LoggedRun:
    """A log, without a last line that was cut short."""
    return LoggedRun(*scan_log(path, list))


def scan_log(path: Path, gather: Callable[[Iterable[Record]], T]) -> tuple[RunHeader, T, list[Skipped], int]:
    """A log's header, what is made of its records as they are read one by one, the pictures that were left
    out, and its length in bytes without a line cut short.
    """
    try:
        content = path.read_bytes()
        if path.suffix == _COMPRESSED:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error  # gzip's own errors have none
        raise LogError(f"cannot read the log {path}: {reason}") from error
    if not content:
        raise LogError(f"{path} is empty; begin it with the command that was to, or choose another file")
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        raise LogError(
            f"{path} is not a log of an evaluation run, or was cut short in its first line, with no record; "
            "begin it anew with the command that began it, move it, or choose another file"
        )
    with refusing(path):
        first, *lines = whole.split(b"\n")[:-1]
        header = from_json(RunHeader, first)
        skipped = dict[int, Skipped]()
        return header, gather(_records(lines, skipped)), list(skipped.values()), len(whole)


def _records(lines: Iterable[bytes], skipped: dict[int, Skipped]) -> Iterator[Record]:
    for number, line in enumerate(lines, 2):
        try:
            picture = LINE.validate_json(line)
        except ValidationError as error:
            raise ValueError(
                f"line {number}: {told(error, ()).replace(' at line 1 column', ' at column')}"
            ) from error
        if isinstance(picture, Skipped):
            skipped[picture.index] = picture
            continue
        for record in picture:
            skipped.pop(record.index, None)  # it was mended
            yield record


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say of what cannot be read that the file is no log."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SettingsError) as error:
        why = told(error, ()) if isinstance(error, ValidationError) else error
        raise LogError(
            f"{path} is not a log of an evaluation run ({why}); move it or choose another file"
        ) from error


def write_log(path: Path, header: RunHeader, pictures: Iterable[LoggedPicture]) -> None:
    """A whole log at once, compressed if the name says so; what is there is replaced when all is written."""
    lines = (header.to_json().encode(), *map(LINE.dump_json, pictures), b"")
    content = b"\n".join(lines)
    write_files({path: gzip.compress(content, mtime=0) if path.suffix == _COMPRESSED else content})


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two runs' settings: "model.dtype is 'float16', not 'float32'"."""
    here, there = (dict(leaves(settings)) for settings in (found, wanted))
    return [
        f"{name} is {here.get(name, 'absent')}, not {there.get(name, 'absent')}"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]


def leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names with values as they are shown."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value)
