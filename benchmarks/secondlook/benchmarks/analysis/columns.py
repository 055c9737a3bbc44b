"""A run's records as columns: numpy arrays, made once, from which every figure is an exact replay.

100,000 records are about a hundred megabytes of JSON; the columns of them are a few.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.run_log import LogError, LoggedLook, Record, RunHeader, Skipped, scan_log
from secondlook.edge.wire import Measure, Relevance
from secondlook.engine.method.gate import feature_table
from secondlook.engine.method.policy import Policy

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
_NO_LOOK: Final = LoggedLook("", 0.0, (), 0, 0, 0, flops=0)


@dataclass(frozen=True)
class LookColumns:
    """One look at every question. Where there was none, it has no text and no tokens, and its numbers are 0.

    Attributes:
        text: [questions].
        score, pixels, bytes, visual_tokens: [questions]; see `LoggedLook`.
        flops: [questions]; NaN: not known.
        lengths: [questions], tokens of each answer.
        owner: [tokens], the question that a token is of; ascending.
        measures: [tokens, 3], each measure in the order of `Measure`.
        is_eos: [tokens].
    """

    text: list[str]
    score: FloatArray
    pixels: FloatArray
    bytes: FloatArray
    visual_tokens: IntArray
    flops: FloatArray
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

    def features(self, upto: int) -> FloatArray:
        """[questions, features], what a gate is told of answers' first tokens, at most so many (see
        `feature_table`)."""
        starts = np.cumsum(self.lengths) - self.lengths
        there = np.arange(len(self.owner)) - starts[self.owner] < upto
        owner, measures = self.owner[there], self.measures[there]
        counts = np.minimum(self.lengths, upto)
        sums, maxima = np.zeros((2, len(counts), measures.shape[1]))
        np.add.at(sums, owner, measures)
        np.maximum.at(maxima, owner, measures)
        return feature_table(sums / np.maximum(1, counts)[:, None], maxima, counts)

    def take(self, rows: BoolArray) -> LookColumns:
        tokens = rows[self.owner]
        owner = (np.cumsum(rows) - 1)[self.owner[tokens]]
        kept = {"owner": owner, "measures": self.measures[tokens], "is_eos": self.is_eos[tokens]}
        return LookColumns(**_taken(self, rows, kept))


@dataclass(frozen=True)
class Columns:
    """A run's questions, in the log's order.

    Attributes:
        picture: [questions], each picture's place in its data set.
        kind, question, truth, file, relevance: [questions]; `kind` is `Record.type`.
        baseline: the one look in tiles, of runs that asked for it.
        possible: [questions], whether there was a second look.
        original_pixels, original_bytes: [questions].
        region: [questions, 4]; 0 where there was none.
        hit: [questions], 1 or 0 for `Record.region_hit`, NaN where that is None.
        box_pixels: [questions], area of all boxes; NaN where none is known.
        box_covered: [questions], the share of that area within the region; NaN where either is missing.
        first_box_pixels: [questions], area of the first box; NaN where none is known.
    """

    picture: IntArray
    kind: list[str]
    question: list[str]
    truth: list[str]
    file: list[str]
    relevance: list[Relevance | None]
    first: LookColumns
    second: LookColumns
    baseline: LookColumns
    possible: BoolArray
    original_pixels: FloatArray
    original_bytes: FloatArray
    region: FloatArray
    hit: FloatArray
    box_pixels: FloatArray
    box_covered: FloatArray
    first_box_pixels: FloatArray

    def __len__(self) -> int:
        return len(self.picture)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """Of records, which are taken one by one and not kept."""
        picture, numbers = array("q"), array("d")  # ten numbers for each question
        texts: list[tuple[Any, ...]] = []
        first, second, baseline = _Looks(), _Looks(), _Looks()
        for one in records:
            picture.append(one.index)
            texts.append((one.type, one.question, one.truth, one.file, one.relevance))
            first.add(one.first)
            second.add(one.second)
            baseline.add(one.baseline)
            hit = np.nan if one.region_hit is None else float(one.region_hit)
            numbers.extend((one.original_pixels, one.original_bytes, *(one.region or (0, 0, 0, 0)), hit))
            numbers.extend(_boxes(one))
        table = np.array(numbers).reshape(-1, 10)
        told = map(list, zip(*texts, strict=True)) if texts else ([] for _ in range(5))
        kind, question, truth, file, relevance = told
        looked = second.columns()
        return cls(
            np.array(picture, np.int64), kind, question, truth, file, relevance, first.columns(), looked,
            baseline.columns(), looked.lengths > 0, table[:, 0], table[:, 1], table[:, 2:6], *table[:, 6:].T,
        )  # fmt: skip

    def take(self, rows: BoolArray) -> Columns:
        looks = {name: getattr(self, name).take(rows) for name in ("first", "second", "baseline")}
        return Columns(**_taken(self, rows, looks))


def read_columns(path: Path) -> tuple[RunHeader, Columns, list[Skipped]]:
    """A log's header, columns and pictures left out, without a last line that was cut short."""
    header, columns, skipped, _ = scan_log(path, Columns.of)
    if not len(columns):
        raise LogError(f"{path} has no record yet; finish the run that began it")
    return header, columns, skipped


class _Looks:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.numbers = array("d")  # six for each question
        self.tokens = array("d")  # four for each token

    def add(self, look: LoggedLook | None) -> None:
        look = look or _NO_LOOK
        flops = np.nan if look.flops is None else look.flops
        self.text.append(look.text)
        self.numbers.extend(
            (look.score, look.pixels, look.bytes, flops, look.visual_tokens, len(look.tokens))
        )
        for token in look.tokens:
            self.tokens.extend((token.min_entropy, token.shannon_entropy, token.margin, token.is_eos))

    def columns(self) -> LookColumns:
        numbers = np.array(self.numbers).reshape(-1, 6).T.copy()
        score, pixels, sent, flops = numbers[:4]
        visual, lengths = numbers[4:].astype(np.int64)
        tokens = np.array(self.tokens).reshape(-1, 4)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        measures = np.ascontiguousarray(tokens[:, :3])
        return LookColumns(
            self.text, score, pixels, sent, visual, flops, lengths, owner, measures, tokens[:, 3] > 0
        )


def _taken(columns: Any, rows: BoolArray, apart: dict[str, Any]) -> dict[str, Any]:
    """A value for each field: those that are apart, and some rows of the others."""
    found = dict(apart)
    for name in (each.name for each in fields(columns) if each.name not in apart):
        value = getattr(columns, name)
        lists = isinstance(value, list)
        found[name] = [one for one, kept in zip(value, rows, strict=True) if kept] if lists else value[rows]
    return found


def _boxes(record: Record) -> tuple[float, float, float]:
    """Area of all boxes, the share of it within the region, and area of the first box."""
    if not record.boxes:
        return np.nan, np.nan, np.nan
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in record.boxes]
    if record.region is None:
        return sum(areas), np.nan, areas[0]
    x0, y0, x1, y1 = record.region
    inside = sum(
        max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(bottom, y1) - max(top, y0))
        for left, top, right, bottom in record.boxes
    )
    return sum(areas), inside / sum(areas), areas[0]
