"""Logs read for a report: what is of one run but for one kind of settings belongs together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import Columns, read_columns
from secondlook.benchmarks.run_log import LogError, RunHeader, Skipped, differences, refusing
from secondlook.edge.wire import View


@dataclass(frozen=True)
class Run:
    path: Path
    header: RunHeader
    columns: Columns
    skipped: list[Skipped]

    @property
    def made(self) -> dict[str, Any]:
        """What the log was made by and on; of shards from several machines the first's, for what a report
        takes from it is the same for all."""
        made = self.header.made
        found: dict[str, Any] = made["shards"][0] if "shards" in made else made
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the log's bytes, its first 16 hexadecimal digits."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    @property
    def qualities(self) -> tuple[int, int]:
        """JPEG qualities of global and local image."""
        jpeg = self.header.settings["jpeg"]
        return int(jpeg["global"]["quality"]), int(jpeg["local"]["quality"])

    @property
    def views(self) -> tuple[View, View]:
        """Of the global and of the local image."""
        model = self.header.settings["model"]
        return View.model_validate(model["global_view"]), View.model_validate(model["local_view"])

    def check(self) -> None:
        """Make sure that the header has what is taken from it."""
        settings = self.header.settings
        settings["data"]["name"], settings["model"]["weights"], settings["model"]["dtype"], self.made
        self.qualities, self.views  # noqa: B018


@dataclass(frozen=True)
class Family:
    """Logs of the same questions to the same model, with different JPEG qualities, or other regions.

    Attributes:
        runs: the first is the one that all is drawn for but the qualities.
        compared: the same runs, of pictures that are in every one of them.
        left_out: how many pictures are not, and so are not compared.
    """

    runs: tuple[Run, ...]
    compared: tuple[Run, ...]
    left_out: int

    @property
    def main(self) -> Run:
        return self.runs[0]

    @property
    def data(self) -> dict[str, Any]:
        """The data set's settings, with its name."""
        found: dict[str, Any] = self.main.header.settings["data"]
        return found


PRECISION: Final = ("model.dtype", "model.weights")
_APART: Final[dict[str | tuple[str, ...], str]] = {
    "jpeg.": "JPEG qualities",
    "model.localisation": "where the model looks closer",
    PRECISION: "precision",
}


def read_family(paths: Sequence[Path], differing: str | tuple[str, ...] = "jpeg.") -> Family:
    """The logs, put together.

    Args:
        differing: the settings that may be of each log its own.
    """
    runs = [read_run(path) for path in dict.fromkeys(paths)]
    for run, other in combinations(runs, 2):
        apart = differences(other.header.settings, run.header.settings)
        if not apart:
            raise LogError(f"{other.path} and {run.path} are logs of the same run; name one of them")
        more = [each for each in apart if not each.startswith(differing)]
        if more:
            raise LogError(
                f"{other.path} and {run.path} differ in more than {_APART[differing]} ({'; '.join(more)}); "
                "report each by itself"
            )
    pictures = [set(run.columns.picture.tolist()) for run in runs]
    common = set.intersection(*pictures)
    if not common:
        raise LogError(
            f"{runs[0].path} and {runs[1].path} have no picture in common, so there is nothing to compare"
        )
    chosen = np.array(sorted(common))
    kept = [replace(run, columns=run.columns.take(np.isin(run.columns.picture, chosen))) for run in runs]
    return Family(tuple(runs), tuple(kept), len(set.union(*pictures)) - len(common))


def read_run(path: Path) -> Run:
    """A log of all of a run, with second looks."""
    header, columns, skipped = read_columns(path)
    if header.shard.count > 1:
        raise LogError(f"{path} is shard {header.shard} alone; join them all first: secondlook eval merge")
    if not columns.possible.any():
        raise LogError(
            f"{path} has no second look: no picture had detail to gain, and there is nothing to weigh"
        )
    run = Run(path, header, columns, skipped)
    with refusing(path):
        run.check()
    return run
