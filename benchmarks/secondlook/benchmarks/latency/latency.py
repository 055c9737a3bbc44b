"""The latency benchmark: flows in turns on one model, and what came out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, product
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from secondlook.benchmarks.commands import complete_rounds, progress
from secondlook.benchmarks.latency.device import ExtraMemory, Rates, measure_rates
from secondlook.benchmarks.latency.flow import (
    METRICS,
    Flow,
    Metric,
    Request,
    Sample,
    answer_in_turns,
    fresh_requests,
)
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Preset, build_subject
from secondlook.benchmarks.latency.work import TYPICAL_QUESTION, FlowName, Lengths, Work, flows_of, work_of
from secondlook.benchmarks.options import LatencyRun
from secondlook.benchmarks.timing import milliseconds
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.devices import chosen_device

_KINDS: Final = (ReferenceFlow, StrongFlow, EncodingOnceFlow, EngineFlow)
_SLOTS: Final = 2
"""Of the engine: one for each of a request's looks."""


def bench_latency(preset: Preset, run: LatencyRun) -> dict[str, Any]:
    console = Console(stderr=True)
    dtype, device = getattr(torch, run.dtype), chosen_device(run.device)
    with console.status(f"making {preset.name} ..."):
        cache = CacheSettings(most_slots=_SLOTS)
        subject = build_subject(preset, dtype, device, seed=run.seed, cache=cache)
        offered = flows_of(preset)
        flows: list[Flow] = [kind(subject) for kind in _KINDS if kind.name in offered]
    # Nothing turns or moves on the screen while something is measured: a thread would do that.
    console.print("measuring what the device reaches ...")
    rates = measure_rates(dtype, device)
    memory = ExtraMemory(device)
    rounds = run.warmups + 1 + run.repeats  # one for the memory alone
    requests = fresh_requests(subject.engine.model.global_view, run.new_tokens, rounds, run.seed)
    memory_rows = list[dict[str, Any]]()
    with progress(console, "requests", 2 * rounds * len(flows)) as go_on:
        for _ in answer_in_turns(flows, islice(requests, 2 * run.warmups)):
            go_on()
        for row in memory_in_turns(flows, islice(requests, 2), memory):
            memory_rows.append(row)
            go_on()
        measured = answer_in_turns(flows, requests)
        samples, interrupted = complete_rounds(measured, 2 * len(flows), go_on)
    if not interrupted:
        console.print("measuring again what the device reaches ...")
        rates = rates.best(measure_rates(dtype, device))
    return {
        **{f"speedup_{flow}": speedup(samples, flow) for flow in offered if flow != "ours"},
        "weights": "published" if preset.name == "demo" else "random",
        "interrupted": interrupted,
        "inputs": "every request has a new picture",
        "compiled": False,
        **_rows(preset, run, samples, rates, subject.weight_bytes),
        "agreement": {flow: agreement(samples, flow) for flow in offered if flow != "reference"},
        "memory_measure": memory.measure,
        "memory": memory_rows,
        "slots": subject.engine.slots,
        "slots_bytes": subject.engine.slots_bytes,
    }


def memory_in_turns(
    flows: Sequence[Flow], requests: Iterable[Request], memory: ExtraMemory
) -> Iterator[dict[str, Any]]:
    """Answer every request by every flow, and yield the most memory that each took beside what was held
    before. These requests tell no times."""
    for request in requests:
        for flow in flows:
            memory.reset()
            flow.answer(request)
            kind = "unsure" if request.look_twice else "sure"
            yield {"request": kind, "flow": flow.name, "extra_bytes": memory.read()}


def _rows(
    preset: Preset, run: LatencyRun, samples: Sequence[Sample], rates: Rates, weight_bytes: int
) -> dict[str, Any]:
    """The report's rows, and what their ceilings come from."""
    regions = [sample.outcome.region.size for sample in samples if sample.outcome.region is not None]
    region = sorted(regions, key=lambda size: size.pixels)[len(regions) // 2]
    lengths = Lengths.of(preset.shapes, TYPICAL_QUESTION, run.new_tokens, region)
    work = work_of(preset, TYPICAL_QUESTION, run.new_tokens, region=region, masked=False)
    return {
        "prompt_tokens": asdict(lengths),
        "rates": {**asdict(rates), "weight_bytes_per_token": weight_bytes},
        "rows": latency_rows(samples, work, rates, weight_bytes),
    }


def latency_rows(
    samples: Sequence[Sample],
    work: Mapping[bool, Mapping[FlowName, Mapping[Metric, Work]]],
    rates: Rates,
    weight_bytes: int,
) -> list[dict[str, Any]]:
    """A row for every kind of request, metric and flow that has times.

    Args:
        work: of unsure requests (True) and sure ones, by flow, until each milestone.
        weight_bytes: read for each decoded token.
    """
    rows = []
    for unsure, metric in product((True, False), METRICS):
        for flow, milestones in work[unsure].items():
            if seconds := _seconds(samples, flow, unsure, metric):
                rows.append(
                    {
                        "request": "unsure" if unsure else "sure",
                        "metric": metric,
                        "flow": flow,
                        # Of fewer than 100 requests the last is no more than a guess.
                        **milliseconds(seconds, 50, 90, 99),
                        "max_ms": 1e3 * max(seconds),
                        "ceiling_ms": 1e3 * rates.ceiling(_work(milestones, metric), weight_bytes),
                        "count": len(seconds),
                    }
                )
    return rows


def speedup(samples: Sequence[Sample], flow: str) -> float:
    """How many times ours is faster than a flow: medians until the final answer of unsure requests."""
    theirs, ours = (np.median(_seconds(samples, name, True, "final_answer")) for name in (flow, "ours"))
    return float(theirs / ours)


def agreement(samples: Sequence[Sample], flow: str) -> dict[str, float]:
    """Fractions of unsure requests on which a flow came to what the reference flow came to."""
    reference = {s.index: s.outcome for s in samples if s.unsure and s.flow == "reference"}
    outcomes = {s.index: s.outcome for s in samples if s.unsure and s.flow == flow}
    pairs = [(outcomes[index], reference[index]) for index in reference]
    return {
        "first_tokens": float(np.mean([mine.first == theirs.first for mine, theirs in pairs])),
        "region": float(np.mean([mine.region == theirs.region for mine, theirs in pairs])),
        "second_tokens": float(np.mean([mine.second == theirs.second for mine, theirs in pairs])),
    }


def _seconds(samples: Sequence[Sample], flow: str, unsure: bool, metric: Metric) -> list[float]:
    return [
        sample.outcome.seconds[metric]
        for sample in samples
        if sample.flow == flow and sample.unsure == unsure and metric in sample.outcome.seconds
    ]


def _work(milestones: Mapping[Metric, Work], metric: Metric) -> Work:
    if metric == "per_token":
        decoding = milestones["first_answer"]
        return Work(sequential=decoding.sequential // decoding.steps, steps=1)
    return milestones[metric]
