"""The replicas benchmark: servers that run behind one address, beside what the simulation of `plan` says.

In each round every replica is measured by itself, all at the same time, for they may share a machine; and
then all together, by the address before them. So what else the machine does is in both.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, Final

import httpx
from rich.console import Console

from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.load import load_rows
from secondlook.benchmarks.load_edges import Phase, PhaseResult, run_phase
from secondlook.benchmarks.options import ReplicasRun
from secondlook.benchmarks.queueing import Demand, LoadCurve, simulate
from secondlook.edge.wire import PROTOCOL, PROTOCOL_HEADER

_COMPARED: Final = ("answers_per_second", "p50_ms", "p90_ms")
_SAMPLE: Final = 1000
_QUESTIONS: Final = 20_000

Phases = tuple[int | None, list[PhaseResult]]
"""Edges of each replica, and what came of them, one for each; None: of all together, and one."""


def bench_replicas(run: ReplicasRun) -> dict[str, Any]:
    console = Console(stderr=True)
    name = _model(run)
    phases, interrupted = complete_rounds(_phases(run, console), len(run.counts) + 1)
    alone = defaultdict[int, list[PhaseResult]](list)
    together = list[PhaseResult]()
    for count, results in phases:
        (together if count is None else alone[count]).extend(results)
    curve_rows = load_rows(dict(alone), run.seconds)
    (measured,) = load_rows({run.edges: together}, run.seconds)
    curve = LoadCurve.of({"rows": curve_rows, "delay_ms": 0.0, "slots": None})
    twice = round(_SAMPLE * measured["looked_twice"])
    demand = Demand(run.edges, run.rate, (True,) * twice + (False,) * (_SAMPLE - twice))
    served = simulate(curve, demand, len(run.replica), _QUESTIONS, run.seed)
    simulated = {
        "answers_per_second": served.answers_per_second,
        "p50_ms": served.percentile_ms(50),
        "p90_ms": served.percentile_ms(90),
    }
    return {
        "preset": name,
        "replicas": len(run.replica),
        "rounds": len(phases) // (len(run.counts) + 1),
        "interrupted": interrupted,
        "curve": curve_rows,
        "spread": _spread(alone[run.counts[-1]], run.seconds),
        "measured": measured,
        "simulated": simulated,
        "off": {each: simulated[each] / measured[each] - 1 for each in _COMPARED},
    }


def _model(run: ReplicasRun) -> str:
    """What all of them serve; so that none is asked in vain."""
    names = {_model_of(url) for url in (run.server, *run.replica)}
    if len(names) > 1:
        raise MeasurementError(f"the servers have several models: {', '.join(sorted(names))}")
    return names.pop()


def _model_of(url: str) -> str:
    try:
        card = httpx.get(f"{url.rstrip('/')}/v1/model", headers={PROTOCOL_HEADER: PROTOCOL})
        name: str = card.raise_for_status().json()["name"]
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{url} is no server that is ready: {error}") from error
    return name


def _phases(run: ReplicasRun, console: Console) -> Iterator[Phases]:
    spawned = multiprocessing.get_context("spawn")
    load = run.load
    with (
        ProcessPoolExecutor(len(run.replica), spawned) as processes,
        progress(console, "phases", run.rounds * (len(run.counts) + 1)) as go_on,
    ):
        for number in range(run.rounds):
            for count in run.counts:
                asked = [
                    processes.submit(run_phase, Phase(url, load, count, (run.seed, number, count, place)))
                    for place, url in enumerate(run.replica)
                ]
                yield count, [each.result() for each in asked]
                go_on()
            paced = Phase(run.server, replace(load, rate=run.rate), run.edges, (run.seed, number))
            yield None, [processes.submit(run_phase, paced).result()]
            go_on()


def _spread(results: list[PhaseResult], seconds: float) -> float:
    """By how much one phase differs from another like it: the deviation of their answers, over the mean."""
    answers = [sum(one.failure is None for one in phase.asked) / seconds for phase in results]
    return statistics.stdev(answers) / statistics.fmean(answers) if len(answers) > 1 else 0.0
