"""Each custom operator, and packed linear layers, beside what they replace in PyTorch and the time that their
bytes take to copy.

The last line of `secondlook bench kernels` is one JSON object with the environment and `rows`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.options import KernelsRun
from secondlook.benchmarks.timing import copy_bandwidth, side_by_side
from secondlook.engine.devices import chosen_device
from secondlook.engine.models.low_bit import LowBitLinear
from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.engine.models.packing import PACKED, pack_linear_layers
from secondlook.kernels import (
    KernelError,
    attention,
    attention_row,
    block_quantised,
    block_weights,
    blocked_linear,
    compositions,
    decode_attention,
    decoder_layers,
    dynamic_linear,
    encoder_layers,
    find_region,
    gated_silu,
    multiplies_bytes,
    norm_linears,
    output_mlp,
    quantise,
    quick_gelu,
    record_tokens,
    rms_norm,
    rotate,
    token_statistics,
)
from secondlook.kernels.library import Status, status

_CAPACITY: Final = 2**18
"""Tokens of a slot: more than a measurement has calls, for a full slot would be skipped."""


@dataclass(frozen=True)
class _Case:
    operator: str
    dtype: torch.dtype
    shape: str
    fused: Callable[[], Any]
    composition: Callable[[], Any]
    bytes: int


def bench_operators(run: KernelsRun) -> dict[str, Any]:
    device = chosen_device(run.device)
    console = Console(stderr=True)
    with console.status("looking for the operators' library ..."):
        serving = _serving(device)
    bandwidth = copy_bandwidth(device)
    rows = []
    # Redrawn between the cases only: a thread for it would take its time from what is measured.
    for case in track([*_cases(device)], "measuring", console=console, transient=True, auto_refresh=False):
        fused, composition = side_by_side([case.fused, case.composition], device)
        rows.append(
            {
                "operator": case.operator,
                "device": device.type,
                "dtype": str(case.dtype).removeprefix("torch."),
                "shape": case.shape,
                "microseconds": fused * 1e6,
                "composition_microseconds": composition * 1e6,
                "floor_microseconds": case.bytes / bandwidth * 1e6,
                "speedup": composition / fused,
            }
        )
    return {
        "implementation": serving.source,
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "rows": rows,
    }


def _serving(device: torch.device) -> Status:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report says what was measured
            found = status("cuda" if device.type == "cuda" else "cpu")
    except KernelError as error:
        raise MeasurementError(str(error)) from error
    if found.source == "reference" and device.type == "cuda":  # they wait for the GPU: no graph can have them
        raise MeasurementError(f"there are no compiled operators for the GPU to measure: {found.reason}")
    return found


def _cases(device: torch.device) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    dtypes = (torch.float32, torch.float16 if device.type == "cuda" else torch.bfloat16)
    for batch in (1, 8, 64):
        for dtype in dtypes:
            logits = 4 * normal(batch, 32064, dtype=dtype)
            calls = (partial(each, logits) for each in (token_statistics, compositions.token_statistics))
            yield _logits_case("token_statistics", logits, *calls)
    for batch in (1, 8):
        for dtype in dtypes:
            logits = 4 * normal(batch, 32064, dtype=dtype)
            fused = partial(record_tokens, logits, **_open_slots(logits))
            composition = partial(compositions.record_tokens, logits, _open_slots(logits))
            yield _logits_case("record_tokens", logits, fused, composition)
    for dtype in dtypes:
        query, keys = normal(1, 32, 128, dtype=dtype), normal(1, 32, 1300, 128, dtype=dtype)
        yield _attention_case(query, keys, 5, 581)
    for batch, length in ((1, 650), (1, 1250), (8, 650), (8, 1250)):
        for dtype in dtypes:
            query, cache = normal(batch, 16, 64, dtype=dtype), normal(2, batch + 1, 16, 1408, 64, dtype=dtype)
            yield _decode_case(query, cache, length)
    for rows, outputs in ((1, 2816), (4, 2816), (16, 2816), (1, 32064), (640, 2816)):
        for dtype in dtypes:
            yield from _linear_case(normal(rows, 1024, dtype=dtype), outputs)
    if device.type == "cpu":
        for dtype in dtypes:
            yield from _cpu_cases(partial(normal, dtype=dtype), dtype)
    for side in (12, 24):
        maps = normal(2, side * side, dtype=torch.float32).exp()
        yield _region_case(maps[:1], maps[1:], side)


def _logits_case(
    operator: str, logits: Tensor, fused: Callable[[], Any], composition: Callable[[], Any]
) -> _Case:
    shape = "B={} V={}".format(*logits.shape)
    return _Case(operator, logits.dtype, shape, fused, composition, logits.nbytes)


def _open_slots(logits: Tensor) -> dict[str, Tensor]:
    """What `record_tokens` takes beside the logits: an empty slot for each row, which no token ends."""
    batch, device = logits.shape[0], logits.device
    return {
        "slots": torch.arange(batch, device=device),
        "end_tokens": torch.tensor([-1], device=device),
        "limits": torch.full((batch,), _CAPACITY, device=device),
        "tokens": torch.zeros(batch, _CAPACITY, dtype=torch.int64, device=device),
        "measures": torch.zeros(batch, _CAPACITY, 3, device=device),
        "means": torch.zeros(batch, 3, device=device),
        "lengths": torch.zeros(batch, dtype=torch.int64, device=device),
        "finished": torch.zeros(batch, dtype=torch.bool, device=device),
        "next_tokens": torch.zeros(batch, dtype=torch.int64, device=device),
        "arrivals": torch.zeros(batch, dtype=torch.int32, device=device),
    }


def _attention_case(query: Tensor, keys: Tensor, start: int, stop: int) -> _Case:
    batch, heads, length, width = keys.shape
    lengths = torch.full((batch,), length, device=keys.device)
    scale = width**-0.5
    return _Case(
        "attention_row",
        query.dtype,
        f"B={batch} H={heads} S={length} D={width}",
        lambda: attention_row(query, keys, lengths, start, stop, scale),
        lambda: compositions.attention_row(query, keys, start, stop, scale),
        keys.nbytes,
    )


def _decode_case(query: Tensor, cache: Tensor, length: int) -> _Case:
    """Keys and values are `cache` [2, S, H, T, D]; rows are in slots 1 to B, all of one length."""
    batch, heads, width = query.shape
    keys, values = cache
    slots = torch.arange(1, batch + 1, device=query.device)
    lengths = torch.full((batch,), length, device=query.device)
    scale = width**-0.5
    return _Case(
        "decode_attention",
        query.dtype,
        f"B={batch} H={heads} S={length} D={width}",
        lambda: decode_attention(query, keys, values, slots, lengths, scale),
        lambda: compositions.decode_attention(query, keys, values, range(1, batch + 1), length, scale),
        2 * batch * heads * length * width * query.element_size(),
    )


def _linear_case(rows: Tensor, outputs: int) -> Iterator[_Case]:
    """As it is chosen here; None where PyTorch's own layer is."""
    plain = nn.Linear(rows.shape[1], outputs, bias=False, device=rows.device, dtype=rows.dtype)
    packed = nn.Sequential(plain.requires_grad_(False))
    pack_linear_layers(packed)
    if isinstance(packed[0], PackedLinear):
        yield _Case(
            "PackedLinear",
            rows.dtype,
            f"B={rows.shape[0]} K={rows.shape[1]} N={outputs}",
            lambda: packed(rows),
            lambda: plain(rows),
            rows.nbytes + plain.weight.nbytes + len(rows) * outputs * rows.element_size(),
        )


def _cpu_cases(normal: Callable[..., Tensor], dtype: torch.dtype) -> Iterator[_Case]:
    """Operators that are for the CPU alone, with the sizes of `small`."""
    for batch in (1, 4):
        rows, weight = normal(batch, 1024), normal(2816, 1024)
        blocks = block_weights(weight)
        yield _Case(
            "blocked_linear",
            dtype,
            f"B={batch} K=1024 N=2816",
            partial(blocked_linear, rows, blocks, None, 2816),
            partial(functional.linear, rows, weight),
            weight.nbytes,
        )
        yield from _low_bit_cases(rows, weight)
        for bits in (None, 8, 4):
            yield _layer_case(normal, batch, dtype, bits)
    for length, causal in ((577, False), (620, True)):
        query, keys, values = (normal(1, length, 16, 64).transpose(1, 2) for _ in range(3))
        yield _Case(
            "attention",
            dtype,
            f"L={length} H=16 D=64{' causal' if causal else ''}",
            partial(attention, query, keys, values, 0.125, causal),
            partial(functional.scaled_dot_product_attention, query, keys, values, is_causal=causal),
            4 * query.nbytes,
        )
    yield from _rows_cases(normal, dtype)
    if multiplies_bytes():
        yield _dynamic_case(normal(640, 1024), normal(2816, 1024))
    gate, up, wide = normal(620, 2816), normal(620, 2816), normal(577, 4096)
    hidden, weight = normal(620, 1024), normal(1024)
    heads, angles = normal(620, 16, 64), normal(620, 64)
    for operator, composition, given, tensors in (
        (gated_silu, compositions.gated_silu, (gate, up), 3),
        (quick_gelu, compositions.quick_gelu, (wide,), 2),
        (rms_norm, compositions.rms_norm, (hidden, weight, 1e-5), 2),
        (rotate, compositions.rotate, (heads, angles, angles), 2),
    ):
        yield _Case(
            operator.__name__,
            dtype,
            "x".join(map(str, given[0].shape)),
            partial(operator, *given),
            partial(composition, *given),
            tensors * given[0].nbytes,  # read and written
        )


def _dynamic_case(rows: Tensor, weight: Tensor) -> _Case:
    weights = quantise(weight, 8)
    values, scales = weights.values.T.contiguous(), weights.scales.flatten()
    return _Case(
        "dynamic_linear",
        rows.dtype,
        f"B={len(rows)} K={weight.shape[1]} N={len(weight)}",
        partial(dynamic_linear, rows, values, scales),
        partial(compositions.dynamic_linear, rows, values, scales),
        rows.nbytes + values.nbytes,
    )


def _low_bit_cases(rows: Tensor, weight: Tensor) -> Iterator[_Case]:
    """`blocked_linear` with weights of few bits, beside PyTorch's own operators for such."""
    outputs, inputs = weight.shape
    kinds = (
        (quantise(weight, 8), compositions.linear_of_8_bits),
        (quantise(weight, 4), compositions.linear_of_4_bits),
    )
    for weights, theirs in kinds:
        blocks = block_quantised(weights)
        yield _Case(
            "blocked_linear",
            rows.dtype,
            f"B={len(rows)} K={inputs} N={outputs} {weights.bits} bits",
            partial(blocked_linear, rows, blocks, None, outputs),
            partial(theirs(weights, rows.dtype), rows),
            blocks.nbytes,
        )


def _layer_case(
    normal: Callable[..., Tensor], batch: int, dtype: torch.dtype, bits: Literal[4, 8] | None
) -> _Case:
    """A layer of `small` behind 650 positions, beside the operators that it is made of.

    Args:
        bits: of weights; None: they are of `dtype`.
    """
    size, heads, width, inner, length = 1024, 16, 64, 2816, 650
    shapes = ((size, size),) * 4 + ((inner, size),) * 2 + ((size, inner),)
    query, key, value, output, gate, up, down = (
        nn.Linear(shape[1], shape[0], bias=False, dtype=dtype) for shape in shapes
    )
    layers = nn.ModuleList([query, key, value, output, gate, up, down]).requires_grad_(False)
    if bits is None:
        blocks = [block_weights(layer.weight) for layer in (query, key, value, output, gate, up, down)]
        pack_linear_layers(layers)
    else:
        rounded = [quantise(layer.weight, bits) for layer in (query, key, value, output, gate, up, down)]
        blocks = [block_quantised(one) for one in rounded]
        layers = nn.ModuleList([LowBitLinear(one, None, dtype) for one in rounded])
    norm, angles = normal(size), normal(batch, width)
    keys, values = normal(2, batch, heads, length + 1, width)
    slots, places = torch.arange(batch), torch.full((batch,), length)
    hidden = normal(batch, size)
    weights = [norm, *blocks[:3], *[norm[:0]] * 5, blocks[3], norm, *blocks[4:]]
    cache = [keys], [values], slots, places
    parts = compositions.DecoderLayer(norm, list(layers), heads)
    return _Case(
        "decoder_layers",
        dtype,
        f"B={batch} D={size} I={inner} S={length}" + (f" {bits} bits" if bits else ""),
        partial(decoder_layers, hidden, weights, angles, angles, *cache, heads, inner, width**-0.5, 1e-5),
        partial(parts, hidden, angles, angles, keys, values, length),
        sum(one.nbytes for one in blocks) + keys.nbytes + values.nbytes,
    )


def _rows_cases(normal: Callable[..., Tensor], dtype: torch.dtype) -> Iterator[_Case]:
    """What layers of `small` do to many rows, beside products that are packed, and PyTorch's operations."""

    def made(*shapes: tuple[int, int]) -> tuple[nn.ModuleList, list[Tensor], int]:
        plain = [nn.Linear(*shape, bias=False, dtype=dtype) for shape in shapes]
        weights, layers = [layer.weight.detach() for layer in plain], nn.ModuleList(plain)
        pack_linear_layers(layers, PACKED)
        return layers, [block_weights(one) for one in weights], sum(one.nbytes for one in weights)

    size, heads = 1024, 16
    norm, none = normal(size), normal(0)
    hidden, mixed = normal(620, size), normal(620, size)
    layers, blocks, read = made(*((size, size),) * 3)
    yield _Case(
        "norm_linears",
        dtype,
        f"R={len(hidden)} D={size} N=3x{size}",
        partial(norm_linears, hidden, norm, none, 1e-5, blocks, [none] * 3, [size] * 3),
        partial(compositions.norm_linears, hidden, norm, list(layers)),
        read + 4 * hidden.nbytes,
    )
    inner = 2816
    layers, blocks, read = made((size, size), (size, inner), (size, inner), (inner, size))
    output, *others = ([one, none] for one in blocks)
    weights = [*output, norm, none, *chain.from_iterable(others)]
    yield _Case(
        "output_mlp",
        dtype,
        f"R={len(hidden)} D={size} I={inner}",
        partial(output_mlp, hidden, mixed, weights, inner, 1e-5, "silu"),
        partial(compositions.output_mlp, hidden, mixed, norm, list(layers)),
        read + 3 * hidden.nbytes,
    )
    rows, inner = normal(1, 577, size), 4 * size
    layers, blocks, read = made(*((size, size),) * 4, (size, inner), (inner, size))
    parts = [[one, none] for one in blocks]
    weights = [norm, norm, *chain.from_iterable(parts[:4]), norm, norm, none, none]
    weights += chain.from_iterable(parts[4:])
    scale = (size // heads) ** -0.5
    yield _Case(
        "encoder_layers",
        dtype,
        f"L={rows.shape[1]} D={size} I={inner}",
        partial(encoder_layers, rows, weights, heads, inner, scale, 1e-5, "quick_gelu"),
        partial(compositions.encoder_layer, rows, norm, list(layers), heads),
        read + 2 * rows.nbytes,
    )


def _region_case(question: Tensor, generic: Tensor, side: int) -> _Case:
    size, crop_size = (3000, 2000), 336
    sizes = torch.tensor([size], device=question.device)
    ratios = inspect.signature(find_region).parameters["ratios"].default
    tried = compositions.windows(side, size, crop_size, ratios, question.device)
    return _Case(
        "find_region",
        question.dtype,
        f"{side}x{side} cells",
        lambda: find_region(question, generic, side, side, sizes, crop_size),
        lambda: compositions.find_region(question, generic, side, tried),
        2 * question.nbytes,
    )
