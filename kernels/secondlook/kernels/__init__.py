"""Custom operators for PyTorch: decode attention, an attention row, the next token's doubt, the region.

Each is C++ on the CPU and CUDA on a GPU, built at first use or into the wheel, with a reference in plain
PyTorch that specifies it and serves where nothing can be built. For the CPU alone, in float32 and bfloat16,
are all layers of a decoder's step and of an encoder, what a decoder's layer does to many rows, products
with weights in blocks, attention of many rows, norms, rotations and gates; `has_kernels` tells where. For
CUDA alone is `quantised_linear`: weights of few bits lie in rows there, and in blocks on the CPU. Importing
builds and loads nothing.
"""

from __future__ import annotations

from secondlook.kernels.attention import *
from secondlook.kernels.attention_row import *
from secondlook.kernels.blocked_linear import *
from secondlook.kernels.decode_attention import *
from secondlook.kernels.decoder_layers import *
from secondlook.kernels.dequantise_blocks import *
from secondlook.kernels.dynamic_linear import *
from secondlook.kernels.elementwise import *
from secondlook.kernels.errors import *
from secondlook.kernels.find_region import *
from secondlook.kernels.layer_rows import *
from secondlook.kernels.library import *
from secondlook.kernels.quantised import *
from secondlook.kernels.quantised_blocks import *
from secondlook.kernels.quantised_linear import *
from secondlook.kernels.record_tokens import *
from secondlook.kernels.token_statistics import *

__all__ = [
    "ACTIVATIONS",
    "ENCODER_WEIGHTS",
    "LAYER_WEIGHTS",
    "MLP_WEIGHTS",
    "BuildError",
    "CompilerMissingError",
    "KernelError",
    "NextToken",
    "QuantisedWeights",
    "Status",
    "attention",
    "attention_reference",
    "attention_row",
    "attention_row_reference",
    "block_quantised",
    "block_weights",
    "blocked_linear",
    "blocked_linear_reference",
    "decode_attention",
    "decode_attention_reference",
    "decoder_layers",
    "decoder_layers_reference",
    "dequantise_blocks",
    "dynamic_linear",
    "dynamic_linear_reference",
    "encoder_layers",
    "encoder_layers_reference",
    "find_region",
    "find_region_reference",
    "gated_silu",
    "gated_silu_reference",
    "has_kernels",
    "multiplies_bytes",
    "norm_linears",
    "norm_linears_reference",
    "output_mlp",
    "output_mlp_reference",
    "pack_quantised",
    "quantise",
    "quantise_float8",
    "quantise_rows",
    "quantised_linear",
    "quantised_linear_reference",
    "quick_gelu",
    "quick_gelu_reference",
    "record_tokens",
    "record_tokens_reference",
    "relative_attention",
    "rms_norm",
    "rms_norm_reference",
    "rotate",
    "rotate_reference",
    "set_mode",
    "status",
    "token_statistics",
    "token_statistics_reference",
    "unblock_bytes",
    "unblock_quantised",
    "unpack_quantised",
    "write_cache",
    "write_cache_reference",
]
