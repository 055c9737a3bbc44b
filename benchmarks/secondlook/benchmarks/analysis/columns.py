"""A run's records as columns: numpy arrays, made once, from which every figure is an exact replay.

100,000 records are about a hundred megabytes of JSON; the columns of them are a few.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.records import LoggedLook, Record
from secondlook.benchmarks.run_log import LogError, RunHeader, read_lines, refusing
from secondlook.edge.wire import Measure
from secondlook.engine.method.policy import Policy

__all__ = ["BoolArray", "Columns", "FloatArray", "IntArray", "LookColumns", "read_columns"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_MEASURES: Final[tuple[Measure, ...]] = ("min_entropy", "shannon_entropy", "margin")


@dataclass(frozen=True)
class LookColumns:
    """One look at every question. Where there was none, it has no text and no tokens, and its numbers are 0.

    Attributes:
        text: [questions].
        score, pixels, bytes, visual_tokens: [questions]; see `LoggedLook`.
        prompt_tokens: [questions]; -1: not known.
        lengths: [questions], tokens of each answer.
        owner: [tokens], the question that a token is of; ascending.
        measures: [tokens, 3], min-entropy, Shannon entropy and margin.
        is_eos: [tokens].
    """

    text: list[str]
    score: FloatArray
    pixels: FloatArray
    bytes: FloatArray
    visual_tokens: IntArray
    prompt_tokens: IntArray
    lengths: IntArray
    owner: IntArray
    measures: FloatArray
    is_eos: BoolArray

    def uncertainty(self, policy: Policy, upto: int | None = None) -> FloatArray:
        """[questions], as `Policy.uncertainty` has it; 0 where there was no look.

        Args:
            upto: of an answer's first tokens only, so many of them.
        """
        starts = np.cumsum(self.lengths) - self.lengths
        there = np.ones(len(self.owner), np.bool_)
        if upto is not None:
            there = np.arange(len(self.owner)) - starts[self.owner] < upto
        counted = there if policy.include_eos else there & ~self.is_eos
        total = np.bincount(self.owner, counted, len(self.lengths))
        counted = counted | (there & (total == 0)[self.owner])  # nothing but an end token: it counts
        limit = {"all": None, "first": 1, "first_k": policy.first_k}[policy.aggregation]
        if limit is not None:
            upto_here = np.cumsum(counted)
            before = np.concatenate([[0], upto_here])[starts]
            counted &= upto_here - before[self.owner] <= limit
        values = self.measures[:, _MEASURES.index(policy.measure)]
        sums = np.bincount(self.owner, np.where(counted, values, 0.0), len(self.lengths))
        found: FloatArray = sums / np.maximum(1, np.bincount(self.owner, counted, len(self.lengths)))
        return found

    def take(self, rows: BoolArray) -> LookColumns:
        """Of some questions only."""
        tokens = rows[self.owner]
        return LookColumns(
            text=[text for text, kept in zip(self.text, rows, strict=True) if kept],
            owner=(np.cumsum(rows) - 1)[self.owner[tokens]],
            measures=self.measures[tokens],
            is_eos=self.is_eos[tokens],
            **{name: getattr(self, name)[rows] for name in (*_LOOK_NUMBERS, "lengths")},
        )


@dataclass(frozen=True)
class Columns:
    """A run's questions, in the log's order.

    Attributes:
        picture: [questions], each picture's place in its data set.
        kind, question, truth, file, heat: [questions]; `kind` is `Record.type`.
        possible: [questions], whether there was a second look.
        original_pixels, original_bytes: [questions].
        region: [questions, 4]; 0 where there was none.
        hit: [questions], 1 or 0 for `Record.region_hit`, NaN where that is None.
        box_pixels: [questions], area of all boxes; NaN where none is known.
        box_covered: [questions], the share of that area within the region; NaN where either is missing.
    """

    picture: IntArray
    kind: list[str]
    question: list[str]
    truth: list[str]
    file: list[str]
    heat: list[Sequence[str]]
    first: LookColumns
    second: LookColumns
    possible: BoolArray
    original_pixels: FloatArray
    original_bytes: FloatArray
    region: FloatArray
    hit: FloatArray
    box_pixels: FloatArray
    box_covered: FloatArray

    def __len__(self) -> int:
        return len(self.picture)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """Of records that are at hand."""
        reader = _Reader()
        for record in records:
            looks = {"first": _values(record.first), "second": record.second and _values(record.second)}
            reader.add({**vars(record), **looks})
        return reader.columns()

    def take(self, rows: BoolArray) -> Columns:
        """Of some questions only."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, LookColumns):
                found[each.name] = value.take(rows)
            elif isinstance(value, list):
                found[each.name] = [one for one, kept in zip(value, rows, strict=True) if kept]
            else:
                found[each.name] = value[rows]
        return Columns(**found)


def read_columns(path: Path) -> tuple[RunHeader, Columns]:
    """A log's header and columns, without a last line that was cut short.

    Raises:
        LogError: there is none, it is damaged, or has no record.
    """
    header, lines, _ = read_lines(path)
    reader = _Reader()
    with refusing(path):
        for line in lines:
            for values in json.loads(line):
                reader.add(values)
        columns = reader.columns()
    if not len(columns):
        raise LogError(f"{path} has no record yet; finish the run that began it")
    return header, columns


_LOOK_NUMBERS: Final = {
    "score": np.float64,
    "pixels": np.float64,
    "bytes": np.float64,
    "visual_tokens": np.int64,
    "prompt_tokens": np.int64,
}
_TEXTS: Final = ("kind", "question", "truth", "file", "heat")


class _LookReader:
    """Gathers one of the two looks."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.numbers = array("d")  # five for each question, as in _LOOK_NUMBERS
        self.tokens = array("d")  # four for each token: three measures, end token
        self.lengths = array("q")

    def add(self, look: Mapping[str, Any] | None) -> None:
        if look is None:
            self.text.append("")
            self.numbers.extend((0.0, 0.0, 0.0, 0.0, -1.0))
            self.lengths.append(0)
            return
        prompt = look.get("prompt_tokens")
        tokens = look["tokens"]
        self.text.append(look["text"])
        self.numbers.extend(
            (
                look["score"],
                look["pixels"],
                look["bytes"],
                look["visual_tokens"],
                -1 if prompt is None else prompt,
            )
        )
        self.lengths.append(len(tokens))
        extend = self.tokens.extend
        for token in tokens:
            extend((token["min_entropy"], token["shannon_entropy"], token["margin"], token["is_eos"]))

    def columns(self) -> LookColumns:
        numbers = np.array(self.numbers).reshape(-1, len(_LOOK_NUMBERS)).T
        tokens = np.array(self.tokens).reshape(-1, 4)
        lengths = np.array(self.lengths, np.int64)
        return LookColumns(
            text=self.text,
            lengths=lengths,
            owner=np.repeat(np.arange(len(lengths)), lengths),
            measures=np.ascontiguousarray(tokens[:, :3]),
            is_eos=tokens[:, 3] > 0,
            **{
                name: row.astype(kind)
                for (name, kind), row in zip(_LOOK_NUMBERS.items(), numbers, strict=True)
            },
        )


class _Reader:
    """Gathers records, as `Record.to_json` writes them."""

    def __init__(self) -> None:
        self.picture = array("q")
        self.texts: dict[str, list[Any]] = {name: [] for name in _TEXTS}
        self.first, self.second = _LookReader(), _LookReader()
        self.numbers = array("d")  # nine for each question

    def add(self, values: Mapping[str, Any]) -> None:
        region, hit = values["region"], values["region_hit"]
        area, covered = _boxes(values.get("boxes", ()), region)
        self.picture.append(values["index"])
        read = (
            values["type"],
            values["question"],
            values["truth"],
            values.get("file", ""),
            tuple(values.get("heat", ())),
        )
        for name, text in zip(_TEXTS, read, strict=True):
            self.texts[name].append(text)
        self.first.add(values["first"])
        self.second.add(values["second"])
        hit = np.nan if hit is None else float(hit)
        sizes = (values["original_pixels"], values["original_bytes"])
        self.numbers.extend((*sizes, *(region or (0, 0, 0, 0)), hit, area, covered))

    def columns(self) -> Columns:
        numbers = np.array(self.numbers).reshape(-1, 9)
        second = self.second.columns()
        return Columns(
            picture=np.array(self.picture, np.int64),
            first=self.first.columns(),
            second=second,
            possible=second.lengths > 0,
            original_pixels=numbers[:, 0],
            original_bytes=numbers[:, 1],
            region=numbers[:, 2:6],
            hit=numbers[:, 6],
            box_pixels=numbers[:, 7],
            box_covered=numbers[:, 8],
            **self.texts,
        )


def _values(look: LoggedLook) -> dict[str, Any]:
    return {**vars(look), "tokens": [vars(token) for token in look.tokens]}


def _boxes(boxes: Sequence[Sequence[float]], region: Sequence[float] | None) -> tuple[float, float]:
    """Their area, and the share of it within the region."""
    if not boxes:
        return np.nan, np.nan
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if region is None:
        return area, np.nan
    covered = sum(
        max(0.0, min(right, region[2]) - max(left, region[0]))
        * max(0.0, min(bottom, region[3]) - max(top, region[1]))
        for left, top, right, bottom in boxes
    )
    return area, covered / area
