"""Attention over slots: what transformers' decoder calls, registered by name.

Importing this module registers `ATTENTION` ("secondlook") with transformers' attention interface. A model set
to it takes a *plan* with each forward call (keyword `attention_plan`): which rows of the packed input belong
to which slot of the cache, at which positions. The plan writes keys and values to the cache and attends; the
model needs neither a cache of its own nor a mask. No attention matrix is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from secondlook.engine.decode.cache import KVCache
from secondlook.kernels import attention_row, decode_attention

__all__ = ["ATTENTION", "AttentionPlan", "DecodePlan", "PrefillPlan", "ProbeReached", "Segment"]

ATTENTION = "secondlook"
"""The name under which transformers knows the attention function of this module."""


class AttentionPlan(Protocol):
    """What one forward pass reads and writes."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, R, H, D] of R packed rows: query [1, H, R, D], key and value [1, H_kv, R, D], rotated."""
        ...


@dataclass(frozen=True)
class Segment:
    """Rows of a packed input that follow each other in one sequence.

    Attributes:
        slot: where the sequence's keys and values are.
        start: position of the first row; the rows see all earlier positions of the slot.
        length: number of rows.
        kept: whether their keys and values are written to the slot.
    """

    slot: int
    start: int
    length: int
    kept: bool = True


class ProbeReached(Exception):  # noqa: N818 -- not an error: it ends a pass that has nothing more to compute
    """The probe layer of a pass made for its rows alone was reached."""


class PrefillPlan:
    """Many rows of several sequences.

    Args:
        segments: in the order of the packed rows.
        probe_layer: 0-based layer whose attention is read; None: of none.
        span: [start, stop), the positions whose attention is wanted: the global image's.
        rows_only: end the pass, by ProbeReached, as soon as the rows are there.

    Attributes:
        rows: [segments, stop - start] float32, after the pass: the attention of each segment's last row,
            mean over heads.
    """

    def __init__(
        self,
        cache: KVCache,
        segments: Sequence[Segment],
        probe_layer: int | None = None,
        span: tuple[int, int] = (0, 0),
        *,
        rows_only: bool = False,
    ) -> None:
        self._cache = cache
        self._segments = segments
        self._probe_layer, self._span, self._rows_only = probe_layer, span, rows_only
        self._masks: list[Tensor | None] = [None] * len(segments)
        self.rows: Tensor | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        outputs, rows, first = [], [], 0
        for number, segment in enumerate(self._segments):
            own = slice(first, first + segment.length)
            first += segment.length
            keys = self._seen(self._cache.keys[layer], segment, key[0, :, own])
            values = self._seen(self._cache.values[layer], segment, value[0, :, own])
            if layer == self._probe_layer:
                length = torch.full((1,), keys.shape[2], device=keys.device)
                rows.append(attention_row(query[:, :, own.stop - 1], keys, length, *self._span, scale))
                if self._rows_only:
                    continue
            outputs.append(
                scaled_dot_product_attention(
                    query[:, :, own],
                    keys,
                    values,
                    attn_mask=self._mask(number, query.device),
                    is_causal=segment.start == 0 and segment.length > 1,
                    scale=scale,
                    enable_gqa=query.shape[1] != key.shape[1],
                )
            )
        if rows:
            self.rows = torch.cat(rows)
            if self._rows_only:
                raise ProbeReached
        return torch.cat(outputs, dim=2).transpose(1, 2)

    def _seen(self, cache: Tensor, segment: Segment, own: Tensor) -> Tensor:
        """Keys or values [1, H_kv, start + length, D] that the last row sees; `own` are the segment's."""
        stop = segment.start + segment.length
        if not segment.kept:
            return torch.cat((cache[segment.slot, :, : segment.start], own), dim=1).unsqueeze(0)
        cache[segment.slot, :, segment.start : stop] = own
        return cache[segment.slot : segment.slot + 1, :, :stop]

    def _mask(self, number: int, device: torch.device) -> Tensor | None:
        """[length, start + length], True where a row may look; None where none is needed."""
        segment = self._segments[number]
        if segment.start == 0 or segment.length == 1:
            return None
        mask = self._masks[number]
        if mask is None:
            shape = (segment.length, segment.start + segment.length)
            mask = torch.ones(shape, dtype=torch.bool, device=device).tril(segment.start)
            self._masks[number] = mask
        return mask


class DecodePlan:
    """One row each of several sequences. Reads nothing back from the device, and its shapes alone matter.

    Args:
        slots: [B] int64.
        positions: [B] int64, of the rows in their slots; they see these and all earlier positions.
    """

    def __init__(self, cache: KVCache, slots: Tensor, positions: Tensor) -> None:
        self._cache = cache
        self._slots, self._positions = slots, positions
        self._lengths = positions + 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, :, self._positions] = key[0].transpose(0, 1)
        values[self._slots, :, self._positions] = value[0].transpose(0, 1)
        rows = query[0].transpose(0, 1)  # [B, H, D]
        seen = decode_attention(rows, keys, values, self._slots, self._lengths, scale)
        return seen.unsqueeze(0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attention_plan: AttentionPlan | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function transformers calls; see AttentionPlan."""
    assert attention_plan is not None, "a model with this attention is called with a plan"
    assert attention_mask is None, "the plan says what is seen"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    return attention_plan.attend(layer, query, key, value, scale), None


AttentionInterface.register(ATTENTION, _attend)
