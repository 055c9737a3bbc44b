"""Sequences in slots, computed together: prefill, attention rows, decode steps.

Every call takes any number of sequences and computes them in one pass over packed rows, so that weights are
read once for all of them. What is known of a sequence, its keys and values, its length, its answer, stays on
the device.

A row's *place* in the cache and its *rotary position* are two things: a picture of many rows may take few
positions (M-RoPE). Behind a prompt they differ by a fixed number, the sequence's *delta*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secondlook.engine.decode.cache import DecoderShape, KVCache
from secondlook.engine.decode.graphs import NO_ANSWER, StepGraphs
from secondlook.engine.decode.plans import (
    AttentionPlan,
    DecodePlan,
    PrefillPlan,
    Probe,
    ProbeReached,
    Rows,
    Segment,
)
from secondlook.engine.decode.record import Progress, TokenRecord
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.devices import on_device, to_device
from secondlook.kernels.library import uses_reference

__all__ = ["Decoder", "DecoderModel", "Prompted"]


class DecoderModel(Protocol):
    """What a decoder needs of a model.

    Attributes:
        device, dtype: of its weights and activations.
        decoder: the shape of its keys and values.
        eos_ids: tokens that end an answer.
    """

    device: torch.device
    dtype: torch.dtype
    decoder: DecoderShape
    eos_ids: frozenset[int]

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, D] of tokens [B] int64 on the device. Waits for nothing."""
        ...

    def step_positions(self, lengths: Tensor, deltas: Tensor) -> Tensor:
        """Rotary positions [P, B] of the next token of sequences, from their lengths [B] and deltas [B]."""
        ...

    def hidden(self, rows: Rows, plan: AttentionPlan) -> Tensor:
        """The decoder's final hidden states [R, D], or of those rows alone that the plan wants
        (`PrefillPlan.last`). Every layer attends as the plan says."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, V] of hidden states [R, D]."""
        ...


@dataclass(frozen=True, eq=False)
class Prompted:
    """The part of a prompt that is not in its slot yet.

    Attributes:
        slot: the slot, holding everything before `start`.
        start: place of the first row.
        rows: those that are not there yet.
        span: [start, stop), the global image's places.
        delta: rotary position less place, behind the prompt.
        limit: the most tokens of the answer.
        read: of how many of the last rows a probe reads the mean.
        tokens: what the answer wants of its tokens.
    """

    slot: int
    start: int
    rows: Rows
    span: tuple[int, int] = (0, 0)
    delta: int = 0
    limit: int = 1
    read: int = 1
    tokens: TokenOptions = ONLY_TOKENS


class Decoder:
    """One model over one cache. All calls belong on one thread, where the model's GPU is the current one.

    Args:
        probe: whose attention is read, where any is.

    Attributes:
        cache: keys and values.
        record: the answers.
        progress: how far they are.
    """

    def __init__(
        self, model: DecoderModel, slots: int, capacity: int, most_new_tokens: int, probe: Probe | None = None
    ) -> None:
        self.model = model
        self.probe = probe
        self.cache = KVCache(model.decoder, slots, capacity, model.dtype, model.device)
        # Of every slot: rows in the cache, and by how much rotary positions differ from places behind them.
        self._lengths, self._deltas = torch.zeros(2, slots + 1, dtype=torch.int64, device=model.device)
        with on_device(model.device):
            self.record = TokenRecord(slots, most_new_tokens, model.eos_ids, model.device)
            self.progress = Progress(self.record)
            graphed = self._can_graph()
            self._graphs = StepGraphs(self._step, slots, model.device) if graphed else None

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompted], *, probe: bool = False) -> list[Tensor]:
        """Compute the rest of prompts, and the first token of their answers.

        Returns:
            with `probe`, for each prompt what `PrefillPlan.read` says of its span.
        """
        plan = self._plan(prompts, probe=probe)
        hidden = self.model.hidden(Rows.packed([prompt.rows for prompt in prompts]), plan)
        for prompt in prompts:
            self._lengths[prompt.slot] = prompt.start + len(prompt.rows)
            self._deltas[prompt.slot] = prompt.delta
            self.record.begin(prompt.slot, prompt.limit, prompt.tokens)
            self.progress.begin(prompt.slot)
        slots = self._on_device([prompt.slot for prompt in prompts])
        logits = self.model.logits(hidden)
        self.record.extras.see(logits, [prompt.slot for prompt in prompts], [0] * len(prompts))
        self.record.append(logits, slots)
        self.progress.note(prompt.slot for prompt in prompts)
        return plan.read

    @torch.inference_mode()
    def attention_rows(self, prompts: Sequence[Prompted]) -> list[Tensor]:
        """For each prompt what `prefill` reads, and nothing else: the slots stay as they are, and no
        layer behind that of the probe is run."""
        plan = self._plan(prompts, probe=True, rows_only=True)
        try:
            self.model.hidden(Rows.packed([prompt.rows for prompt in prompts]), plan)
        except ProbeReached:
            return plan.read
        raise AssertionError("the probe's layer is one of the model's")

    def step(self, slots: Sequence[int]) -> None:
        """Compute the next token of every slot's answer; nothing happens to answers that are complete."""
        extras = slots if self.record.extras.among(slots) else ()
        if self._graphs is not None and self._can_graph() and not extras:
            self._graphs.run(slots)
        else:
            rows = self._on_device(slots)
            self._step(rows, rows, extras)
        self.progress.note(slots)

    @torch.inference_mode()
    def _step(self, slots: Tensor, answers: Tensor, extras: Sequence[int] = ()) -> None:
        """One step on the device alone. Rows of padding have slot S, and the answer NO_ANSWER.

        Args:
            extras: the rows' slots, where an answer in one of them wants more of its tokens; in no graph.
        """
        lengths = self._lengths[slots]
        going = ~self.record.finished[answers] & (answers != NO_ANSWER)
        positions = self.model.step_positions(lengths, self._deltas[slots])
        rows = Rows(self.model.embed(self.record.newest(answers)), positions)
        logits = self.model.logits(self.model.hidden(rows, DecodePlan(self.cache, slots, lengths)))
        if extras:
            self.record.extras.see(logits, extras, [self.progress.begun(slot) for slot in extras])
        self.record.append(logits, answers)
        self._lengths[slots] = lengths + going

    def _on_device(self, values: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(values), self.model.device)

    def _can_graph(self) -> bool:
        """The references of the operators wait for the device, which no graph can have."""
        return self.model.device.type == "cuda" and not uses_reference(self.model.device)

    def _plan(self, prompts: Sequence[Prompted], *, probe: bool, rows_only: bool = False) -> PrefillPlan:
        segments = [
            Segment(one.slot, one.start, len(one.rows), one.span, kept=not rows_only, read=one.read)
            for one in prompts
        ]
        read = self.probe if probe else None
        return PrefillPlan(self.cache, segments, read, rows_only=rows_only, last_only=True)
