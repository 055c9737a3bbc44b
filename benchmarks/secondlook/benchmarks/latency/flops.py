"""Floating-point operations, counted by torch as they run: two for each multiply-add of a matrix product, a
convolution or an attention, nothing for all else.

A model's passes are counted on shapes alone (the meta device), at lengths of one and two tokens; longer ones
cost as much more as these tell, for every token alike, and for every pair of a query and a key. Attention
counts every query with every key it is given, masked ones too, unless told otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import DynamicCache

from secondlook.benchmarks.latency.subject import random_model
from secondlook.engine.models.clip import ClipVision

META: Final = torch.device("meta")


def counted(work: Callable[[], object]) -> int:
    """FLOPs that torch's counter sees in `work`, and those unknown to it: of the CPU's fused attention and of
    our operators. Not those of packed linear layers.

    Where our operators run as references, their products are counted as they are computed: of decode
    attention over all positions of the cache.
    """
    aten: Any = torch.ops.aten
    ours: Any = torch.ops.secondlook
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        ours.attention_row: _row_flops,
        ours.decode_attention: _decode_flops,
    }
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # untyped in torch
    return flops


def _row_flops(query: Any, keys: Any, *_: Any, **__: Any) -> int:
    """Of [B, H, D] by [B, H_kv, S, D]: a product for each head and key."""
    batch, heads, width = query
    flops: int = 2 * batch * heads * width * keys[2]
    return flops


def _decode_flops(
    query: Tensor, _keys: Tensor, _values: Tensor, _slots: Tensor, lengths: Tensor, *_: Any, **__: Any
) -> int:
    """Of [B, H, D], each row with as many keys and values as its length says."""
    return 4 * query.shape[1] * query.shape[2] * int(lengths.sum())


_decode_flops._get_raw = True  # type: ignore[attr-defined]  # torch's word for: give it tensors, not shapes


class PassFlops:
    """FLOPs of the passes of a vision-language model with a decoder of layers that are all alike.

    Args:
        config: transformers' own, of the whole model.
        masked: whether the decoder's attention counts keys that causality hides from a query, too.
    """

    def __init__(self, config: Any, *, masked: bool = True) -> None:
        self._masked = masked
        self._layers: int = config.text_config.num_hidden_layers
        config = copy.deepcopy(config)
        config.text_config.num_hidden_layers = 1
        model = random_model(config, torch.float32, META)
        decoder, attention = model.model.language_model, model.model.language_model.layers[0].self_attn
        one = torch.empty(1, 1, config.text_config.hidden_size, device=META)
        cache = DynamicCache(config=config.text_config)  # longer by a token for each call

        def layer() -> int:
            return counted(lambda: decoder(inputs_embeds=one, past_key_values=cache, use_cache=True))

        first, second = layer(), layer()
        self._pair = second - first
        self._token = first - self._pair
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._projections = counted(lambda: [project(one) for project in projections])
        self._logits = counted(lambda: model.lm_head(one))
        side = config.vision_config.image_size
        pixels = torch.empty(1, 3, side, side, device=META)
        self._all = counted(lambda: model.get_image_features(pixel_values=pixels, return_dict=True))
        tower, layers = model.model.vision_tower, config.vision_config.num_hidden_layers
        layer_of = config.vision_feature_layer
        blocks = layer_of if layer_of >= 0 else layers + 1 + layer_of
        encoder = ClipVision(tower, model.model.multi_modal_projector, blocks)
        self._features = counted(lambda: encoder(pixels))

    def encode(self, images: int = 1, *, features_only: bool = False) -> int:
        """The vision tower and the projector: all that transformers runs, or no block behind the features."""
        return images * (self._features if features_only else self._all)

    def decoder(self, tokens: int, keys: int, layers: int | None = None) -> int:
        """`tokens` new tokens through the first `layers` (default: all), the last with `keys` keys."""
        hidden = 0 if self._masked else tokens * (tokens - 1) // 2  # from each the tokens behind it
        each = tokens * self._token + (tokens * keys - hidden) * self._pair
        return (self._layers if layers is None else layers) * each

    def probe(self, tokens: int, keys: int, layer: int) -> int:
        """`tokens` new tokens up to the attention row of a 0-based layer: the layers before it, its query,
        key and value projections, and one query's products with `keys` keys."""
        return self.decoder(tokens, keys, layer) + tokens * self._projections + self.row(keys)

    def row(self, keys: int) -> int:
        """One attention row over `keys` keys, in all heads: half of attention, which has values."""
        return keys * self._pair // 2

    def logits(self, positions: int = 1) -> int:
        """The language model's head."""
        return positions * self._logits
