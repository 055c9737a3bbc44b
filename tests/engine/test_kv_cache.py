"""Slots: how many there may be, what they hold, and who has which, against a model of it in plain lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from transformers import LlamaConfig

from properties import examples
from secondlook.edge.errors import SettingsError
from secondlook.engine.decode.cache import (
    CacheSettings,
    DecoderShape,
    KeptPrefix,
    KVCache,
    PrefixClaim,
    SlotPool,
)

CPU = torch.device("cpu")
SHAPE = DecoderShape(layers=3, heads=4, kv_heads=2, head_width=8, width=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slots_bytes_are_what_the_cache_takes_for_it(dtype: torch.dtype) -> None:
    one, many = (KVCache(SHAPE, slots, 10, dtype, CPU).nbytes for slots in (1, 6))
    assert many - one == 5 * SHAPE.slot_bytes(10, dtype)


def test_a_configuration_of_transformers_has_a_shape() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    assert DecoderShape.of(config) == SHAPE


def test_a_width_of_heads_of_their_own_is_followed() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, head_dim=12, num_hidden_layers=1)
    shape = DecoderShape.of(config)
    assert shape == DecoderShape(layers=1, heads=4, kv_heads=4, head_width=12, width=32)
    assert KVCache(shape, 2, 5, torch.float32, CPU).keys[0].shape == (3, 4, 5, 12)
    assert shape.slot_bytes(5, torch.float32) == 2 * 4 * 5 * 12 * 4


def test_a_copy_takes_the_first_positions_and_nothing_else() -> None:
    cache = KVCache(SHAPE, 3, 4, torch.float32, CPU)
    tensors = [*cache.keys, *cache.values]
    for number, tensor in enumerate(tensors):
        tensor.copy_(torch.arange(tensor.numel()).view_as(tensor) + 1000.0 * number)
    before = [tensor.clone() for tensor in tensors]
    cache.copy(2, 0, 3)
    for old, new in zip(before, tensors, strict=True):
        assert torch.equal(new[0, :, :3], old[2, :, :3])
        assert torch.equal(new[0, :, 3:], old[0, :, 3:])
        assert torch.equal(new[1:], old[1:])


@pytest.mark.parametrize(("gigabytes", "slots"), [(1.0, 1), (1.99, 1), (2.0, 2), (7.5, 7), (9.0, 8)])
def test_as_many_slots_as_the_memory_holds(gigabytes: float, slots: int) -> None:
    assert CacheSettings(gigabytes, most_slots=8).slots(2**30, CPU) == slots


def test_a_cpu_gives_two_gibibytes() -> None:
    assert CacheSettings().slots(2**29, CPU) == 4
    assert CacheSettings().slots(2**10, CPU) == 64


@pytest.mark.parametrize(("gigabytes", "allowed"), [(0.5, "0.50"), (None, "2.00")])
def test_less_than_one_slot_is_an_error_that_names_both_sizes(gigabytes: float | None, allowed: str) -> None:
    with pytest.raises(SettingsError, match=rf"needs 3\.00 GiB.*may have {allowed}"):
        CacheSettings(gigabytes).slots(3 * 2**30, CPU)


@pytest.mark.parametrize(
    "values",
    [
        {"gigabytes": 0.0},
        {"gigabytes": -1.0},
        {"gigabytes": float("nan")},
        {"gigabytes": float("inf")},
        {"most_slots": 0},
        {"text_tokens": 0},
        {"text_tokens": -3},
    ],
)
def test_settings_that_make_no_cache_are_refused(values: dict[str, Any]) -> None:
    [wrong] = values.values()
    with pytest.raises(SettingsError, match=str(wrong)):
        CacheSettings(**values)


def test_a_claim_is_as_long_as_it_is_held() -> None:
    prefix = KeptPrefix(3, 3)
    one, other = prefix.claim(), prefix.claim()
    assert prefix.claimed
    del one
    assert prefix.claimed
    del other
    assert not prefix.claimed


def test_a_gpus_padding_is_within_the_budget() -> None:
    gpu = torch.device("cuda")
    assert CacheSettings(4.5, most_slots=8).slots(2**30, gpu) == 3
    with pytest.raises(SettingsError, match=r"needs 2\.00 GiB.*may have 1\.50"):
        CacheSettings(1.5).slots(2**30, gpu)


class SlotPoolMachine(RuleBasedStateMachine):
    """The pool does what these do: a dictionary of what is in use, and a list of what is kept, oldest first.

    Attributes:
        used: slot to the prefix it holds, if any.
        kept: (slot, prefix), oldest first.
        prefixes: all there ever were.
        claims: held by somebody.
    """

    @initialize(count=st.integers(1, 5))
    def begin(self, count: int) -> None:
        self.pool = SlotPool(count)
        self.used: dict[int, KeptPrefix | None] = {}
        self.kept: list[tuple[int, KeptPrefix]] = []
        self.prefixes: list[KeptPrefix] = []
        self.claims: list[PrefixClaim] = []

    @property
    def free(self) -> set[int]:
        return set(range(self.pool.count)) - set(self.used) - {slot for slot, _ in self.kept}

    def where(self, prefix: KeptPrefix) -> int | None:
        return next((slot for slot, held in [*self.kept, *self.used.items()] if held is prefix), None)

    def take_any(self, source: int | None) -> None:
        """What is expected of a sequence that must begin in another slot than `source`."""
        free = self.free
        taken = self.pool.take(None if source is None else self.used[source])
        if not free and not self.kept:
            assert taken is None
            return
        assert taken is not None
        slot, copied = taken
        assert copied == source
        if free:
            assert slot in free
        else:
            assert slot == self.oldest()
        self.used[slot] = None

    def oldest(self) -> int:
        """The slot whose prefix was to be given up, and is."""
        claimed = [prefix.claimed for _, prefix in self.kept]
        slot, given_up = self.kept.pop(claimed.index(min(claimed)))
        assert given_up.slot is None
        return slot

    @precondition(lambda self: self.prefixes)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.claims.append(data.draw(st.sampled_from(self.prefixes)).claim())

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def drop_a_claim(self, data: st.DataObject) -> None:
        self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))

    @rule()
    def take(self) -> None:
        self.take_any(None)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def continue_a_kept_prefix(self, data: st.DataObject) -> None:
        slot, prefix = data.draw(st.sampled_from(self.kept))
        assert self.pool.take(prefix) == (slot, None)
        self.kept.remove((slot, prefix))
        self.used[slot] = prefix

    @precondition(lambda self: any(self.used.values()))
    @rule(data=st.data())
    def share_a_prefix_in_use(self, data: st.DataObject) -> None:
        self.take_any(data.draw(st.sampled_from([slot for slot, held in self.used.items() if held])))

    @precondition(lambda self: any(prefix.slot is None for prefix in self.prefixes))
    @rule(data=st.data())
    def take_for_a_prefix_given_up(self, data: st.DataObject) -> None:
        lost = data.draw(st.sampled_from([prefix for prefix in self.prefixes if prefix.slot is None]))
        free = self.free
        taken = self.pool.take(lost)
        if not free and not self.kept:
            assert taken is None
            return
        assert taken is not None
        slot, copied = taken
        assert copied is None
        assert lost.slot is None
        if free:
            assert slot in free
        else:
            assert slot == self.oldest()
        self.used[slot] = None

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.used)))
        new = KeptPrefix(7, 5)
        known = data.draw(st.sampled_from([new, *self.prefixes]))
        own, was_lost = self.used[slot], known.slot is None
        held = self.pool.hold(slot, known)
        if own is not None:
            assert held is own
        else:
            assert held is known
            if not was_lost:
                return  # it is somewhere already, and this slot has nothing to keep
            if held is new:
                self.prefixes.append(held)
        self.used[slot] = held

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.used)))
        self.pool.give_back(slot)
        prefix = self.used.pop(slot)
        if prefix is not None:
            self.kept.append((slot, prefix))

    @invariant()
    def every_prefix_knows_where_it_is(self) -> None:
        for prefix in self.prefixes:
            assert prefix.slot == self.where(prefix)

    @invariant()
    def every_slot_is_counted_once(self) -> None:
        assert (self.pool.used, self.pool.kept) == (len(self.used), len(self.kept))
        assert len(self.free) + len(self.used) + len(self.kept) == self.pool.count

    def teardown(self) -> None:
        """Nothing was lost: what is free comes first, then what is kept, oldest first, then nothing more."""
        if not hasattr(self, "pool"):
            return
        free = self.free
        rest = [self.pool.take() for _ in range(len(free) + len(self.kept))]
        slots = [taken[0] for taken in rest if taken is not None]
        assert set(slots[: len(free)]) == free
        assert slots[len(free) :] == [slot for slot, _ in sorted(self.kept, key=lambda kept: kept[1].claimed)]
        assert self.pool.take() is None
        assert all(prefix.slot is None for _, prefix in self.kept)


TestSlotPool = SlotPoolMachine.TestCase
TestSlotPool.settings = settings(
    max_examples=examples(150), stateful_step_count=40, deadline=None, derandomize=True, database=None
)
