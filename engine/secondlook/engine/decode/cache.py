"""Keys and values of many sequences: slots of one fixed size, given out, kept for later, and taken back.

A slot is *in use* while a sequence is computed in it. Afterwards it may be *kept*, for what its first
positions hold can be continued: the prefix through a global image, for the second look or for another
question about the same picture. When every slot is in use or kept, the one kept longest is given up, of those
first that nobody has said to come back to.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakSet

import torch
from pydantic import Field, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated

__all__ = ["CacheSettings", "DecoderShape", "KVCache", "KeptPrefix", "PrefixClaim", "SlotPool"]

_GIBIBYTE = 2**30


@validated(frozen=True)
class CacheSettings:
    """How much memory keys and values may take.

    Attributes:
        gigabytes: GiB for all slots; None: 2 GiB on a CPU, half of what is free on a GPU.
        most_slots: more are not made, however small they are.
        text_tokens: room in each sequence for template, question and answer, beside the tokens of two images.
    """

    gigabytes: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    most_slots: PositiveInt = 64
    text_tokens: PositiveInt = 512

    def slots(self, slot_bytes: int, device: torch.device) -> int:
        """How many slots of that size there may be.

        Raises:
            SettingsError: not even one.
        """
        if self.gigabytes is not None:
            budget = self.gigabytes * _GIBIBYTE
        elif device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0] / 2
        else:
            budget = 2 * _GIBIBYTE
        padding = slot_bytes if device.type == "cuda" else 0  # on a CPU nothing is ever written there
        if budget < slot_bytes + padding:
            raise SettingsError(
                f"one sequence of this model needs {(slot_bytes + padding) / _GIBIBYTE:.2f} GiB of keys and "
                f"values, but the cache may have {budget / _GIBIBYTE:.2f}; allow it more"
            )
        return min(self.most_slots, int((budget - padding) // slot_bytes))


@dataclass(frozen=True)
class DecoderShape:
    """What a cache must know of a decoder."""

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    width: int

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """Of a text configuration of transformers'."""
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        return cls(config.num_hidden_layers, heads, kv_heads, int(width), config.hidden_size)

    def slot_bytes(self, capacity: int, dtype: torch.dtype) -> int:
        """What keys and values of so many positions take."""
        return 2 * self.layers * self.kv_heads * self.head_width * capacity * dtype.itemsize


class KVCache:
    """The tensors: for every layer, keys and values of S slots of T positions.

    Attributes:
        slots, capacity: S and T.
        keys, values: for each layer [S + 1, H_kv, T, D]; slot S takes what rows of padding write.
    """

    def __init__(
        self, decoder: DecoderShape, slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (slots + 1, decoder.kv_heads, capacity, decoder.head_width)
        layers = range(decoder.layers)
        self.slots, self.capacity = slots, capacity
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]

    @property
    def nbytes(self) -> int:
        """What all of it takes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of a slot to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


class PrefixClaim:
    """Held by whoever will continue a prefix: as long as there is one, others are given up before it."""


class KeptPrefix:
    """A prefix that was computed once; it may still be in a slot, or not any more.

    Attributes:
        length: places that it takes.
        next_position: the rotary position of the first row behind it.
        slot: where it is; None: given up.
    """

    def __init__(self, length: int, next_position: int) -> None:
        self.length = length
        self.next_position = next_position
        self.slot: int | None = None
        self._claims: WeakSet[PrefixClaim] = WeakSet()

    def claim(self) -> PrefixClaim:
        """To be held, on any thread, until the prefix is not needed any more."""
        claim = PrefixClaim()
        self._claims.add(claim)
        return claim

    @property
    def claimed(self) -> bool:
        """Whether any claim is held."""
        return len(self._claims) > 0


class SlotPool:
    """Which slot is in use, kept, or free."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._kept: OrderedDict[int, KeptPrefix] = OrderedDict()
        self._used: dict[int, KeptPrefix | None] = {}

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self._used)

    @property
    def kept(self) -> int:
        """Slots kept for later."""
        return len(self._kept)

    def take(self, prefix: KeptPrefix | None = None) -> tuple[int, int | None] | None:
        """A slot for a sequence that begins with `prefix`, if that is still there; None if all are in use.

        Returns:
            the slot, and which slot the prefix must be copied from first; None if it need not be: it is in
            the slot already, or was given up (`prefix.slot` is None then).
        """
        source = None if prefix is None else prefix.slot
        if source is not None and source in self._kept:
            self._used[source] = self._kept.pop(source)
            return source, None
        if self._free:
            slot = self._free.pop()
        elif self._kept:
            unclaimed = (slot for slot, kept in self._kept.items() if not kept.claimed)
            slot = next(unclaimed, next(iter(self._kept)))
            self._kept.pop(slot).slot = None
        else:
            return None
        self._used[slot] = None
        return slot, source

    def hold(self, slot: int, prefix: KeptPrefix) -> KeptPrefix:
        """The slot in use now holds a prefix; as what it is to be found again, is returned.

        Args:
            prefix: a new one, or as what the same was known before. While that is in another slot, this one
                need not be kept; if it was given up, it is here again.
        """
        held = self._used[slot]
        if held is not None:
            return held
        if prefix.slot is None:
            prefix.slot = slot
            self._used[slot] = prefix
        return prefix

    def give_back(self, slot: int) -> None:
        """The sequence is done; a prefix that the slot holds is kept as long as there is room."""
        prefix = self._used.pop(slot)
        if prefix is None:
            self._free.append(slot)
        else:
            self._kept[slot] = prefix
