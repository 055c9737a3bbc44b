"""Floating-point operations of every pass, from a model's configuration alone.

Counted as `torch.utils.flop_counter` counts: two for each multiply-add of a matrix product, a convolution or
an attention, nothing for all else. Attention counts every query with every key it is given, masked ones too.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PassFlops"]


class PassFlops:
    """FLOPs of the passes of a LLaVA with a CLIP vision tower and a Llama decoder.

    Args:
        config: a LlavaConfig, declared loosely by transformers.
    """

    def __init__(self, config: Any) -> None:
        text, vision = config.text_config, config.vision_config
        self._vision = vision
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

    def encode(self, images: int = 1) -> int:
        """Vision tower and projector. Every layer runs, though the features are those of one before the
        last: transformers drops what follows only after computing it."""
        vision = self._vision
        width, patches = vision.hidden_size, self.image_tokens
        tokens = patches + 1  # and the class token
        embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * width
        dense = 2 * tokens * (4 * width * width + 2 * width * vision.intermediate_size)
        layer = dense + _attention(tokens, tokens, width)
        projector = 2 * patches * (width * self._width + self._width * self._width)
        total: int = images * (embedding + vision.num_hidden_layers * layer + projector)
        return total

    def decoder(self, tokens: int, keys: int, layers: int | None = None) -> int:
        """`tokens` new tokens through the first `layers` (default: all), each attending to `keys` keys."""
        count = self._layers if layers is None else layers
        return count * (tokens * self._dense_layer + _attention(tokens, keys, self._query_width))

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


def _attention(queries: int, keys: int, width: int) -> int:
    """Queries by keys, and weights by values, in all heads together `width` wide."""
    return 4 * queries * keys * width
