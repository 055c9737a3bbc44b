"""A full-retransmission run over a data set: with its log, its progress, and its part of the work."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from secondlook.benchmarks.datasets.question import DataSet
from secondlook.benchmarks.environment import PACKAGES, environment
from secondlook.benchmarks.evaluation.asking import Asking, ask_all, load_adapter, needed_room
from secondlook.benchmarks.evaluation.sizes import ModelSizes
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.run_log import RunHeader, RunLog, Shard
from secondlook.edge.errors import SettingsError
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.engine.opening import draws_bars, loading_status

__all__ = ["FinishedRun", "run"]

_RATE_SECONDS = 600.0
"""Pictures may take long: the rate is their mean over the last ten minutes."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's records, and what is worth saying of it.

    Attributes:
        threshold: the model's own.
        described: model, weights, settings and shapes, and the environment of this run, for JSON.
    """

    header: RunHeader
    records: list[Record]
    threshold: float
    described: dict[str, Any]


def run(
    data: DataSet, asking: Asking, log: Path, *, shard: Shard | None = None, processes: int | None = None
) -> FinishedRun:
    """Ask about all pictures of the shard that are not in the log yet.

    Args:
        processes: by default one for each core, but a single one on a GPU.

    Raises:
        LogError: `log` is of another run, or cannot be written.
        ModelError, SettingsError: the model cannot be loaded, or the shard is empty.
        DataSetError, QuestionError: see `ask_all`.
    """
    shard = Shard() if shard is None else shard
    mine = [index for index in range(len(data.pictures)) if shard.has(index)]
    if not mine:
        raise SettingsError(f"shard {shard} has none of the {len(data.pictures)} pictures; divide them less")
    with loading_status(asking.model):
        model = load_adapter(asking, progress=draws_bars(asking.model))
    described = _described(model)
    threshold, on_gpu = model.settings.threshold, model.device.type == "cuda"
    header = _header(data, asking, described, threshold, shard)
    with contextlib.closing(RunLog(log, header)) as run_log:
        done = run_log.done()
        missing = [index for index in mine if index not in done]
        room = needed_room(model, (data.pictures[index] for index in missing))
        workers = min(processes or (1 if on_gpu else os.cpu_count() or 1), max(1, len(missing)))
        shared = model if workers == 1 else None
        del model  # the workers have their own, and there may not be memory for one more
        with _progress() as progress:
            task = progress.add_task("pictures", total=len(mine), completed=len(mine) - len(missing))
            pictures = (data.pictures[index] for index in missing)
            for records in ask_all(asking, pictures, workers, room, shared):
                run_log.append(records)
                progress.advance(task)
        records = [record for record in run_log.records if record.index < len(data.pictures)]
        return FinishedRun(run_log.header, records, threshold, described)


def _described(model: LlavaAdapter) -> dict[str, Any]:
    # Any threshold can be replayed from a log; whatever else a checkpoint sets changes what is logged.
    settings = {name: value for name, value in asdict(model.settings).items() if name != "threshold"}
    return {
        "model": model.name,
        "weights": model.digest(),
        "settings": settings,
        "image_size": model.image_size,
        "grid": list(model.grid),
        "sizes": asdict(ModelSizes.of(model)),
        "environment": environment(str(model.device), str(model.dtype).removeprefix("torch.")),
    }


def _header(
    data: DataSet, asking: Asking, described: dict[str, Any], threshold: float, shard: Shard
) -> RunHeader:
    made = {"model": described["model"], "threshold": threshold, "sizes": described["sizes"]}
    made |= described["environment"]
    versions = {name: made.pop(name) for name in PACKAGES}
    model = {"weights": described["weights"], "dtype": made.pop("dtype"), **described["settings"]}
    return RunHeader(
        settings={
            "data": {"name": data.name, **data.settings},
            "model": model,
            "jpeg": {"global": asdict(asking.global_jpeg), "local": asdict(asking.local_jpeg)},
            "versions": versions,
        },
        made=made,
        shard=shard,
    )


class _RateColumn(ProgressColumn):
    """Pictures a second, or seconds a picture."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("-/s")
        return Text(f"{task.speed:.1f}/s" if task.speed >= 1 else f"{1 / task.speed:.1f} s each")


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return Progress(*columns, console=Console(stderr=True), speed_estimate_period=_RATE_SECONDS)
