"""The load benchmark: answers a second of many edges on one server, beside one edge at a time, in phases."""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from rich.console import Console

from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.latency.subject import Preset, build_subject
from secondlook.benchmarks.load_edges import Phase, PhaseResult, run_phase
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.options import LoadRun
from secondlook.benchmarks.timing import milliseconds
from secondlook.engine.devices import chosen_device


def bench_load(preset: Preset, run: LoadRun) -> dict[str, Any]:
    console, slots = Console(stderr=True), None
    if run.server is not None:
        results, interrupted = complete_rounds(_phases(run, run.server, console), len(run.counts))
    else:
        dtype, device = getattr(torch, run.dtype), chosen_device(run.device)
        with console.status(f"making {preset.name} ..."):
            subject = build_subject(preset, dtype, device, seed=run.seed)
        slots = subject.engine.slots
        with loopback_server(subject.engine) as url:
            results, interrupted = complete_rounds(_phases(run, url, console), len(run.counts))
    by_count = {count: results[place :: len(run.counts)] for place, count in enumerate(run.counts)}
    rows = load_rows(by_count, run.seconds)
    return {
        "speedup_sequential": rows[-1]["speedup"],
        "weights": "published" if preset.name == "demo" else "random",
        "rounds": len(results) // len(run.counts),
        "interrupted": interrupted,
        "inputs": "every question has a new picture; edges are clients in one other process here",
        "slots": slots,
        "rows": rows,
    }


def _phases(run: LoadRun, url: str, console: Console) -> Iterator[PhaseResult]:
    """The result of every phase: in each round one for each number of edges."""
    # A process of their own: edges are not to take the server's interpreter from it.
    spawned = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawned) as process,
        progress(console, "phases", run.rounds * len(run.counts)) as go_on,
    ):
        for number, count in itertools.product(range(run.rounds), run.counts):
            phase = Phase(url, run, count, (run.seed, number, count))
            yield process.submit(run_phase, phase).result()
            go_on()


def load_rows(results: dict[int, list[PhaseResult]], seconds: float) -> list[dict[str, Any]]:
    """A row for each number of edges, from phases of `seconds`; percentiles are of the milliseconds to the
    final answer. A refusal (429) is asked again, a failure stays without its answer."""
    rows: list[dict[str, Any]] = []
    for count, phases in results.items():
        asked = [each for phase in phases for each in phase.asked]
        answered = [each for each in asked if each.failure is None]
        if not answered:
            why = f"the last failure: {asked[-1].failure}" if asked else "give --seconds more"
            raise MeasurementError(
                f"not one question of {count} edges was answered in {seconds:g} seconds; {why}"
            )
        rate = len(answered) / (seconds * len(phases))
        kinds = [[each.seconds for each in answered if each.unsure == unsure] for unsure in (False, True)]
        sure, unsure = (milliseconds(kind, 50)["p50_ms"] if kind else None for kind in kinds)
        rows.append(
            {
                "edges": count,
                "answers_per_second": rate,
                "speedup": rate / rows[0]["answers_per_second"] if rows else 1.0,
                **milliseconds([each.seconds for each in answered], 50, 90, 99),
                "sure_p50_ms": sure,
                "unsure_p50_ms": unsure,
                "answers": len(answered),
                "refusals": sum(phase.statuses[429] for phase in phases),
                "failures": len(asked) - len(answered),
                "looked_twice": statistics.fmean(each.looked_twice for each in answered),
                "bytes_up": statistics.fmean(each.bytes_up for each in answered),
            }
        )
    return rows
