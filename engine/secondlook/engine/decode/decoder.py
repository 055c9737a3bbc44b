"""Sequences in slots, computed together: prefill, attention rows, decode steps.

Every call takes any number of sequences and computes them in one pass over packed rows, so that weights are
read once for all of them. What is known of a sequence, its keys and values, its length, its answer, stays on
the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.graphs import NO_ANSWER, StepGraphs
from secondlook.engine.decode.plans import DecodePlan, PrefillPlan, ProbeReached, Segment
from secondlook.engine.decode.record import Progress, TokenRecord
from secondlook.engine.devices import on_device, to_device
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.kernels.library import uses_reference

__all__ = ["Decoder", "Prompted"]


@dataclass(frozen=True)
class Prompted:
    """The part of a prompt that is not in its slot yet.

    Attributes:
        slot: the slot, holding everything before `start`.
        start: position of the first row.
        embeddings: [R, D].
        limit: the most tokens of the answer.
    """

    slot: int
    start: int
    embeddings: Tensor
    limit: int = 1


class Decoder:
    """One model over one cache. All calls belong on one thread, where the model's GPU is the current one.

    Attributes:
        cache: keys and values.
        record: the answers.
        progress: how far they are.
    """

    def __init__(self, model: LlavaAdapter, slots: int, capacity: int, most_new_tokens: int) -> None:
        self.model = model
        self.cache = KVCache(model.decoder_config, slots, capacity, model.dtype, model.device)
        self._lengths = torch.zeros(slots + 1, dtype=torch.int64, device=model.device)  # of keys in each slot
        with on_device(model.device):
            self.record = TokenRecord(slots, most_new_tokens, model.eos_ids, model.device)
            self.progress = Progress(self.record)
            graphed = self._can_graph()
            self._graphs = StepGraphs(self._step, slots, model.device) if graphed else None

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompted], *, probe: bool = False) -> Tensor | None:
        """Compute the rest of prompts, and the first token of their answers.

        Returns:
            with `probe`, [prompts, N] float32: each one's attention to the global image at its last token.
        """
        plan = self._plan(prompts, probe=probe)
        hidden = self.model.hidden(*self._packed(prompts), plan)
        ends = itertools.accumulate(len(prompt.embeddings) for prompt in prompts)
        last = self._on_device([end - 1 for end in ends])
        for prompt in prompts:
            self._lengths[prompt.slot] = prompt.start + len(prompt.embeddings)
            self.record.begin(prompt.slot, prompt.limit)
            self.progress.begin(prompt.slot)
        slots = self._on_device([prompt.slot for prompt in prompts])
        self.record.append(self.model.logits(hidden[last]), slots)
        self.progress.note(prompt.slot for prompt in prompts)
        return plan.rows

    @torch.inference_mode()
    def attention_rows(self, prompts: Sequence[Prompted]) -> Tensor:
        """[prompts, N] float32, as of `prefill`, and nothing else: the slots stay as they are, and no layer
        behind the probe layer is run."""
        plan = self._plan(prompts, probe=True, rows_only=True)
        try:
            self.model.hidden(*self._packed(prompts), plan)
        except ProbeReached:
            assert plan.rows is not None, "the pass ends when the rows are there"
            return plan.rows
        raise AssertionError("the probe layer is one of the model's")

    def step(self, slots: Sequence[int]) -> None:
        """Compute the next token of every slot's answer; nothing happens to answers that are complete."""
        if self._graphs is not None and self._can_graph():
            self._graphs.run(slots)
        else:
            rows = self._on_device(slots)
            self._step(rows, rows)
        self.progress.note(slots)

    @torch.inference_mode()
    def _step(self, slots: Tensor, answers: Tensor) -> None:
        """One step on the device alone. Rows of padding have slot S, and the answer NO_ANSWER."""
        positions = self._lengths[slots]
        going = ~self.record.finished[answers] & (answers != NO_ANSWER)
        plan = DecodePlan(self.cache, slots, positions)
        embeddings = self.model.token_embeddings(self.record.newest(answers))
        logits = self.model.logits(self.model.hidden(embeddings, positions, plan))
        self.record.append(logits, answers)
        self._lengths[slots] = positions + going

    def _on_device(self, values: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(values), self.model.device)

    def _can_graph(self) -> bool:
        """The references of the operators wait for the device, which no graph can have."""
        return self.model.device.type == "cuda" and not uses_reference(self.model.device)

    def _plan(self, prompts: Sequence[Prompted], *, probe: bool, rows_only: bool = False) -> PrefillPlan:
        segments = [
            Segment(prompt.slot, prompt.start, len(prompt.embeddings), kept=not rows_only)
            for prompt in prompts
        ]
        layer = self.model.settings.probe_layer if probe else None
        return PrefillPlan(self.cache, segments, layer, self.model.layout.span, rows_only=rows_only)

    def _packed(self, prompts: Sequence[Prompted]) -> tuple[Tensor, Tensor]:
        """Rows [R, D] of all prompts, and their positions [R]."""
        positions = [
            torch.arange(prompt.start, prompt.start + len(prompt.embeddings), device=self.model.device)
            for prompt in prompts
        ]
        return torch.cat([prompt.embeddings for prompt in prompts]), torch.cat(positions)
