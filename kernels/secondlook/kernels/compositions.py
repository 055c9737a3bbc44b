"""What the custom operators replace: the same steps in PyTorch's own operations.

None waits for the device. They do no more than they must, in the fewest operations that are at hand: rows
that an operator would skip or mask are not provided for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from secondlook.kernels.quantised import QuantisedWeights


def token_statistics(
    logits: Tensor,  # [B, V]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token, min-entropy, Shannon entropy and margin of each row, by a softmax in float32."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    best, index = probabilities.topk(2, dim=-1)
    shannon = -torch.xlogy(probabilities, probabilities).sum(-1)
    return index[:, 0], -best[:, 0].log(), shannon, 1 - (best[:, 0] - best[:, 1])


def record_tokens(
    logits: Tensor,  # [B, V]
    state: dict[str, Tensor],  # the operator's other arguments
) -> None:
    """Append each row's token and measures to its slot, which must be open; update what goes with it."""
    token, *measures = token_statistics(logits)
    values = torch.stack(measures, dim=1)
    slots = state["slots"]
    at = state["lengths"][slots]
    length = at + 1
    state["tokens"][slots, at] = token
    state["measures"][slots, at] = values
    mean = state["means"][slots]
    state["means"][slots] = mean + (values - mean) / length[:, None]
    state["lengths"][slots] = length
    ended = (token[:, None] == state["end_tokens"]).any(dim=1)
    state["finished"][slots] = ended | (length >= state["limits"][slots])
    state["next_tokens"].copy_(token)


def attention_row(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [B, H, S, D]
    start: int,
    stop: int,
    scale: float,
) -> Tensor:  # [B, stop - start]
    """The heads' mean attention of one query to the positions from start to stop, all S of them valid."""
    scores = (query[:, :, None] @ keys.transpose(2, 3)).float() * scale
    return scores.softmax(-1).mean(1)[:, 0, start:stop].contiguous()


def decode_attention(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [S, H, T, D]
    values: Tensor,  # [S, H, T, D]
    slots: Sequence[int],  # B of them
    length: int,
    scale: float,
) -> Tensor:  # [B, H, D]
    """Attention of each row to the first `length` positions of its slot: SDPA for each, as nothing else
    neither gathers the slots nor takes a mask."""
    rows = [
        functional.scaled_dot_product_attention(
            query[row : row + 1, :, None],
            keys[slot : slot + 1, :, :length],
            values[slot : slot + 1, :, :length],
            scale=scale,
        )
        for row, slot in enumerate(slots)
    ]
    return torch.cat(rows)[:, :, 0]


def rms_norm(
    input: Tensor,  # noqa: A002 -- torch's name; [R, D]
    weight: Tensor,  # [D]
    epsilon: float,
) -> Tensor:  # [R, D]
    """As transformers writes it."""
    x = input.float()
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)).to(input.dtype)


def rotate(
    input: Tensor,  # noqa: A002 -- torch's name; [R, H, W]
    cosine: Tensor,  # [R, W]
    sine: Tensor,  # [R, W]
) -> Tensor:  # [R, H, W]
    """As transformers writes it."""
    low, high = input.chunk(2, dim=-1)
    return input * cosine[:, None] + torch.cat([-high, low], dim=-1) * sine[:, None]


def gated_silu(
    gate: Tensor,  # [R, D]
    up: Tensor,  # [R, D]
) -> Tensor:  # [R, D]
    """As transformers writes it."""
    return functional.silu(gate) * up


def quick_gelu(input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
    """As transformers writes it."""
    return input * torch.sigmoid(1.702 * input)


def linear_of_8_bits(weights: QuantisedWeights, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A layer whose outputs have a scale each, and no zeros."""
    scales = weights.scales[:, 0].to(dtype)
    return lambda rows: torch._weight_int8pack_mm(rows, weights.values, scales)


def linear_of_4_bits(weights: QuantisedWeights, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A layer of groups of 32, 64, 128 or 256 inputs, with zeros."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((weights.values + 8).int(), 1)
    zeros = torch.zeros_like(weights.scales) if weights.zeros is None else weights.zeros
    pairs = torch.stack([weights.scales, -zeros * weights.scales], dim=-1)  # (value * scale + zero) of theirs
    both = pairs.transpose(0, 1).contiguous().to(dtype)
    return lambda rows: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, weights.group, both)


def dynamic_linear(rows: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Rows rounded to 8 bits, multiplied with weights [inputs, outputs] and scales [outputs]."""
    own = rows.float().abs().amax(1, keepdim=True) / 127
    products = torch._int_mm((rows / own).round().to(torch.int8), values)
    return (products * own * scales).to(rows.dtype)


class DecoderLayer:
    """A decoder's layer in a step of B rows, of which each is in the slot of its number, at one place.

    Args:
        norm: weights [D] of both norms.
        products: query, key, value, output, gate, up and down.
    """

    def __init__(self, norm: Tensor, products: Sequence[nn.Module], heads: int) -> None:
        self.norm, self.heads = norm, heads
        *self.projections, self.output, self.gate, self.up, self.down = products

    def __call__(
        self,
        hidden: Tensor,  # [B, D]
        cosine: Tensor,  # [B, W]
        sine: Tensor,  # [B, W]
        keys: Tensor,  # [B, H, T, W]
        values: Tensor,  # [B, H, T, W]
        place: int,
    ) -> Tensor:  # [B, D]
        x = rms_norm(hidden, self.norm, 1e-5)
        query, key, value = (product(x).view(len(x), self.heads, -1) for product in self.projections)
        keys[:, :, place] = rotate(key, cosine, sine)
        values[:, :, place] = value
        turned, scale = rotate(query, cosine, sine), query.shape[-1] ** -0.5
        mixed = decode_attention(turned, keys, values, range(len(x)), place + 1, scale)
        return output_mlp(hidden, mixed.flatten(1), self.norm, [self.output, self.gate, self.up, self.down])


def norm_linears(
    hidden: Tensor,  # [R, D]
    norm: Tensor,  # [D]
    products: Sequence[nn.Module],
) -> list[Tensor]:  # [R, N] of each
    """As transformers' Llama computes queries, keys and values."""
    x = rms_norm(hidden, norm, 1e-5)
    return [product(x) for product in products]


def output_mlp(
    hidden: Tensor,  # [R, D]
    mixed: Tensor,  # [R, H]
    norm: Tensor,  # [D]
    products: Sequence[nn.Module],
) -> Tensor:  # [R, D]
    """The rest of Llama's layer; its output, gate, up and down."""
    output, gate, up, down = products
    middle: Tensor = hidden + output(mixed)
    x = rms_norm(middle, norm, 1e-5)
    result: Tensor = middle + down(gated_silu(gate(x), up(x)))
    return result


def encoder_layer(
    hidden: Tensor,  # [N, L, D]
    norm: Tensor,  # [D], weight and bias of both
    products: Sequence[nn.Module],
    heads: int,
) -> Tensor:  # [N, L, D]
    """As transformers' CLIP computes it: query, key, value, output and both of the perceptron."""
    *projections, output, up, down = products
    x = functional.layer_norm(hidden, norm.shape, norm, norm, 1e-5)
    query, key, value = (one(x).unflatten(2, (heads, -1)).transpose(1, 2) for one in projections)
    found = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    middle: Tensor = hidden + output(found.flatten(2))
    x = functional.layer_norm(middle, norm.shape, norm, norm, 1e-5)
    result: Tensor = middle + down(quick_gelu(up(x)))
    return result


@dataclass(frozen=True)
class Window:
    """A window's cells, and how many neighbours, a cell away, each of its places has."""

    nx: int
    ny: int
    neighbours: Tensor  # [rows - ny + 1, columns - nx + 1]


def windows(
    side: int, size: tuple[int, int], crop_size: int, ratios: Sequence[float], device: torch.device
) -> list[Window]:
    """The windows of square maps over originals of this width and height; made once, for many maps."""
    found = []
    for ratio in ratios:
        nx, ny = (min(max(1, int(crop_size * ratio / (length / side))), side) for length in size)
        places = torch.ones(side - ny + 1, side - nx + 1, device=device)
        found.append(Window(nx, ny, _around(places)))
    return found


def find_region(
    question: Tensor,  # [1, side * side]
    generic: Tensor,  # [1, side * side]
    side: int,
    tried: Sequence[Window],
) -> Tensor:  # [2]
    """Sharpness and place (row by row, among its window's) of the window that stands out most.

    The box in pixels is left out.
    """
    relative = (question / generic).view(1, 1, side, side)
    best = []
    for window in tried:
        cells = window.nx * window.ny
        sums = functional.avg_pool2d(relative, (window.ny, window.nx), 1)[0, 0] * cells
        place = sums.flatten().argmax(dim=0, keepdim=True)
        sharpness = (sums - _around(sums) / window.neighbours).take(place) / cells
        best.append(torch.cat([sharpness, place.to(sharpness.dtype)]))
    ranked = torch.stack(best)
    # Not [...] with an index of no dimension, whose value the host would read.
    return ranked.index_select(0, ranked[:, 0].argmax(dim=0, keepdim=True))[0]


def _around(cells: Tensor) -> Tensor:
    """Of each cell, the sum of those left, right, above and below it."""
    padded = functional.pad(cells, (1, 1, 1, 1))
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
