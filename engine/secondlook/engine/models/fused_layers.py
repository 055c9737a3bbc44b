"""A decoder's step of a few rows on a CPU, each of its layers one operator: `secondlook.kernels.decoder_layer`.

Transformers' modules stay what they are, and compute all else: prefill, many rows, other devices. Whether a
decoder's layers are what that operator computes is not read from its name: they have the same parts, and give
the same result, or they are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from secondlook.engine.decode.cache import DecoderShape, KVCache
from secondlook.engine.decode.plans import DecodePlan, Rows
from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.kernels import decoder_layer

__all__ = ["FusedLayers", "fused_layers"]

_PRODUCTS: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS: Final = ("self_attn.q_norm", "self_attn.k_norm")
_ALIKE: Final = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of the largest value, what a layer may differ by: in bfloat16 roundings of inner values fall differently."""


@dataclass(frozen=True)
class _Layer:
    """What the operator takes of a layer, in its order: before the rotation, and behind the cache."""

    before: tuple[Tensor | None, ...]
    behind: tuple[Any, ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Layer | None:
        """None: it has other parts."""
        parts: dict[str, Any] = {name: part for name, part in module.named_modules() if _holds(part)}
        packed = [parts.pop(name, None) for name in _PRODUCTS]
        norms = [parts.pop(name, None) for name in _NORMS]
        heads = [parts.pop(name, None) for name in _HEAD_NORMS]
        if parts or None in norms or (heads[0] is None) != (heads[1] is None):
            return None
        if not all(isinstance(one, PackedLinear) and one.blocks is not None for one in packed):
            return None
        epsilons = {getattr(norm, "variance_epsilon", None) for norm in (*norms, *heads) if norm is not None}
        attention: Any = module.get_submodule("self_attn")
        scale, width = getattr(attention, "scaling", None), getattr(attention, "head_dim", None)
        unbiased = all(one.bias is None for one in packed[3:])
        if (
            len(epsilons) != 1
            or None in epsilons
            or not isinstance(scale, float)
            or not width
            or not unbiased
        ):
            return None
        query, key, value, output, gate, up, down = (one.blocks for one in packed)
        biases = [one.bias for one in packed[:3]]
        weights = [None if norm is None else norm.weight for norm in heads]
        count, inner = packed[0].out_features // width, packed[4].out_features
        return cls(
            (norms[0].weight, query, key, value, *biases, *weights),
            (output, norms[1].weight, gate, up, down, count, inner, scale, *epsilons),
        )


def _holds(module: nn.Module) -> bool:
    """Whether a module has values of its own."""
    return isinstance(module, PackedLinear) or any(True for _ in module.parameters(recurse=False))


class FusedLayers:
    """All layers of a decoder.

    Args:
        decoder: transformers', with `norm` behind its layers, and `rotary_emb`.
        most: rows of a step, up to which this is worth while.
    """

    def __init__(self, decoder: Any, layers: list[_Layer], most: int) -> None:
        self._decoder = decoder
        self._layers = layers
        self.most = most

    def hidden(self, rows: Rows, plan: DecodePlan) -> Tensor:
        """[B, D], of one row each of B sequences, whose positions are the same in all dimensions."""
        hidden = rows.embeddings
        cosine, sine = _rotation(self._decoder, hidden, rows.positions)
        caches = zip(plan.cache.keys, plan.cache.values, strict=True)
        for layer, (keys, values) in zip(self._layers, caches, strict=True):
            cache = (cosine, sine, keys, values, plan.slots, plan.places)
            hidden = decoder_layer(hidden, *layer.before, *cache, *layer.behind)
        normed: Tensor = self._decoder.norm(hidden)
        return normed


def _rotation(decoder: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, W] of positions [P, B], which are the same for all P."""
    found = decoder.rotary_emb(hidden, positions[:1] if len(positions) == 1 else positions.unsqueeze(1))
    cosine, sine = (one.reshape(-1, *one.shape[-2:])[0].contiguous() for one in found)
    return cosine, sine


@torch.inference_mode()
def fused_layers(decoder: Any, shape: DecoderShape, axes: int) -> FusedLayers | None:
    """A decoder's layers as operators; None if they are not what that computes, or not packed.

    Args:
        axes: of rotary positions, P.
    """
    modules = list(getattr(decoder, "layers", ()))
    layers = [layer for module in modules if (layer := _Layer.of(module)) is not None]
    if not layers or len(layers) < len(modules) or not hasattr(decoder, "rotary_emb"):
        return None
    packed = [one for one in decoder.layers.modules() if isinstance(one, PackedLinear)]
    fused = FusedLayers(decoder, layers, min(one.few for one in packed))
    return fused if fused.most and _alike(fused, modules[0], shape, axes) else None


def _alike(fused: FusedLayers, module: Any, shape: DecoderShape, axes: int) -> bool:
    """Whether the first layer, at the third place of two sequences, gives what its module gives."""
    layer, decoder = fused._layers[0], fused._decoder
    generator = torch.Generator().manual_seed(0)
    weight = layer.before[0]
    assert weight is not None, "it is a norm's"
    hidden = torch.randn(2, shape.width, generator=generator).to(weight.dtype)
    positions = torch.tensor([[2, 5]]).expand(axes, -1)
    one = DecoderShape(1, shape.heads, shape.kv_heads, shape.head_width, shape.width)
    found = []
    for ours in (True, False):
        cache = KVCache(one, 2, 3, weight.dtype, weight.device)
        for tensor in (*cache.keys, *cache.values):
            tensor.copy_(torch.randn(tensor.shape, generator=generator.manual_seed(1)))
        plan = DecodePlan(cache, torch.tensor([1, 0]), torch.tensor([2, 2]))
        if ours:
            rotation = _rotation(decoder, hidden, positions)
            held = (*rotation, cache.keys[0], cache.values[0], plan.slots, plan.places)
            found.append(decoder_layer(hidden, *layer.before, *held, *layer.behind).float())
        else:
            turns = decoder.rotary_emb(hidden[None], positions if axes == 1 else positions[:, None])
            output = module(hidden[None], position_embeddings=turns, attention_mask=None, attention_plan=plan)
            found.append((output if isinstance(output, Tensor) else output[0])[0].float())
    apart = (found[0] - found[1]).abs().max()
    return bool(apart <= _ALIKE[hidden.dtype] * found[1].abs().max())
