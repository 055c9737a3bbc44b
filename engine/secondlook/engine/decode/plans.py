"""Rows of many sequences in one pass, and the plans that say what they see.

A plan knows which rows of the packed input belong to which slot of the cache, at which places. It writes
keys and values to the cache and attends; the model needs neither a cache of its own nor a mask. No attention
matrix is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from secondlook.engine.decode.cache import KVCache
from secondlook.engine.devices import to_device
from secondlook.kernels import attention, attention_row, decode_attention, has_kernels, write_cache

__all__ = ["AttentionPlan", "DecodePlan", "PrefillPlan", "Probe", "ProbeReached", "Rows", "Segment"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows for a decoder, on its device.

    Attributes:
        embeddings: [R, D].
        positions: [P, R] int64, rotary, which may differ from the rows' places in the cache.
        deep: for each of the first layers, [R, D] to be added behind it; zero at rows of text.
    """

    embeddings: Tensor
    positions: Tensor
    deep: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)

    @staticmethod
    def packed(parts: Sequence[Rows]) -> Rows:
        """One after another; parts without deep features have zeros beside those that have some."""
        layers = max(len(part.deep) for part in parts)
        deep = [part.deep or (torch.zeros_like(part.embeddings),) * layers for part in parts]
        return Rows(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.positions for part in parts], dim=1),
            tuple(torch.cat(layer) for layer in zip(*deep, strict=True)),
        )


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
        start: place of the first row; the rows see all earlier places of the slot.
        length: number of rows.
        span: [start, stop), the places whose attention is read with a probe: the global image's.
        kept: whether their keys and values are written to the slot.
        read: of how many of the last rows a probe reads the mean.
    """

    slot: int
    start: int
    length: int
    span: tuple[int, int] = (0, 0)
    kept: bool = True
    read: int = 1


@dataclass(frozen=True, eq=False)
class Probe:
    """Which attention of the segments' last rows is read.

    Attributes:
        layers: at least one, 0-based; of each [H] float32 weights of its heads, on the device, or None for
            their mean; or [M, H], the same M everywhere, for M maps.
    """

    layers: Mapping[int, Tensor | None]

    @property
    def last(self) -> int:
        """The layer with which all is read."""
        return max(self.layers)


class ProbeReached(Exception):  # noqa: N818 -- not an error: it ends a pass that has nothing more to compute
    """The probe's last layer was reached in a pass made for its rows alone."""


class PrefillPlan:
    """Many rows of several sequences.

    Args:
        segments: in the order of the packed rows.
        probe: what is read, if anything.
        rows_only: end the pass, by ProbeReached, as soon as that is there.
        last_only: the hidden states of each segment's last row are all that is wanted of the pass, in the
            order of the segments.

    Attributes:
        last: [segments] int64, on the cache's device: those rows; None: all are wanted.
        read: after the pass, for each segment [stop - start] float32, or [M, stop - start] of M maps: the
            attention of its last row (the mean over `Segment.read` of them) to its span, summed over the
            probe's layers and heads with their weights.
    """

    def __init__(
        self,
        cache: KVCache,
        segments: Sequence[Segment],
        probe: Probe | None = None,
        *,
        rows_only: bool = False,
        last_only: bool = False,
    ) -> None:
        self._cache = cache
        self._segments = segments
        self._probe, self._rows_only = probe, rows_only
        ends = torch.tensor([segment.length for segment in segments]).cumsum(0) - 1
        self.last = to_device(ends, cache.keys[0].device) if last_only else None
        self._masks: list[Tensor | None] = [None] * len(segments)
        self.read: list[Tensor] = []

    def reads(self, layer: int) -> bool:
        """Whether a probe reads a layer's attention."""
        return self._probe is not None and layer in self._probe.layers

    def attend_last(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, segments, H, D] of each segment's last row, where a layer's other rows are not wanted: see
        `attend`, whose query this takes of those rows alone."""
        outputs = [
            attention(query[:, :, number : number + 1], keys, values, scale, False)
            for number, (_, _, keys, values) in enumerate(self._written(layer, key, value))
        ]
        return torch.cat(outputs, dim=1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        probe = self._probe if self.reads(layer) else None
        ends = probe is not None and self._rows_only and layer == probe.last
        outputs = []
        for number, (segment, own, keys, values) in enumerate(self._written(layer, key, value)):
            if probe is not None:
                row = _read(query[0, :, own], keys, segment, scale, probe.layers[layer])
                if number < len(self.read):
                    self.read[number] = self.read[number] + row
                else:
                    self.read.append(row)
                if ends:
                    continue
            if has_kernels(query):
                outputs.append(attention(query[:, :, own], keys, values, scale, True))
                continue
            found = scaled_dot_product_attention(
                query[:, :, own],
                keys,
                values,
                attn_mask=self._mask(number, query.device),
                is_causal=segment.start == 0 and segment.length > 1,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outputs.append(found.transpose(1, 2))
        if ends:
            raise ProbeReached
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _written(
        self, layer: int, key: Tensor, value: Tensor
    ) -> Iterator[tuple[Segment, slice, Tensor, Tensor]]:
        """Each segment, its rows, and the keys and values that its last row sees, its own written."""
        first = 0
        for segment in self._segments:
            own = slice(first, first + segment.length)
            first += segment.length
            keys, values = self._cache.keys[layer], self._cache.values[layer]
            yield (
                segment,
                own,
                self._seen(keys, segment, key[0, :, own]),
                self._seen(values, segment, value[0, :, own]),
            )

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


def _read(
    query: Tensor,  # [H, length, D]
    keys: Tensor,  # [1, H_kv, start + length, D]
    segment: Segment,
    scale: float,
    weights: Tensor | None,
) -> Tensor:
    """See `PrefillPlan.read`: what one layer adds to that."""
    last, stop = query[:, -segment.read :].transpose(0, 1), keys.shape[2]
    lengths = torch.arange(stop - len(last) + 1, stop + 1, device=keys.device)
    seen = keys.expand(len(last), -1, -1, -1)
    several = weights is not None and weights.dim() == 2
    maps = [
        attention_row(last, seen, lengths, *segment.span, scale, each).mean(dim=0)
        for each in (weights if several and weights is not None else (weights,))
    ]
    return torch.stack(maps) if several else maps[0]


class DecodePlan:
    """One row each of several sequences. Reads nothing back from the device, and its shapes alone matter.

    Args:
        slots: [B] int64.
        places: [B] int64, of the rows in their slots; they see these and all earlier places.
    """

    def __init__(self, cache: KVCache, slots: Tensor, places: Tensor) -> None:
        self.cache = cache
        self.slots, self.places = slots, places
        self._lengths = places + 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        rows, own_keys, own_values = (one[0].transpose(0, 1) for one in (query, key, value))  # [B, H, D]
        if has_kernels(query):
            write_cache(keys, values, own_keys, own_values, self.slots, self.places)
        else:
            keys[self.slots, :, self.places] = own_keys
            values[self.slots, :, self.places] = own_values
        seen = decode_attention(rows, keys, values, self.slots, self._lengths, scale)
        return seen.unsqueeze(0)
