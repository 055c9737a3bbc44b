"""The probed attention function against a full softmax, on bare tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from secondlook.engine.attention import ATTENTION, AttentionProbe, attention_row


def tensors(heads: int, kv_heads: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(heads * 100 + kv_heads)
    return (
        torch.randn(2, heads, 8, generator=generator),
        torch.randn(2, kv_heads, length, 8, generator=generator),
    )


def expected_row(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Head by head, in float64."""
    heads, kv_heads = query.shape[1], key.shape[1]
    rows = []
    for head in range(heads):
        keys = key[:, head // (heads // kv_heads)].double()
        scores = torch.einsum("bd,bkd->bk", query[:, head].double(), keys) / math.sqrt(8)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        rows.append(scores.softmax(-1))
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_the_row_equals_a_full_softmax(heads: int, kv_heads: int) -> None:
    query, key = tensors(heads, kv_heads, 11)
    row = attention_row(query, key, None, 8**-0.5)
    assert row.dtype == torch.float32
    torch.testing.assert_close(row.double(), expected_row(query, key, None), atol=1e-6, rtol=0)


@pytest.mark.parametrize("additive", [False, True])
def test_masked_keys_get_nothing(additive: bool) -> None:
    query, key = tensors(4, 2, 11)
    seen = torch.ones(2, 11, dtype=torch.bool)
    seen[0, :4] = False
    mask = seen[:, None, :]
    given = torch.zeros(2, 1, 11).masked_fill(~mask, float("-inf")) if additive else mask
    row = attention_row(query, key, given, 8**-0.5)
    torch.testing.assert_close(row.double(), expected_row(query, key, seen), atol=1e-6, rtol=0)
    assert row[0, :4].tolist() == [0, 0, 0, 0]


def test_half_precision_softmax_is_taken_in_float32() -> None:
    query, key = tensors(4, 4, 50)
    row = attention_row(query.bfloat16(), key.bfloat16(), None, 8**-0.5)
    assert row.dtype == torch.float32
    torch.testing.assert_close(row.sum(-1), torch.ones(2), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def decoder() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = ATTENTION
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaModel(config).eval()


@torch.inference_mode()
def test_a_probe_changes_no_output_and_only_its_layer_fills_it(decoder: LlamaModel) -> None:
    ids = torch.arange(20).view(2, 10)
    plain = decoder(input_ids=ids).last_hidden_state
    probe = AttentionProbe(layer=1, start=2, stop=7)
    probed = decoder(input_ids=ids, attention_probe=probe).last_hidden_state
    assert torch.equal(plain, probed)
    assert probe.row is not None
    assert probe.row.shape == (2, 5)
    beyond = AttentionProbe(layer=3, start=2, stop=7)
    decoder(input_ids=ids, attention_probe=beyond)
    assert beyond.row is None


@torch.inference_mode()
def test_padding_on_the_left_is_masked(decoder: LlamaModel) -> None:
    ids = torch.arange(10).view(1, 10)
    alone, padded = AttentionProbe(1, 0, 10), AttentionProbe(1, 3, 13)
    decoder(input_ids=ids, attention_probe=alone)
    decoder(
        input_ids=torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1),
        attention_mask=torch.tensor([[0] * 3 + [1] * 10]),
        position_ids=torch.tensor([[0] * 3 + list(range(10))]),
        attention_probe=padded,
    )
    assert alone.row is not None
    assert padded.row is not None
    torch.testing.assert_close(padded.row, alone.row, atol=1e-6, rtol=0)
