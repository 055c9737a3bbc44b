"""The latency benchmark: flows in turns on one model, and what came out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.ceilings import Rates, measure_rates
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.flow import Flow, Metric
from secondlook.benchmarks.latency.measure import Sample, answer_in_turns, fresh_requests
from secondlook.benchmarks.latency.memory import PeakMemory
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.presets import Preset
from secondlook.benchmarks.latency.reference import ReferenceFlow
from secondlook.benchmarks.latency.strong import StrongFlow
from secondlook.benchmarks.latency.subject import build_subject
from secondlook.benchmarks.latency.summary import agreement, latency_rows, memory_rows, speedup
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, Lengths, Work, flow_work

__all__ = ["LatencyRun", "bench_latency"]


@dataclass(frozen=True)
class LatencyRun:
    """What is measured.

    Attributes:
        new_tokens: of each answer.
        repeats: measured requests of each kind, sure and unsure.
        warmups: requests of each kind before them, that do not count.
        seed: of weights, pictures and questions.
    """

    dtype: torch.dtype
    device: torch.device
    new_tokens: int = 4
    repeats: int = 20
    warmups: int = 2
    seed: int = 0


def bench_latency(preset: Preset, run: LatencyRun) -> dict[str, Any]:
    """Measure a preset, with progress on stderr: the report, for JSON."""
    console = Console(stderr=True)
    with console.status(f"making {preset.name} ..."):
        subject = build_subject(preset, run.dtype, run.device, seed=run.seed)
        flows: list[Flow] = [ReferenceFlow(subject), StrongFlow(subject), EngineFlow(subject)]
    rates = _rates(run, console)
    memory = PeakMemory(run.device)
    samples = _samples(flows, preset, run, memory, console)
    rates = rates.best(_rates(run, console))
    lengths = Lengths.of(preset.layout, TYPICAL_QUESTION, run.new_tokens)
    rows = latency_rows(samples, _work(preset, lengths), rates, subject.weight_bytes)
    return {
        "speedup_reference": speedup(samples, "reference"),
        "speedup_strong": speedup(samples, "strong"),
        "preset": preset.name,
        "weights": "published" if preset.name == "demo" else "random",
        "new_tokens": run.new_tokens,
        "repeats": run.repeats,
        "warmups": run.warmups,
        "seed": run.seed,
        "inputs": "every request has a new picture and question; no flow has seen it before",
        "prompt_tokens": asdict(lengths),
        "environment": environment(str(run.device), str(run.dtype).removeprefix("torch.")),
        "threads": torch.get_num_threads(),
        "rates": {**asdict(rates), "weight_bytes_per_token": subject.weight_bytes},
        "agreement": {flow: agreement(samples, flow) for flow in ("strong", "ours")},
        "rows": [asdict(row) for row in rows],
        "memory_measure": memory.measure,
        "memory": [asdict(row) for row in memory_rows(samples)],
    }


def _rates(run: LatencyRun, console: Console) -> Rates:
    with console.status("measuring what the device reaches ..."):
        return measure_rates(run.dtype, run.device)


def _samples(
    flows: list[Flow], preset: Preset, run: LatencyRun, memory: PeakMemory, console: Console
) -> list[Sample]:
    """All samples but those of the warm-up."""
    rounds = run.warmups + run.repeats
    requests = fresh_requests(preset.preprocessing.side, run.new_tokens, rounds, run.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    samples = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("requests", total=2 * rounds * len(flows))
        for sample in answer_in_turns(flows, requests, memory):
            progress.advance(task)
            if sample.index >= 2 * run.warmups:
                samples.append(sample)
    return samples


def _work(preset: Preset, lengths: Lengths) -> dict[str, dict[Metric, Work]]:
    passes = PassFlops(preset.config)
    return {flow: flow_work(flow, passes, lengths, preset.settings.probe_layer) for flow in FLOWS}
