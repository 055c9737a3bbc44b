"""The attention function over slots, against transformers' own attention matrices and hidden states."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from secondlook.engine.decode.cache import DecoderShape, KVCache
from secondlook.engine.decode.plans import (
    AttentionPlan,
    DecodePlan,
    PrefillPlan,
    Probe,
    ProbeReached,
    Segment,
)
from secondlook.engine.models.attention import ATTENTION

LAYERS = 3
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def model(attention: str) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaModel(config).eval()


@pytest.fixture(scope="module")
def planned() -> LlamaModel:
    return model(ATTENTION)


@pytest.fixture(scope="module")
def eager() -> LlamaModel:
    return model("eager")


FIRST, SECOND = torch.arange(10), torch.arange(20, 37)


def empty_cache(planned: LlamaModel, fill: float = math.nan) -> KVCache:
    """Three slots of 20 positions; what is not valid is garbage."""
    cache = KVCache(DecoderShape.of(planned.config), 3, 20, torch.float32, CPU)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(fill)
    return cache


@torch.inference_mode()
def hidden(planned: LlamaModel, ids: Tensor, positions: Tensor, plan: AttentionPlan) -> Tensor:
    """Hidden states [R, D] of packed rows."""
    output = planned(
        input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, attention_plan=plan
    )
    states: Tensor = output.last_hidden_state[0]
    return states


@torch.inference_mode()
def rows_expected(
    eager: LlamaModel, ids: Tensor, layer: int, start: int, stop: int, weights: Tensor | None = None
) -> Tensor:
    """The mean over heads, or their sum with weights."""
    matrices = eager(input_ids=ids.unsqueeze(0), output_attentions=True).attentions
    heads: Tensor = matrices[layer][0, :, -1, start:stop]
    return heads.mean(0) if weights is None else weights @ heads


@torch.inference_mode()
def hidden_expected(eager: LlamaModel, ids: Tensor) -> Tensor:
    states: Tensor = eager(input_ids=ids.unsqueeze(0)).last_hidden_state[0]
    return states


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_each_segments_row_is_that_of_the_whole_matrix(
    planned: LlamaModel, eager: LlamaModel, layer: int
) -> None:
    segments = [Segment(2, 0, len(FIRST), (2, 7)), Segment(0, 0, len(SECOND), (1, 12))]
    plan = PrefillPlan(empty_cache(planned), segments, Probe({layer: None}))
    positions = torch.cat([torch.arange(len(FIRST)), torch.arange(len(SECOND))])
    hidden(planned, torch.cat([FIRST, SECOND]), positions, plan)
    first, second = plan.read
    assert first.dtype == second.dtype == torch.float32
    close(first, rows_expected(eager, FIRST, layer, 2, 7))
    close(second, rows_expected(eager, SECOND, layer, 1, 12))


def test_heads_are_weighed(planned: LlamaModel, eager: LlamaModel) -> None:
    weights = torch.tensor([0.0, 2.0, 0.0, -0.5])
    plan = PrefillPlan(empty_cache(planned), [Segment(1, 0, 10, (2, 7))], Probe({1: weights}))
    hidden(planned, FIRST, torch.arange(10), plan)
    close(plan.read[0], rows_expected(eager, FIRST, 1, 2, 7, weights))


@pytest.mark.parametrize("rows_only", [False, True])
def test_several_layers_are_one_row(planned: LlamaModel, eager: LlamaModel, rows_only: bool) -> None:
    weights = torch.tensor([0.0, 2.0, 0.0, 0.5])
    segments = [Segment(0, 0, 10, (2, 7), kept=False), Segment(1, 0, 17, (1, 12), kept=False)]
    plan = PrefillPlan(empty_cache(planned), segments, Probe({1: weights, 0: None}), rows_only=rows_only)
    positions = torch.cat([torch.arange(len(FIRST)), torch.arange(len(SECOND))])
    with pytest.raises(ProbeReached) if rows_only else nullcontext():
        hidden(planned, torch.cat([FIRST, SECOND]), positions, plan)
    for row, ids, span in zip(plan.read, (FIRST, SECOND), ((2, 7), (1, 12)), strict=True):
        close(row, rows_expected(eager, ids, 0, *span) + rows_expected(eager, ids, 1, *span, weights))


def test_packed_sequences_are_computed_as_each_alone(planned: LlamaModel, eager: LlamaModel) -> None:
    plan = PrefillPlan(empty_cache(planned), [Segment(2, 0, len(FIRST)), Segment(0, 0, len(SECOND))])
    positions = torch.cat([torch.arange(len(FIRST)), torch.arange(len(SECOND))])
    together = hidden(planned, torch.cat([FIRST, SECOND]), positions, plan)
    close(together, torch.cat([hidden_expected(eager, FIRST), hidden_expected(eager, SECOND)]))
    assert plan.read == []


@pytest.mark.parametrize("cut", [1, 6, 16])
def test_the_rest_of_a_sequence_sees_its_slot(planned: LlamaModel, eager: LlamaModel, cut: int) -> None:
    cache = empty_cache(planned)
    before, after = SECOND[:cut], SECOND[cut:]
    hidden(planned, before, torch.arange(cut), PrefillPlan(cache, [Segment(1, 0, cut)]))
    segments = [Segment(0, 0, len(FIRST), (0, 10)), Segment(1, cut, len(after), (0, 10))]
    plan = PrefillPlan(cache, segments, Probe({1: None}))
    positions = torch.cat([torch.arange(len(FIRST)), torch.arange(cut, len(SECOND))])
    found = hidden(planned, torch.cat([FIRST, after]), positions, plan)
    close(found[len(FIRST) :], hidden_expected(eager, SECOND)[cut:])
    close(plan.read[1], rows_expected(eager, SECOND, 1, 0, 10))


@pytest.mark.parametrize("slots", [[2, 0], [0, 2]])
def test_single_rows_see_their_slots_up_to_themselves(
    planned: LlamaModel, eager: LlamaModel, slots: list[int]
) -> None:
    cache = empty_cache(planned)
    for slot, ids in zip(slots, (FIRST, SECOND), strict=True):
        rows = len(ids) - 1
        hidden(planned, ids[:-1], torch.arange(rows), PrefillPlan(cache, [Segment(slot, 0, rows)]))
    positions = torch.tensor([len(FIRST) - 1, len(SECOND) - 1])
    plan = DecodePlan(cache, torch.tensor(slots), positions)
    found = hidden(planned, torch.stack([FIRST[-1], SECOND[-1]]), positions, plan)
    close(found, torch.stack([hidden_expected(eager, ids)[-1] for ids in (FIRST, SECOND)]))


def test_keys_and_values_go_to_their_own_positions_alone(planned: LlamaModel) -> None:
    cache = empty_cache(planned)
    hidden(planned, FIRST, torch.arange(10), PrefillPlan(cache, [Segment(1, 0, 10)]))
    hidden(planned, FIRST[:1], torch.tensor([10]), DecodePlan(cache, torch.tensor([1]), torch.tensor([10])))
    for tensor in (*cache.keys, *cache.values):
        written = tensor.isfinite().all(-1).all(1)  # [slots, positions]
        assert written.nonzero().tolist() == [[1, position] for position in range(11)]


def test_a_probe_changes_no_output(planned: LlamaModel) -> None:
    outputs = []
    for probe in (None, Probe({1: None})):
        plan = PrefillPlan(empty_cache(planned), [Segment(0, 0, 10, (2, 7))], probe)
        outputs.append(hidden(planned, FIRST, torch.arange(10), plan))
    assert torch.equal(*outputs)


def test_rows_alone_end_the_pass_and_write_nothing(planned: LlamaModel, eager: LlamaModel) -> None:
    cache = empty_cache(planned)
    hidden(planned, FIRST[:6], torch.arange(6), PrefillPlan(cache, [Segment(1, 0, 6)]))
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    segments = [Segment(1, 6, 4, (0, 6), kept=False), Segment(1, 6, 3, (0, 6), kept=False)]
    plan = PrefillPlan(cache, segments, Probe({1: None}), rows_only=True)
    other = torch.tensor([41, 42, 43])
    with pytest.raises(ProbeReached):
        hidden(planned, torch.cat([FIRST[6:], other]), torch.tensor([6, 7, 8, 9, 6, 7, 8]), plan)
    close(plan.read[0], rows_expected(eager, FIRST, 1, 0, 6))
    close(plan.read[1], rows_expected(eager, torch.cat([FIRST[:6], other]), 1, 0, 6))
    for old, tensor in zip(before, (*cache.keys, *cache.values), strict=True):
        assert torch.equal(old.nan_to_num(7.0), tensor.nan_to_num(7.0))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_several_rows_are_their_mean_and_several_maps_are_read_at_once(
    planned: LlamaModel, eager: LlamaModel, count: int
) -> None:
    weights = torch.tensor([[0.0, 2.0, 0.0, 0.5], [0.25] * 4])
    cache = empty_cache(planned)
    hidden(planned, SECOND[:10], torch.arange(10), PrefillPlan(cache, [Segment(1, 0, 10)]))
    rest = [Segment(1, 10, 7, (2, 9), kept=False, read=count)]
    plan = PrefillPlan(cache, rest, Probe({1: weights, 2: weights}), rows_only=True)
    with pytest.raises(ProbeReached):
        hidden(planned, SECOND[10:], torch.arange(10, 17), plan)
    with torch.inference_mode():
        matrices = eager(input_ids=SECOND.unsqueeze(0), output_attentions=True).attentions
    rows = sum(matrices[layer][0, :, -count:, 2:9].mean(1) for layer in (1, 2))
    close(plan.read[0], weights @ rows)
