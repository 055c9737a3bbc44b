"""A decoder's layers on a CPU, by the operators of `secondlook.kernels`.

Transformers' modules keep the weights, and compute wherever no such operator serves. Whether a decoder's
layers are what is computed here is not read from its name: they have the same parts, and give the same
results, or they are left alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from secondlook.engine.decode.cache import DecoderShape, KVCache
from secondlook.engine.decode.plans import AttentionPlan, DecodePlan, PrefillPlan, Rows, Segment
from secondlook.engine.models.fixed_linear import FixedLinear
from secondlook.engine.models.layer_rows import activation_of, serve, with_bias
from secondlook.kernels import (
    LAYER_WEIGHTS,
    decoder_layers,
    gated_silu,
    norm_linears,
    output_mlp,
    rms_norm,
    rotate,
)
from secondlook.kernels.library import uses_reference

__all__ = ["FusedLayers", "fused_layers"]

_PRODUCTS: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS: Final = ("self_attn.q_norm", "self_attn.k_norm")
_ALIKE: Final = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of the largest value, what a layer may differ by: in bfloat16 inner values are rounded differently."""


class _Layer:
    """One layer's parts.

    Attributes:
        most: rows of a decode step up to which one operator computes all of it, by what was measured of its
            products at their best, or is fixed for few bits. 0: it cannot compute this layer.
        weights: what that operator takes, unless it cannot.
        sizes: its heads, the inner size, scale and epsilon.

    Raises:
        LookupError: it has other parts.
    """

    def __init__(self, module: nn.Module) -> None:
        parts: dict[str, Any] = {name: part for name, part in module.named_modules() if _holds(part)}
        try:
            self._products = [parts.pop(name) for name in _PRODUCTS]
            norms = [parts.pop(name) for name in _NORMS]
            heads = [parts.pop(name) for name in _HEAD_NORMS if name in parts]
            attention: Any = module.get_submodule("self_attn")
            self.scale, self.width = float(attention.scaling), int(attention.head_dim)
            (self._epsilon,) = {float(norm.variance_epsilon) for norm in (*norms, *heads)}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LookupError(f"it is no layer as is computed here: {error}") from error
        if parts or len(heads) == 1:
            raise LookupError(f"it has other parts: {', '.join(parts)}")
        activation = getattr(module.get_submodule("mlp"), "act_fn", None)
        if activation_of(activation) != "silu" or not all(
            _is_rms_norm(norm, self._epsilon) for norm in (*norms, *heads)
        ):
            raise LookupError("its norms or its activation are others")
        self._norms = [norm.weight for norm in norms]
        self._head_norms = [norm.weight for norm in heads] or [None, None]
        blocks = [getattr(one, "blocks", None) for one in self._products]
        self.weights, self.most = list[Tensor](), 0
        outputs, inner = int(self._products[0].out_features), int(self._products[4].out_features)
        self.sizes: tuple[Any, ...] = outputs // self.width, inner, self.scale, self._epsilon
        if all(one is not None for one in blocks) and all(one.bias is None for one in self._products[3:]):
            self._take(blocks)

    def _take(self, blocks: list[Any]) -> None:
        query, key, value, output, gate, up, down = blocks
        if _block_width(gate) != _block_width(up):  # one of them of few bits
            return
        biases = [one.bias for one in self._products[:3]]
        before = (self._norms[0], query, key, value, *biases, *self._head_norms)
        absent = self._norms[0][:0]
        self.weights = [absent if one is None else one.detach() for one in before]
        self.weights += [output, self._norms[1].detach(), gate, up, down]
        self.most = max(one.few for one in self._products)

    def run(self, number: int, hidden: Tensor, turns: tuple[Tensor, Tensor], plan: AttentionPlan) -> Tensor:
        """[R, D] of any rows."""
        query, key, value = self._projected(hidden, slice(3))
        query, key = self._turned(0, query, turns), self._turned(1, key, turns)
        mixed = plan.attend(number, _by_heads(query), _by_heads(key), _by_heads(value), self.scale)
        return self._finished(hidden, mixed)

    def run_last(
        self, number: int, hidden: Tensor, turns: tuple[Tensor, Tensor], plan: PrefillPlan, last: Tensor
    ) -> Tensor:
        """[segments, D] of the rows `last`: of all others keys and values are computed alone."""
        own = hidden[last]
        (query,), (key, value) = self._projected(own, slice(1)), self._projected(hidden, slice(1, 3))
        query, key = self._turned(0, query, (turns[0][last], turns[1][last])), self._turned(1, key, turns)
        mixed = plan.attend_last(number, _by_heads(query), _by_heads(key), _by_heads(value), self.scale)
        return self._finished(own, mixed)

    def _projected(self, hidden: Tensor, which: slice) -> list[Tensor]:
        """[R, H, W] of some of the first three products, of rows that are normed before."""
        products, norm = self._products[which], self._norms[0]
        if serve(hidden, products):
            blocks, biases = zip(*(with_bias(one, norm) for one in products), strict=True)
            outputs = [one.out_features for one in products]
            found = norm_linears(hidden, norm, norm[:0], self._epsilon, blocks, biases, outputs)
        else:
            x = rms_norm(hidden, norm, self._epsilon)
            found = [one(x) for one in products]
        return [one.view(len(hidden), -1, self.width) for one in found]

    def _turned(self, which: int, heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        norm = self._head_norms[which]
        if norm is not None:
            heads = rms_norm(heads.view(-1, self.width), norm, self._epsilon).view_as(heads)
        return rotate(heads, *turns)

    def _finished(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The layer's result, from its input and what attention found, [1, R, H, W]."""
        output, gate, up, down = self._products[3:]
        norm, mixed = self._norms[1], mixed.reshape(len(hidden), -1)
        if serve(hidden, self._products[3:]) and _block_width(gate.blocks) == _block_width(up.blocks):
            absent = norm[:0]
            behind = (part for one in (gate, up, down) for part in with_bias(one, absent))
            weights = [*with_bias(output, absent), norm, absent, *behind]
            return output_mlp(hidden, mixed, weights, down.in_features, self._epsilon, "silu")
        middle: Tensor = hidden + output(mixed)
        x = rms_norm(middle, norm, self._epsilon)
        result: Tensor = middle + down(gated_silu(gate(x), up(x)))
        return result


def _block_width(blocks: Tensor) -> int:
    """Outputs of a block, see `blocked_linear`."""
    return blocks.shape[2 if blocks.is_floating_point() else 3]


def _by_heads(rows: Tensor) -> Tensor:
    """[1, H, R, W] of [R, H, W]."""
    return rows.transpose(0, 1).unsqueeze(0)


def _is_rms_norm(norm: Any, epsilon: float) -> bool:
    values = torch.linspace(-1, 2, len(norm.weight)).to(norm.weight.dtype)[None]
    ours, theirs = rms_norm(values, norm.weight, epsilon).float(), norm(values).float()
    return bool((ours - theirs).abs().max() <= _ALIKE[values.dtype] * ours.abs().max())


def _holds(module: nn.Module) -> bool:
    """Whether a module has values of its own."""
    return isinstance(module, FixedLinear) or any(True for _ in module.parameters(recurse=False))


class FusedLayers:
    """All layers of a decoder.

    Args:
        decoder: transformers', with `norm` behind its layers, and `rotary_emb`.
    """

    def __init__(self, decoder: Any, layers: list[_Layer]) -> None:
        self._decoder = decoder
        self._layers = layers
        self.most = min(layer.most for layer in layers)
        if len({layer.sizes for layer in layers}) > 1:  # one operator's
            self.most = 0
        self._weights = [weight for layer in layers for weight in layer.weights] if self.most else []

    def hidden(self, rows: Rows, plan: AttentionPlan) -> Tensor:
        """[R, D], see `DecoderModel.hidden`."""
        hidden, turns = rows.embeddings, self.turns(rows)
        if isinstance(plan, DecodePlan) and len(rows) <= self.most and not rows.deep:
            stepped: Tensor = self._decoder.norm(self.step(hidden, turns, plan, len(self._layers)))
            return stepped
        end = len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            if number == end and (last := self._last(plan, rows)) is not None:
                assert isinstance(plan, PrefillPlan), "no other wants a few rows"
                hidden = layer.run_last(number, hidden, turns, plan, last)
            else:
                hidden = layer.run(number, hidden, turns, plan)
            if number < len(rows.deep):
                hidden = hidden + rows.deep[number]
        if isinstance(plan, PrefillPlan) and plan.last is not None and len(hidden) == len(rows):
            hidden = hidden[plan.last]
        normed: Tensor = self._decoder.norm(hidden)
        return normed

    def step(self, hidden: Tensor, turns: tuple[Tensor, Tensor], plan: DecodePlan, count: int) -> Tensor:
        """[B, D] of one row each of B sequences, at most `most`, behind the first `count` layers."""
        weights, cache = self._weights[: count * len(LAYER_WEIGHTS)], plan.cache
        keys, values = cache.keys[:count], cache.values[:count]
        return decoder_layers(
            hidden, weights, *turns, keys, values, plan.slots, plan.places, *self._layers[0].sizes
        )

    def _last(self, plan: AttentionPlan, rows: Rows) -> Tensor | None:
        """The rows of which the last layer must compute more than keys and values; None: all."""
        end = len(self._layers) - 1
        if not isinstance(plan, PrefillPlan) or plan.reads(end) or len(rows.deep) > end:
            return None
        return plan.last

    def turns(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Cosines and sines [R, W]."""
        positions = rows.positions if len(rows.positions) == 1 else rows.positions.unsqueeze(1)
        cosine, sine = (one[0].contiguous() for one in self._decoder.rotary_emb(rows.embeddings, positions))
        return cosine, sine

    def alike(self, module: Any, shape: DecoderShape, axes: int) -> bool:
        """Whether the first layer gives what its module gives, for rows behind each other and in a step of as
        many rows as one may have.

        Args:
            module: the first layer.
            axes: of rotary positions.
        """
        layer, generator = self._layers[0], torch.Generator().manual_seed(0)
        weight: Tensor = self._decoder.norm.weight
        # Small, lest what the layer adds is lost beside them.
        three = (torch.randn(3, shape.width, generator=generator) / 64).to(weight.dtype)
        places = torch.tensor([[2, 5, 7], [2, 6, 7], [3, 5, 8]])[:axes]
        found = []
        for stepping, count in ((False, 3), (True, min(3, self.most))):
            values, positions = three[:count], places[:, :count]
            turns = self.turns(Rows(values, positions))
            if turns[0].shape[1] != layer.width or layer.width % 2:
                return False  # only a part of each head is turned
            for ours in (True, False) if count else ():
                cache = KVCache(replace(shape, layers=1), 3, 4, weight.dtype, weight.device)
                for tensor in (*cache.keys, *cache.values):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator.manual_seed(1)))
                plan: Any = PrefillPlan(cache, [Segment(1, 1, 3)])
                if stepping:
                    plan = DecodePlan(cache, torch.tensor([1, 0, 2])[:count], torch.tensor([2, 3, 0])[:count])
                if not ours:
                    at = positions if axes == 1 else positions.unsqueeze(1)
                    angles = self._decoder.rotary_emb(values[None], at)
                    given = {"position_embeddings": angles, "attention_mask": None, "attention_plan": plan}
                    output = module(values[None], **given)
                    found.append((output if isinstance(output, Tensor) else output[0])[0])
                elif stepping:
                    found.append(self.step(values, turns, plan, 1))
                else:
                    found.append(layer.run(0, values, turns, plan))
        pairs = zip(found[::2], found[1::2], strict=True)
        apart = [(one.float() - two.float()).abs().max() / two.float().abs().max() for one, two in pairs]
        return all(bool(each <= _ALIKE[weight.dtype]) for each in apart)


@torch.inference_mode()
def fused_layers(decoder: Any, shape: DecoderShape, axes: int) -> FusedLayers | None:
    """A decoder's layers by operators; None if they are not what that computes, or nothing serves here.

    Args:
        axes: of rotary positions.
    """
    modules = list(getattr(decoder, "layers", ()))
    weight = getattr(getattr(decoder, "norm", None), "weight", None)
    if not modules or weight is None or not hasattr(decoder, "rotary_emb"):
        return None
    if not weight.is_cpu or weight.dtype not in _ALIKE or uses_reference(weight.device):
        return None
    try:
        fused = FusedLayers(decoder, [_Layer(module) for module in modules])
    except LookupError:
        return None
    return fused if fused.alike(modules[0], shape, axes) else None
