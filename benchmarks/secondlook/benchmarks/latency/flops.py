"""Floating-point operations of every pass, from a model's configuration alone.

Counted as `torch.utils.flop_counter` counts: two for each multiply-add of a matrix product, a convolution or
an attention, nothing for all else. Attention counts every query with every key it is given, masked ones too,
unless told otherwise.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PassFlops"]


class PassFlops:
    """FLOPs of the passes of a LLaVA with a CLIP vision tower and a Llama decoder.

    Args:
        config: a LlavaConfig, declared loosely by transformers.
        masked: whether the decoder's attention counts keys that causality hides from a query, too.
    """

    def __init__(self, config: Any, *, masked: bool = True) -> None:
        text, vision = config.text_config, config.vision_config
        self._vision, self._feature_layer = vision, config.vision_feature_layer
        self._masked = masked
        self._layers: int = text.num_hidden_layers
        self._width: int = text.hidden_size
        self._vocabulary: int = text.vocab_size
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._query_width: int = text.num_attention_heads * head
        key_width = text.num_key_value_heads * head
        self._projections: int = 2 * self._width * (self._query_width + 2 * key_width)
        output = 2 * self._query_width * self._width
        self._dense_layer: int = self._projections + output + 3 * 2 * self._width * text.intermediate_size

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        side = self._vision.image_size // self._vision.patch_size
        tokens: int = side * side
        return tokens

    @property
    def feature_blocks(self) -> int:
        """Blocks of the vision tower up to the features. The engine runs these only; transformers runs all,
        and drops what follows the features after computing it."""
        layers, layer = self._vision.num_hidden_layers, self._feature_layer
        blocks: int = layer if layer >= 0 else layers + 1 + layer  # layer 0 is what enters the first block
        return blocks

    def encode(self, images: int = 1, blocks: int | None = None) -> int:
        """The first `blocks` (default: all) of the vision tower, and the projector."""
        vision = self._vision
        blocks = vision.num_hidden_layers if blocks is None else blocks
        width, patches = vision.hidden_size, self.image_tokens
        tokens = patches + 1  # and the class token
        embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * width
        dense = 2 * tokens * (4 * width * width + 2 * width * vision.intermediate_size)
        layer = dense + _attention(tokens * tokens, width)
        projector = 2 * patches * (width * self._width + self._width * self._width)
        total: int = images * (embedding + blocks * layer + projector)
        return total

    def decoder(self, tokens: int, keys: int, layers: int | None = None) -> int:
        """`tokens` new tokens through the first `layers` (default: all), the last with `keys` keys."""
        count = self._layers if layers is None else layers
        hidden = 0 if self._masked else tokens * (tokens - 1) // 2  # from each the tokens behind it
        attention = _attention(tokens * keys - hidden, self._query_width)
        return count * (tokens * self._dense_layer + attention)

    def probe(self, tokens: int, keys: int, layer: int) -> int:
        """`tokens` new tokens up to the attention row of a 0-based layer: the layers before it, its query,
        key and value projections, and one query's products with `keys` keys."""
        return self.decoder(tokens, keys, layer) + tokens * self._projections + self.row(keys)

    def row(self, keys: int) -> int:
        """One attention row over `keys` keys, in all heads."""
        return 2 * self._query_width * keys

    def logits(self, positions: int = 1) -> int:
        """The language model's head."""
        return 2 * positions * self._width * self._vocabulary


def _attention(pairs: int, width: int) -> int:
    """Queries by keys, and weights by values, for pairs of a query and a key, heads together `width` wide."""
    return 4 * pairs * width
