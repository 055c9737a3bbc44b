"""Logs of runs that never were: random records, with everything in them that a report shows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.benchmarks.run_log import LoggedLook, Record, RunHeader, Shard, write_log
from secondlook.edge.wire import Fixed, Relevance, View
from secondlook.engine.method.uncertainty import TokenStatistics


def random_records(pictures: int, seed: int = 0, quality: int = 90) -> list[Record]:
    """Two questions a picture; right first answers are mostly surer, and second ones mostly right. The last
    picture has no second look. Better quality costs bytes, and helps a little."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(pictures):
        for kind in ("read", "exists"):
            right = bool(rng.random() < (0.5 if kind == "read" else 0.9))
            again = bool(rng.random() < 0.85 + quality / 1000)
            width = int(rng.integers(1000, 4000))
            side = float(rng.integers(20, 400))
            region = None if index == pictures - 1 else (100, 200, 436, 536)
            second = None if region is None else _look(rng, again, 80 * quality + 2000, 2)
            found.append(
                Record(
                    index=index,
                    type=kind,
                    question=f"What number is on sign {index} <{kind}>?",
                    truth="42",
                    first=_look(rng, right, 100 * quality + 3000, 1),
                    second=second,
                    region=region,
                    region_hit=None if region is None or kind == "exists" else bool(rng.random() < 0.9),
                    original_pixels=width * 1000,
                    original_bytes=width * 250,
                    boxes=((200.0, 250.0, 200.0 + side, 250.0 + side),) if kind == "read" else (),
                    relevance=_relevance(rng) if region else None,
                )
            )
    return found


def _relevance(rng: np.random.Generator) -> Relevance:
    cells = rng.integers(256, size=144, dtype=np.uint8)
    return Relevance(width=12, height=12, data=b64encode(cells.tobytes()).decode())


def _look(rng: np.random.Generator, right: bool, size: int, images: int) -> LoggedLook:
    doubt = rng.gamma(1.0 if right else 6.0, 0.1, int(rng.integers(2, 9)))
    tokens = tuple(
        TokenStatistics(
            float(one), float(1.3 * one + 0.01), float(1 - np.exp(-one)), is_eos=place == len(doubt) - 1
        )
        for place, one in enumerate(doubt)
    )
    sent = int(size + rng.integers(500))
    text, rows = "42" if right else "24", 14 + 145 * images
    return LoggedLook(text, float(right), tokens, 28_224, sent, 144, rows, rows * 10**7)


VIEW = View(size=Fixed(width=168, height=168)).model_dump(mode="json")


def header(**settings: Any) -> RunHeader:
    """Of a run over signs; `settings` go over its own, `quality` is both looks'."""
    quality = settings.pop("quality", 90)
    jpeg = {"global": {"quality": quality, "subsampling": "4:4:4"}}
    jpeg["local"] = {"quality": quality, "subsampling": "4:2:0"}
    made: dict[str, Any] = {"model": "demo", "threshold": 0.25, "device": "a processor"}
    values = {
        "data": {"name": "signs", "split": "test", "seed": 3},
        "model": {
            "weights": "c0ffee",
            "localisation": {"layers": {"2": None}},
            "dtype": "float32",
            "global_view": VIEW,
            "local_view": VIEW,
        },
        "jpeg": jpeg,
        **settings,
    }
    return RunHeader(values, made)


def write_run(path: Path, records: Iterable[Record], head: RunHeader | None = None) -> Path:
    """A log of these records, in their order."""
    pictures = [list(group) for _, group in groupby(records, key=lambda record: record.index)]
    write_log(path, header() if head is None else head, pictures)
    return path


def shard_of(head: RunHeader) -> RunHeader:
    return RunHeader(head.settings, head.made, Shard(1, 2))
