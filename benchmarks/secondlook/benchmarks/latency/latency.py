"""The latency benchmark: flows in turns on one model, and what came out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Literal

import torch
from rich.console import Console

from secondlook.benchmarks.commands import progress, settings
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.device import ExtraMemory, Rates, measure_rates
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.flow import Flow, Request, Sample, answer_in_turns, fresh_requests
from secondlook.benchmarks.latency.ours import EngineFlow
from secondlook.benchmarks.latency.published import EncodingOnceFlow, ReferenceFlow, StrongFlow
from secondlook.benchmarks.latency.subject import Preset, Served, build_subject, onnx_encoder
from secondlook.benchmarks.latency.summary import BASELINES, agreement, latency_rows, speedup
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, Lengths, flow_work
from secondlook.edge.errors import SettingsError
from secondlook.engine.decode.cache import CacheSettings


_SLOTS: Final = 2
"""Of the engine: one for each of a request's looks."""


@dataclass(frozen=True)
class LatencyRun:
    """What is measured.

    Attributes:
        new_tokens: of each answer.
        repeats: measured requests of each kind, sure and unsure.
        warmups: requests of each kind before them, that do not count.
        seed: of weights, pictures and questions.
        vision: what encodes pictures for our engine; "onnx" is ONNX Runtime on a graph that is exported
            before, in float32.
    """

    dtype: torch.dtype
    device: torch.device
    new_tokens: int = 4
    repeats: int = 20
    warmups: int = 2
    seed: int = 0
    vision: Literal["torch", "onnx"] = "torch"

    def __post_init__(self) -> None:
        if self.vision == "onnx" and self.device.type != "cpu":
            raise SettingsError(
                f"vision 'onnx' is measured on the CPU, not on {self.device}; use --device cpu"
            )


@dataclass(frozen=True)
class MemoryRow:
    """The most memory that a flow took while it answered one request, beside what was held before."""

    request: str
    flow: str
    extra_bytes: int


@dataclass
class _Measured:
    """What is known so far."""

    samples: list[Sample] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)


def bench_latency(preset: Preset, run: LatencyRun, tell: Callable[[dict[str, Any]], None]) -> None:
    """Measure a preset, with progress on stderr, and tell the report, for JSON.

    An error or Ctrl-C while requests are answered passes through; if rounds were complete by then, their
    report is told before.
    """
    console = Console(stderr=True)
    on = environment(str(run.device), str(run.dtype).removeprefix("torch."))
    with console.status(f"making {preset.name} ..."):
        subject = build_subject(
            preset,
            run.dtype,
            run.device,
            seed=run.seed,
            cache=CacheSettings(most_slots=_SLOTS),
            prepare=_in_onnx_runtime if run.vision == "onnx" else lambda served: served,
        )
        ours = EngineFlow(subject)
        flows: list[Flow] = [ReferenceFlow(subject), StrongFlow(subject), EncodingOnceFlow(subject), ours]
    # Nothing turns or moves on the screen while something is measured: a thread would do that.
    console.print("measuring what the device reaches ...")
    rates = measure_rates(run.dtype, run.device)
    memory = ExtraMemory(run.device)
    measured = _Measured()

    def report(samples: Sequence[Sample], rates: Rates, *, interrupted: bool) -> dict[str, Any]:
        return {
            **{f"speedup_{flow}": speedup(samples, flow) for flow in BASELINES},
            "preset": preset.name,
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
            "memory": [asdict(row) for row in measured.memory],
            "slots": subject.engine.slots,
            "slots_bytes": ours.slots_bytes,
        }

    try:
        _measure(flows, preset, run, memory, console, measured)
        console.print("measuring again what the device reaches ...")
        rates = rates.best(measure_rates(run.dtype, run.device))
    except BaseException:
        complete = len(measured.samples) - len(measured.samples) % (2 * len(flows))
        if complete:
            tell(report(measured.samples[:complete], rates, interrupted=True))
        raise
    tell(report(measured.samples, rates, interrupted=False))


def _in_onnx_runtime(model: Served) -> Served:
    with onnx_encoder(model, "float32") as encoder:
        return model.with_encoder(encoder)


def _measure(
    flows: Sequence[Flow],
    preset: Preset,
    run: LatencyRun,
    memory: ExtraMemory,
    console: Console,
    measured: _Measured,
) -> None:
    """The warm-up, a round for the memory alone, and those for the times; the progress is shown between
    requests."""
    rounds = run.warmups + 1 + run.repeats
    requests = fresh_requests(preset.preprocessing.side, run.new_tokens, rounds, run.seed)
    warmups, one = islice(requests, 2 * run.warmups), islice(requests, 2)
    with progress(console, "requests", 2 * rounds * len(flows)) as go_on:
        for _ in answer_in_turns(flows, warmups):
            go_on()
        for row in memory_in_turns(flows, one, memory):
            measured.memory.append(row)
            go_on()
        for sample in answer_in_turns(flows, requests):
            measured.samples.append(sample)
            go_on()


def memory_in_turns(
    flows: Sequence[Flow], requests: Iterable[Request], memory: ExtraMemory
) -> Iterator[MemoryRow]:
    """Answer every request by every flow, and yield what memory each took. These requests tell no times."""
    for request in requests:
        for flow in flows:
            memory.reset()
            flow.answer(request)
            yield MemoryRow("unsure" if request.look_twice else "sure", flow.name, memory.read())


def _rows(
    preset: Preset, run: LatencyRun, samples: Sequence[Sample], rates: Rates, weight_bytes: int
) -> dict[str, Any]:
    """The report's rows, and what their ceilings come from."""
    lengths = Lengths.of(preset, TYPICAL_QUESTION, run.new_tokens)
    passes, layer = PassFlops(preset.config, masked=False), preset.localisation.layer
    work = {
        unsure: {str(flow): flow_work(flow, passes, lengths, layer, unsure=unsure) for flow in FLOWS}
        for unsure in (True, False)
    }
    return {
        "prompt_tokens": asdict(lengths),
        "rates": {**asdict(rates), "weight_bytes_per_token": weight_bytes},
        "rows": [asdict(row) for row in latency_rows(samples, work, rates, weight_bytes)],
    }
