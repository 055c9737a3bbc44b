"""Two ways to the attention of both questions: all in one prefill, or the generic question in a short pass.

The engine does the second: [global image | question], then, only where the answer is unsure, the generic
question's few tokens after the kept prefix, up to the probe layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from secondlook.benchmarks.latency.device import measure_rates
from secondlook.benchmarks.latency.flow import Stopwatch
from secondlook.benchmarks.latency.subject import Preset, build_subject
from secondlook.benchmarks.latency.work import TYPICAL_QUESTION, Lengths, Work
from secondlook.benchmarks.options import PrefillRun
from secondlook.edge.geometry import Size
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.plans import PrefillPlan, Rows, Segment
from secondlook.engine.devices import chosen_device
from secondlook.engine.flops import PassFlops
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.prompts import GENERIC_QUESTION

_WARMUPS: Final = 2


class Ways:
    """Both ways on one model, from the embeddings of a global image and both questions on."""

    def __init__(self, model: VisionLanguageModel) -> None:
        image = Image.new("RGB", (640, 480), (90, 120, 150))
        picture = model.picture(image, model.global_view, Size(640, 480))
        question, generic = (
            model.prompt(model.tokens(asked), (picture.grid,))
            for asked in (TYPICAL_QUESTION, GENERIC_QUESTION)
        )
        self._start, self._span, self._model = question.shared, question.spans[0], model
        self._probe = model.probe()
        self._decoder = Decoder(model, 1, len(question.ids) + 1, 1, self._probe)
        self._question = model.rows(question, 0, model.encode([picture]))
        self._generic = model.rows(generic, self._start, [])

    def one_pass(self) -> tuple[Tensor, Tensor]:
        """The question's next-token logits [1, V], and both rows [2, N]: the generic question's rows go
        along, see the prefix, and are kept nowhere."""
        model, length, more = self._model, len(self._question), len(self._generic)
        segments = [Segment(0, 0, length, self._span), Segment(0, self._start, more, self._span, kept=False)]
        plan = PrefillPlan(self._decoder.cache, segments, self._probe)
        hidden = model.hidden(Rows.packed([self._question, self._generic]), plan)
        return model.logits(hidden[length - 1 : length]), torch.stack(plan.read)

    def first_pass(self) -> Tensor:
        """What a sure request costs the engine; the question's row [1, N]."""
        return torch.stack(self._decoder.prefill([Prompted(0, 0, self._question, self._span)], probe=True))

    def two_passes(self) -> Tensor:
        """What an unsure request costs the engine; both rows [2, N]."""
        row = self.first_pass()
        more = self._decoder.attention_rows([Prompted(0, self._start, self._generic, self._span)])
        return torch.cat([row, torch.stack(more)])


def bench_prefill(preset: Preset, run: PrefillRun) -> dict[str, Any]:
    console = Console(stderr=True)
    dtype, device = getattr(torch, run.dtype), chosen_device(run.device)
    with console.status(f"making {preset.name} ..."):
        # The engine's own slots are not used here.
        subject = build_subject(preset, dtype, device, seed=run.seed, cache=CacheSettings(most_slots=1))
        ways = Ways(subject.engine.model)
    rates = measure_rates(dtype, device)
    calls: dict[str, Callable[[], Any]] = {
        "one": ways.one_pass,
        "first": ways.first_pass,
        "two": ways.two_passes,
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    # Redrawn between the rounds only: a thread for it would take its time from what is measured.
    rounds = range(_WARMUPS + run.repeats)
    for number in track(rounds, "measuring", console=console, transient=True, auto_refresh=False):
        for name, call in calls.items():
            watch = Stopwatch(device)
            call()
            elapsed = watch.read()
            if number >= _WARMUPS:
                seconds[name].append(elapsed)
    medians = {name: 1e3 * statistics.median(each) for name, each in seconds.items()}
    rates = rates.best(measure_rates(dtype, device))
    ceilings = {name: 1e3 * rates.ceiling(work, 0) for name, work in _work(preset).items()}
    rows = [  # of a sure request, which takes the first of the two passes alone, and of an unsure one
        {
            "request": request,
            "one_pass_ms": medians["one"],
            "two_passes_ms": medians[name],
            "speedup": medians["one"] / medians[name],
            "ceiling_ms": ceilings[name],
        }
        for request, name in (("sure", "first"), ("unsure", "two"))
    ]
    return {
        "two_passes": {row["request"]: row["speedup"] for row in rows},
        "rates": asdict(rates),
        "rows": rows,
    }


def _work(preset: Preset) -> dict[str, Work]:
    lengths = Lengths.of(preset.shapes, TYPICAL_QUESTION, 1)
    passes = PassFlops(preset.shapes, masked=False)
    n, g, prefix = lengths.question, lengths.generic, lengths.shared
    first = Work(passes.decoder(n, n) + passes.row(n) + passes.logits())
    return {"first": first, "two": first + Work(passes.probe(g - prefix, g))}
