"""The latency benchmark: flows in turns on one model, and what came out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import torch
from rich.console import Console

from secondlook.benchmarks.commands import complete_rounds, progress, settings
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.device import ExtraMemory, Rates, measure_rates
from secondlook.benchmarks.latency.flow import Flow, Request, Sample, answer_in_turns, fresh_requests
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Preset, build_subject
from secondlook.benchmarks.latency.summary import BASELINES, agreement, latency_rows, speedup
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, Lengths, work_of
from secondlook.benchmarks.options import LatencyRun
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.devices import chosen_device

_SLOTS: Final = 2
"""Of the engine: one for each of a request's looks."""


def bench_latency(preset: Preset, run: LatencyRun) -> dict[str, Any]:
    """Measure a preset, with progress on stderr: the report, for JSON."""
    console = Console(stderr=True)
    dtype, device = getattr(torch, run.dtype), chosen_device(run.device)
    on = environment(str(device), run.dtype)
    with console.status(f"making {preset.name} ..."):
        cache = CacheSettings(most_slots=_SLOTS)
        subject = build_subject(preset, dtype, device, seed=run.seed, cache=cache)
        kinds = (ReferenceFlow, StrongFlow, EncodingOnceFlow, EngineFlow)
        flows: list[Flow] = [kind(subject) for kind in kinds]
    # Nothing turns or moves on the screen while something is measured: a thread would do that.
    console.print("measuring what the device reaches ...")
    rates = measure_rates(dtype, device)
    memory = ExtraMemory(device)
    rounds = run.warmups + 1 + run.repeats  # one for the memory alone
    requests = fresh_requests(preset.preprocessing.side, run.new_tokens, rounds, run.seed)
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
        **{f"speedup_{flow}": speedup(samples, flow) for flow in BASELINES},
        "weights": "published" if preset.name == "demo" else "random",
        **settings(run),
        "interrupted": interrupted,
        "inputs": "every request has a new picture",
        "compiled": False,
        **_rows(preset, run, samples, rates, subject.weight_bytes),
        "environment": on,
        "threads": torch.get_num_threads(),
        "agreement": {flow: agreement(samples, flow) for flow in FLOWS if flow != "reference"},
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
    lengths = Lengths.of(preset, TYPICAL_QUESTION, run.new_tokens)
    work = work_of(preset, lengths, masked=False)
    return {
        "prompt_tokens": asdict(lengths),
        "rates": {**asdict(rates), "weight_bytes_per_token": weight_bytes},
        "rows": latency_rows(samples, work, rates, weight_bytes),
    }
