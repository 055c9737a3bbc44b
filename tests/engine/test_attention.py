"""The probed attention function against transformers' own attention matrices."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel

from secondlook.engine.attention import ATTENTION, AttentionProbe


def decoder(attention: str) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaModel(config).eval()


@pytest.fixture(scope="module")
def probed_decoder() -> LlamaModel:
    return decoder(ATTENTION)


IDS = torch.arange(20).view(2, 10)


@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.inference_mode()
def test_the_row_is_that_of_the_whole_matrix(probed_decoder: LlamaModel, layer: int) -> None:
    matrices = decoder("eager")(input_ids=IDS, output_attentions=True).attentions
    probe = AttentionProbe(layer, start=2, stop=7)
    probed_decoder(input_ids=IDS, attention_probe=probe)
    assert probe.row is not None
    assert probe.row.dtype == torch.float32
    torch.testing.assert_close(probe.row, matrices[layer].mean(1)[:, -1, 2:7], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_a_cached_prefix_is_looked_at_too(probed_decoder: LlamaModel) -> None:
    whole, rest = AttentionProbe(1, 0, 10), AttentionProbe(1, 0, 10)
    probed_decoder(input_ids=IDS, attention_probe=whole)
    cache = DynamicCache(config=probed_decoder.config)
    probed_decoder(input_ids=IDS[:, :6], past_key_values=cache)
    probed_decoder(input_ids=IDS[:, 6:], past_key_values=cache, attention_probe=rest)
    assert whole.row is not None
    assert rest.row is not None
    torch.testing.assert_close(rest.row, whole.row, atol=1e-6, rtol=0)
    torch.testing.assert_close(rest.row.sum(-1), torch.ones(2), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_a_probe_changes_no_output_and_only_its_layer_fills_it(probed_decoder: LlamaModel) -> None:
    plain = probed_decoder(input_ids=IDS).last_hidden_state
    probe = AttentionProbe(layer=1, start=2, stop=7)
    probed = probed_decoder(input_ids=IDS, attention_probe=probe).last_hidden_state
    assert torch.equal(plain, probed)
    assert probe.row is not None
    assert probe.row.shape == (2, 5)
    beyond = AttentionProbe(layer=3, start=2, stop=7)
    probed_decoder(input_ids=IDS, attention_probe=beyond)
    assert beyond.row is None
