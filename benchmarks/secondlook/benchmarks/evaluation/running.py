"""A full-retransmission run over a data set: with its log, its progress, and its part of the work.

The logs of a run's shards are joined to the log that the run would have had undivided.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from secondlook.benchmarks.commands import progress
from secondlook.benchmarks.datasets.question import DataSet, MalformedDataError
from secondlook.benchmarks.environment import PACKAGES, environment
from secondlook.benchmarks.evaluation.asking import ask_all, load_run_model, needed_room
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.run_log import (
    LogError,
    LoggedPicture,
    LoggedRun,
    Record,
    RunHeader,
    RunLog,
    Shard,
    Skipped,
    differences,
    read_log,
    write_log,
)
from secondlook.edge.errors import SettingsError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.opening import draws_bars, loading_status


@dataclass(frozen=True)
class FinishedRun:
    """A run's records, and what is worth saying of it.

    Attributes:
        skipped: pictures that could not be read.
        threshold: the model's own.
        described: model, weights, settings and shapes, and the environment of this run, for JSON.
    """

    records: list[Record]
    skipped: list[Skipped]
    threshold: float
    described: dict[str, Any]


def run(
    data: DataSet, asking: Asking, log: Path, *, shard: Shard | None = None, processes: int | None = None
) -> FinishedRun:
    """Ask about all pictures of the shard that are not in the log yet.

    Args:
        processes: by default one for each core, but a single one on a GPU.
    """
    shard = Shard() if shard is None else shard
    mine = [index for index in range(len(data.pictures)) if shard.has(index)]
    if not mine:
        raise SettingsError(f"shard {shard} has none of the {len(data.pictures)} pictures; divide them less")
    with loading_status(asking.model):
        model = load_run_model(asking, progress=draws_bars(asking.model))
    described = _described(model, asking)
    threshold, on_gpu = model.settings.default_threshold, model.device.type == "cuda"
    header = _header(data, asking, described, threshold, shard)
    with contextlib.closing(RunLog(log, header)) as run_log:
        done = run_log.done()
        missing = [index for index in mine if index not in done]
        asked = [model] if asking.baseline is None else [model, model.high_resolution()]
        room, *_ = [needed_room(one, (data.pictures[index] for index in missing)) for one in asked]
        workers = min(processes or (1 if on_gpu else os.cpu_count() or 1), max(1, len(missing)))
        shared = model if workers == 1 else None
        del model, asked  # the workers have their own, and there may not be memory for one more
        known = len(mine) - len(missing)
        with progress(Console(stderr=True), "pictures", len(mine), known) as go_on:
            pictures = (data.pictures[index] for index in missing)
            for picture in ask_all(asking, pictures, workers, room, shared):
                run_log.append(picture)
                go_on()
        records = [record for record in run_log.records if record.index < len(data.pictures)]
        skipped = [one for one in run_log.skipped if one.index < len(data.pictures)]
        if not records:
            raise MalformedDataError(f"none of {len(skipped)} pictures can be read: {skipped[0].why}")
        return FinishedRun(records, skipped, threshold, described)


def _described(model: VisionLanguageModel, asking: Asking) -> dict[str, Any]:
    views = {"global_view": model.global_view, "local_view": model.local_view}
    if asking.baseline is not None:
        views["baseline_view"] = model.high_resolution().global_view
    # Any threshold can be replayed from a log; whatever else a checkpoint sets changes what is logged.
    settings = {name: value for name, value in asdict(model.settings).items() if name != "threshold"}
    return {
        "model": model.name,
        "revision": {} if model.revision is None else {"revision": model.revision},
        "weights": model.digest(),
        "settings": {
            **settings,
            "localisation": model.localisation.to_json(),
            **{name: view.model_dump(mode="json") for name, view in views.items()},
        },
        "environment": environment(str(model.device), model.precision),
    }


def _header(
    data: DataSet, asking: Asking, described: dict[str, Any], threshold: float, shard: Shard
) -> RunHeader:
    made = {"model": described["model"], "threshold": threshold}
    made |= described["environment"] | described["revision"]
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


def merge_logs(logs: Sequence[Path], output: Path) -> RunHeader:
    """Write the pictures of all shards, in order, into one log; returns its header.

    What each shard was made on stays stated, once if it is the same.
    """
    if output.exists():
        raise LogError(f"{output} is there already; choose another file")
    runs = {path: read_log(path) for path in dict.fromkeys(logs)}
    if not runs:
        raise LogError("there is nothing to merge: name the logs of all shards")
    _check_shards(runs)
    pictures = _pictures(runs)
    in_order = sorted(runs.values(), key=lambda run: run.header.shard.number)
    made = [run.header.made for run in in_order]
    alike = all(one == made[0] for one in made)
    header = RunHeader(next(iter(runs.values())).header.settings, made[0] if alike else {"shards": made})
    write_log(output, header, pictures)
    return header


def _check_shards(runs: dict[Path, LoggedRun]) -> None:
    (first, begun), *_ = runs.items()
    settings, count = begun.header.settings, begun.header.shard.count
    seen: dict[int, Path] = {}
    for path, run in runs.items():
        shard = run.header.shard
        if other := differences(run.header.settings, settings):
            raise LogError(
                f"{path} and {first} are logs of different runs, which are never mixed: in {path.name} "
                f"{'; '.join(other)} as in {first.name}"
            )
        if shard.count != count:
            raise LogError(f"{path} is shard {shard}, but {first} is one of {count}")
        if shard.number in seen:
            raise LogError(f"{path} and {seen[shard.number]} are both shard {shard}")
        seen[shard.number] = path
    absent = [f"{number}/{count}" for number in range(1, count + 1) if number not in seen]
    if absent:
        raise LogError(f"the logs of some shards are missing: {', '.join(absent)}")


def _pictures(runs: dict[Path, LoggedRun]) -> list[LoggedPicture]:
    found: dict[int, LoggedPicture] = {one.index: one for run in runs.values() for one in run.skipped}
    for path, run in runs.items():
        for index, records in groupby(run.records, key=lambda record: record.index):
            if index in found or not run.header.shard.has(index):
                raise LogError(
                    f"{path} is damaged: picture {index} is not for shard {run.header.shard} alone"
                )
            found[index] = list(records)
    for path, run in runs.items():
        shard = run.header.shard
        lacking = [i for i in range(max(found, default=0)) if shard.has(i) and i not in found]
        if lacking:
            raise LogError(
                f"{path}, shard {shard}, lacks {len(lacking)} pictures, such as {lacking[0]}; finish it with "
                "the command that began it"
            )
    return [found[index] for index in sorted(found)]
