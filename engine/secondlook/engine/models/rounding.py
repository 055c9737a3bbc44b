"""What `--quantise` may say. Imports nothing, for options are read before anything heavy is."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["ROUNDINGS", "Quantise", "Rounding"]

Quantise = Literal["int8", "int8-dynamic", "int4", "fp8"]
"""What the weights of a decoder's linear layers are rounded to: 8 bits for each output's weights together, or
4 in groups of 32 (the head's have 8 all the same); or floats of 8 bits (E4M3), on CUDA alone. What encodes
pictures, embeddings and activations stay; but with int8-dynamic, on CPUs alone, activations are rounded to
8 bits, too, wherever such a layer takes more than a few rows of them."""


class Rounding(NamedTuple):
    """Keywords of `secondlook.engine.models.low_bit.quantise_linear_layers`."""

    bits: Literal[4, 8]
    floats: bool = False
    dynamic: bool = False


ROUNDINGS: Final[dict[Quantise, Rounding]] = {
    "int8": Rounding(8),
    "int8-dynamic": Rounding(8, dynamic=True),
    "int4": Rounding(4),
    "fp8": Rounding(8, floats=True),
}
