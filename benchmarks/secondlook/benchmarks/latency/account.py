"""Where the time of an answer goes: the engine's passes, each beside its floor, operator by operator.

A pass's floor is the longer of two times at what the device reaches in the same turns: of its FLOPs at the
rate of a large matrix product, and of the bytes that it must read, weights and cache, at that of a large sum.
Operators' times are PyTorch's profiler's, in runs of their own, for it slows them; what is left between them
is the interpreter, and whatever waits.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch
from PIL import Image
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from secondlook.benchmarks.latency.device import RateMeter, Rates
from secondlook.benchmarks.latency.flow import Stopwatch
from secondlook.benchmarks.latency.subject import Preset, Subject, build_subject, served, weight_bytes
from secondlook.benchmarks.latency.work import TYPICAL_QUESTION
from secondlook.benchmarks.options import AccountRun
from secondlook.edge.geometry import Size
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.devices import chosen_device
from secondlook.engine.flops import PassFlops
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.rounding import Quantise
from secondlook.kernels import multiplies_bytes

_ORIGINAL: Final = Size(640, 480)
_WARMUPS: Final = 2
_STEPS: Final = 4
"""Decode steps in a row that are measured as one, for in an answer one follows the other."""
_TOLD: Final = 0.005
"""Share of a pass from which an operator is told by itself."""


@dataclass(frozen=True)
class Pass:
    """One of the engine's passes.

    Attributes:
        run: computes it once more.
        flops: as transformers' modules compute it. Of a prompt the engine computes a little less on a CPU: of
            the last layer, but for keys and values, its last row alone.
        reads: bytes that it must read: weights, and of the cache what is attended to.
        times: that it is run in a row whenever it is measured.
    """

    name: str
    run: Callable[[], object]
    flops: int
    reads: int
    times: int = 1

    def floor(self, rates: Rates) -> float:
        """Seconds."""
        return max(self.flops / rates.flops_per_second, self.reads / rates.bytes_per_second)


def bench_account(preset: Preset, run: AccountRun) -> dict[str, Any]:
    console = Console(stderr=True)
    dtype, device = getattr(torch, run.dtype), chosen_device(run.device)
    with console.status(f"making {preset.name} ..."):
        cache = CacheSettings(most_slots=1)  # the engine's own slots are not used here
        subject = build_subject(preset, dtype, device, seed=run.seed, cache=cache)
        passes = passes_of(subject, run)
    meter = RateMeter(dtype, device)
    seconds: dict[str, list[float]] = {each.name: [] for each in passes}
    with console.status("measuring ..."):
        for number in range(_WARMUPS + run.repeats):
            if number >= _WARMUPS:
                meter.turn()
            for each in passes:
                watch = Stopwatch(device)
                for _ in range(each.times):
                    each.run()
                if number >= _WARMUPS:
                    seconds[each.name].append(watch.read() / each.times)
    rates = meter.median()
    rows = []
    for each in passes:
        taken, floor = statistics.median(seconds[each.name]), each.floor(rates)
        rows.append(
            {
                "pass": each.name,
                "ms": 1e3 * taken,
                "floor_ms": 1e3 * floor,
                "ratio": taken / floor,
                "gflop": each.flops / 1e9,
                "reads_mb": each.reads / 1e6,
                "operators": operators(each.run, run.repeats, device),
            }
        )
    return {"rates": asdict(rates), "rows": rows}


def passes_of(subject: Subject, run: AccountRun) -> list[Pass]:
    """Encoding a picture; a question's prefill, with the attention that is read; steps of one sequence, and
    of several."""
    model, shapes = subject.engine.model, subject.preset.shapes
    image = Image.new("RGB", (_ORIGINAL.width, _ORIGINAL.height), (90, 120, 150))
    picture = model.picture(image, model.global_view, _ORIGINAL)
    prompt = model.prompt(model.tokens(TYPICAL_QUESTION), (picture.grid,))
    counts = tuple(dict.fromkeys(run.sequences or (1, 16)))
    length, most = len(prompt.ids), max(counts)
    steps = ((_WARMUPS + run.repeats) * _STEPS + run.repeats + 1) * len(counts) + 1
    rows = model.rows(prompt, 0, model.encode([picture]))

    def decoder_of(model: VisionLanguageModel) -> Decoder:
        return Decoder(model, most, length + steps, steps, model.probe())

    def prefill(decoder: Decoder, slot: int = 0) -> None:
        asked = Prompted(slot, 0, rows, prompt.spans[0], delta=prompt.delta, limit=steps)
        decoder.prefill([asked], probe=True)

    flops, plain = PassFlops(shapes, masked=False), decoder_of(model)
    weights = subject.weight_bytes
    encoder = sum(one.numel() for one in shapes.vision_module().parameters()) * model.dtype.itemsize
    of_a_token = model.decoder.slot_bytes(length, model.dtype)
    once = flops.decoder(length, length) + flops.row(length) + flops.logits()
    passes = [
        Pass("encode", lambda: model.encode([picture]), flops.encode(model.global_view, _ORIGINAL), encoder),
        Pass("prefill", partial(prefill, plain), once, weights),
    ]
    found = {"": (plain, weights)}
    kinds: tuple[Quantise, ...] = ("int8", "int4") if run.few_bits else ()
    for kind in kinds:
        few = served(subject.preset, subject.model, kind)
        found[f", {kind} weights"] = decoder_of(few), weight_bytes(few.module)
    # Its floor is that of floats: whole numbers may be below it.
    if run.few_bits and model.device.type == "cpu" and multiplies_bytes():
        dynamic = decoder_of(served(subject.preset, subject.model, "int8-dynamic"))
        passes.append(Pass("prefill, int8-dynamic", partial(prefill, dynamic), once, weights))
    for count in counts:
        own = count * (flops.decoder(1, length) + flops.logits())
        for told, (decoder, read) in found.items():
            step = partial(decoder.step, list(range(count)))
            passes.append(Pass(f"step of {count}{told}", step, own, read + count * of_a_token, _STEPS))
    for decoder, _ in found.values():
        for slot in range(most):
            prefill(decoder, slot)
    return passes


def operators(run: Callable[[], object], repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds of one run in each operator itself, the longest first; small ones and what is between
    them together."""
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    watch = Stopwatch(device)
    with profile(activities=kinds) as profiler:
        for _ in range(repeats):
            run()
        whole = watch.read()
    found = [
        (event.key, event.count / repeats, _itself(event, on_gpu) / 1e3 / repeats)
        for event in profiler.key_averages()
    ]
    found = sorted((one for one in found if one[2] > 0), key=lambda one: -one[2])
    limit = 1e3 * whole / repeats
    told = [one for one in found if one[2] >= _TOLD * limit]
    rest = sum(one[2] for one in found) - sum(one[2] for one in told)
    between = max(0.0, limit - sum(one[2] for one in found))
    rows = [{"name": name, "calls": calls, "ms": each} for name, calls, each in told]
    return [*rows, {"name": "others", "ms": rest}, {"name": "between operators", "ms": between}]


def _itself(event: Any, on_gpu: bool) -> float:
    """Microseconds."""
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
