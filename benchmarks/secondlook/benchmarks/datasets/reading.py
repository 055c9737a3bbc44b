"""Reading official files: faults are told with file, place and field, what lacks with where to get it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    PrivateAttr,
    Strict,
    ValidationError,
    field_validator,
)

from secondlook.benchmarks.datasets.question import (
    AskedPicture,
    DataSet,
    FilePicture,
    MalformedDataError,
    MissingDataError,
    Question,
)
from secondlook.edge.files import is_lfs_pointer
from secondlook.edge.geometry import Rectangle


def _name(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError("should be a whole number or a text")
    return str(value)


def is_unicode(text: str) -> bool:
    """Whether it can be written: JSON can escape half a character, a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Text = Annotated[str, Field(pattern=r"\S")]
"""With something in it."""
Name = Annotated[str, BeforeValidator(_name)]
"""A number or a text that names something, as text."""
TenTexts = Annotated[tuple[str, ...], Field(min_length=10, max_length=10)]
_Place = Annotated[FiniteFloat, Strict()]
_Length = Annotated[_Place, Field(gt=0)]
Box = tuple[_Place, _Place, _Length, _Length]
"""[x, y, width, height] in pixels."""


class Entry(BaseModel):
    """A JSON object of an official file; what is not asked for may be anything."""

    _where: str = PrivateAttr("")

    @field_validator("*")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not is_unicode(text):
                raise ValueError("should be Unicode text, without half a character")
        return value

    @property
    def where(self) -> str:
        """File and place, for messages."""
        return self._where

    @classmethod
    def at(cls: type[E], where: str, value: object) -> E:
        """A JSON value that was found at this place."""
        try:
            found = cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = f" {'.'.join(map(str, first['loc']))!r}" if first["loc"] else ""
            if first["type"] == "missing":
                raise MalformedDataError(f"{where} has no{name}") from error
            told = re.sub(r"^(Value error,|Input|String|Tuple) | after validation.*", "", first["msg"])
            told = "should be a JSON object" if first["type"] == "model_type" else told
            raise MalformedDataError(f"{where}:{name} {told}, not {reprlib.repr(first['input'])}") from error
        found._where = where
        return found

    def fault(self, name: str, told: str) -> NoReturn:
        """Say what is wrong with a field."""
        raise MalformedDataError(f"{self.where}: {name!r} {told}, not {reprlib.repr(getattr(self, name))}")


E = TypeVar("E", bound=Entry)
_PULL = "run git lfs pull in the folder"


def joined(entries: Iterable[E], name: str) -> dict[str, E]:
    """Entries by a field, in which no two may be equal."""
    found: dict[str, E] = {}
    for entry in entries:
        first = found.setdefault(getattr(entry, name), entry)
        if first is not entry:
            entry.fault(name, f"should be another one than that of {first.where.rpartition(', ')[2]}")
    return found


def rectangle(box: Box) -> Rectangle:
    x, y, width, height = box
    return Rectangle(x, y, x + width, y + height)


@dataclass(frozen=True)
class DataFile:
    """A file as it was read. What makes entries of it raises MalformedDataError where it has another form."""

    path: Path
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, the first 16 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()[:16]

    def whole(self, form: type[E]) -> E:
        """One JSON object."""
        return form.at(str(self.path), self._parsed(self.content))

    def records(self, form: type[E], within: str | None = None) -> Iterator[E]:
        """A JSON list of objects, or such a list within an object."""
        value = self._parsed(self.content)
        if within is not None:
            value = self._object(value).get(within)
        if not isinstance(value, list):
            place = f"{self.path}: {within!r}" if within else str(self.path)
            raise MalformedDataError(f"{place} should be a JSON list, not {reprlib.repr(value)}")
        return self._entries(form, ((f"record {number}", one) for number, one in enumerate(value, 1)))

    def lines(self, form: type[E]) -> Iterator[E]:
        """A JSON object in each line that is not empty."""
        lines = ((f"line {number}", line) for number, line in enumerate(self.content.split(b"\n"), 1))
        parsed = ((place, self._parsed(line, f", {place}")) for place, line in lines if line.strip())
        return self._entries(form, parsed)

    def named(self, form: type[E]) -> dict[str, E]:
        """A JSON object of objects, by their names."""
        value = self._object(self._parsed(self.content))
        for number, name in enumerate(value, 1):
            if not is_unicode(name):
                raise MalformedDataError(f"{self.path}, record {number}: {name!r} should be Unicode text")
        places = ((f"record {number} ({name})", one) for number, (name, one) in enumerate(value.items(), 1))
        return dict(zip(value, self._entries(form, places), strict=True))

    def _object(self, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MalformedDataError(f"{self.path} should be a JSON object, not {reprlib.repr(value)}")
        return value

    def _entries(self, form: type[E], places: Iterable[tuple[str, object]]) -> Iterator[E]:
        return (form.at(f"{self.path}, {place}", value) for place, value in places)

    def _parsed(self, content: bytes, place: str = "") -> object:
        try:
            return json.loads(content, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise MalformedDataError(f"{self.path}{place} is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def read_data_file(folder: Path, name: str, source: str) -> DataFile:
    """A file of a data set, whole.

    Args:
        source: where it is to be had.
    """
    path = folder / name
    try:
        if is_lfs_pointer(path):
            raise MalformedDataError(f"{path} is only a pointer of Git LFS, not the file itself; {_PULL}")
        return DataFile(path, path.read_bytes())
    except FileNotFoundError as error:
        raise MissingDataError(f"there is no {name} in {folder}; get it from {source}") from error
    except OSError as error:
        raise MissingDataError(f"cannot read {path}: {error.strerror}; get it from {source}") from error


class PictureFolder:
    """Questions gathered by picture, in the order in which the pictures are first asked about."""

    def __init__(self, folder: Path, source: str) -> None:
        """`source` is where the folder's pictures are to be had."""
        self._folder = folder
        self._source = source
        self._questions: dict[str, list[Question]] = {}
        self._first: dict[str, str] = {}
        self._seen: set[str] = set()

    def add(self, name: str, question: Question, entry: Entry) -> None:
        """A question about the file `name`, found in `entry`. Links of the folder may lead out of it, but no
        name does: who made the data set's files is not who made the folder.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise MalformedDataError(
                f"{entry.where}: the picture {reprlib.repr(name)} should be in {self._folder}: neither an "
                "absolute name nor one with '..'"
            )
        if question.id in self._seen:
            raise MalformedDataError(f"{entry.where}: there is another question {question.id} before")
        self._seen.add(question.id)
        self._questions.setdefault(name, []).append(question)
        self._first.setdefault(name, entry.where)

    def data_set(self, name: str, files: Sequence[DataFile] | dict[str, str], **variant: object) -> DataSet:
        """All pictures, and the settings that tell this data set from others.

        Args:
            files: those that it is of, or digests by names.
        """
        if not self._questions:
            raise MalformedDataError("the data set's files hold no question")
        missing = [name for name in self._questions if not os.path.isfile(self._folder / name)]
        if missing:
            raise MissingDataError(
                f"{len(missing)} of {len(self._questions)} pictures are missing, such as {missing[0]} in "
                f"{self._folder} (asked for by {self._first[missing[0]]}); get them from "
                f"{self._source}, or name their folder with --images"
            )
        try:
            pointers = [name for name in self._questions if is_lfs_pointer(self._folder / name)]
        except OSError as error:
            raise MissingDataError(f"cannot read the picture {error.filename}: {error.strerror}") from error
        if pointers:
            raise MissingDataError(
                f"{len(pointers)} of {len(self._questions)} pictures are only pointers of Git LFS, such as "
                f"{pointers[0]} in {self._folder}; {_PULL}"
            )
        pictures = tuple(
            AskedPicture(index, FilePicture(self._folder / picture), tuple(questions))
            for index, (picture, questions) in enumerate(self._questions.items())
        )
        settings = {
            **variant,
            "files": files if isinstance(files, dict) else {file.path.name: file.digest for file in files},
            "pictures": len(pictures),
            "questions": len(self._seen),
            "instructions": sorted({one.instruction for picture in pictures for one in picture.questions}),
        }
        return DataSet(name, settings, pictures)
