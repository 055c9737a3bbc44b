"""Checkpoints whose linear layers were quantised by AWQ, by GPTQ, or as compressed-tensors stores them.

The tensors beside a layer's name say how it is quantised; config.json says by whose rules they are read. With
as many values in an int32 as have room, from its lowest bits on, a weight [outputs, inputs] is stored as

    AWQ                 qweight [inputs, outputs / 8], qzeros [groups, outputs / 8], scales [groups, outputs];
                        of eight outputs the order is 0, 2, 4, 6, 1, 3, 5, 7
    GPTQ                qweight [inputs / n, outputs], qzeros [groups, outputs / n], scales [groups, outputs],
                        g_idx [inputs], the group of each; qzeros are one too small, but in `gptq_v2`
    compressed-tensors  weight_packed [outputs, inputs / n] or weight [outputs, inputs] of int8, weight_scale
                        [outputs, groups], weight_zero_point; all signed, 2^(bits - 1) is added to what is
                        packed, and the last int32 may have room left

Sources: AutoAWQ (awq/modules/linear/gemm.py), AutoGPTQ (nn_modules/qlinear/qlinear_cuda.py), GPTQModel
(utils/model.py), compressed-tensors (compressors/quantized_compressors/pack_quantized.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    UnsupportedModelError,
)
from secondlook.engine.models.faults import reading
from secondlook.engine.models.low_bit import LowBitLinear, Scratch
from secondlook.engine.models.quantisation_config import Method, Packing
from secondlook.engine.models.weights import Stored
from secondlook.kernels import QuantisedWeights

__all__ = ["packed_layers", "unpack_layers", "with_places"]

_PARTS: Final[dict[Method, tuple[str, ...]]] = {
    "awq": ("qweight", "qzeros", "scales"),
    "gptq": ("qweight", "qzeros", "scales"),
    "compressed-tensors": ("weight_scale",),
}
"""What no layer can be read without."""

_MORE: Final = (
    "bias",
    "g_idx",
    "weight",
    "weight_packed",
    "weight_shape",
    "weight_g_idx",
    "weight_zero_point",
)
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
_UNDONE: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where each of eight outputs is in AWQ's order."""

Layers = Mapping[str, Mapping[str, Stored]]
"""Of every quantised layer, by its name in the files, the tensors by the last part of theirs."""


def packed_layers(folder: Path, packing: Packing, stored: Mapping[str, Stored]) -> Layers:
    """The layers that are quantised.

    Raises:
        InvalidModelError: none is.
        IncompleteModelError: one lacks a tensor.
    """
    needed = _PARTS[packing.method]
    found = dict[str, dict[str, Stored]]()
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part in ("qweight", "weight_packed") or (part == "weight" and tensor.dtype == "I8"):
            found[layer] = {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if layer in found and part in (*needed, *_MORE):
            found[layer][part] = tensor
    if not found:
        raise InvalidModelError(
            f"{packing.where} says that weights are quantised by {packing.name}, but no tensor in {folder} "
            "is stored as those are"
        )
    missing = [f"{name}.{part}" for name, parts in found.items() for part in needed if part not in parts]
    if missing:
        raise IncompleteModelError(
            f"{folder} lacks weights that {packing.name} needs: {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        )
    return found


def with_places(kind: Any, layers: Layers) -> Any:
    """A model's class, in whose models quantised layers are places for what is stored of them.

    For `from_pretrained`, which fills them as it does with all else, by transformers' names for what is named
    otherwise in the files; then `unpack_layers` makes models of `kind` of them.
    """

    class Placed(kind):  # type: ignore[misc]  # it is not known before
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            conversions = get_model_conversion_mapping(self)
            renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
            converters = [each for each in conversions if isinstance(each, WeightConverter)]
            there = self.state_dict()
            for name, parts in layers.items():
                prefix: str = self.base_model_prefix
                renamed, _ = rename_source_key(f"{name}.weight", renamings, converters, prefix, there)
                own = renamed.removesuffix(".weight")
                layer = self.get_submodule(own) if renamed in there else None
                if isinstance(layer, nn.Linear):  # what is of nothing here is told when all is loaded
                    self.set_submodule(own, _Places(layer, parts))

    Placed.__name__, Placed.__module__ = kind.__name__, kind.__module__  # transformers goes by names
    return Placed


class _Places(nn.Module):
    """A linear layer's tensors as they are stored, which are loaded into it."""

    def __init__(self, layer: nn.Linear, parts: Mapping[str, Stored]) -> None:
        super().__init__()
        self.shape = layer.out_features, layer.in_features
        self.biased = layer.bias is not None
        for name, stored in parts.items():
            if name != "bias":
                empty = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype], device="meta")
                self.register_buffer(name, empty)
        if (
            self.biased or "bias" in parts
        ):  # in old files of GPTQ's every layer has one, most of them of zeros
            empty = torch.empty(layer.out_features, dtype=layer.weight.dtype, device="meta")
            self.register_buffer("bias", empty)


def unpack_layers(folder: Path, model: Any, kind: Any, packing: Packing, dtype: torch.dtype) -> None:
    """Make a model of `with_places` one of `kind`, its decoder's layers and its head of few bits.

    What is quantised elsewhere, such as a projector, becomes a plain layer of the same values.

    Args:
        dtype: of plain layers.

    Raises:
        InvalidModelError: tensors that do not fit their layer or each other, or are not finite.
        UnsupportedModelError: bits, or groups, that are not read.
    """
    model.__class__ = kind
    head, decoder = model.get_output_embeddings(), set(model.get_decoder().modules())
    scratch = Scratch()
    for name, places in [each for each in model.named_modules() if isinstance(each[1], _Places)]:
        with reading(f"{folder}: {name}"):
            try:
                weights = unpacked(packing, dict(places.named_buffers()), places.shape)
                few = places in decoder or places is head
                given = weights, _bias(places), dtype
                made = LowBitLinear(*given, scratch) if few else _plain(*given)
            except ModelError as error:
                raise type(error)(f"{folder}: {name}: {error}") from error
        model.set_submodule(name, made.eval())


def _plain(weights: QuantisedWeights, bias: nn.Parameter | None, dtype: torch.dtype) -> nn.Module:
    outputs, inputs = weights.values.shape
    layer: Any = nn.Linear(inputs, outputs, bias is not None, device="meta")
    layer.weight, layer.bias = nn.Parameter(weights.dequantised(dtype), requires_grad=False), bias
    found: nn.Module = layer
    return found


def _bias(places: Any) -> nn.Parameter | None:
    if not hasattr(places, "bias") or not (places.biased or places.bias.any()):
        return None
    if not places.biased:
        raise InvalidModelError("it has a bias, which such a layer has not")
    return nn.Parameter(places.bias, requires_grad=False)


def unpacked(packing: Packing, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> QuantisedWeights:
    """
    Args:
        shape: outputs and inputs.
    """
    if packing.method == "compressed-tensors":
        bits, values, zeros = _compressed(parts, shape)
        scales = parts["weight_scale"].float()
        if scales.numel() == 1:  # of all weights
            scales = scales.reshape(1, 1).expand(shape[0], 1)
        groups = parts.get("weight_g_idx")
    else:
        bits, values, zeros = (_awq if packing.method == "awq" else _gptq)(parts, shape, packing.shift)
        scales, groups = parts["scales"].T.float(), parts.get("g_idx")
    if not torch.isfinite(scales).all():
        raise InvalidModelError("a scale is NaN or infinite: the file is damaged")
    if values.shape != shape:
        raise InvalidModelError(f"its weights are {list(values.shape)}, but the layer's {list(shape)}")
    _check_groups(groups, scales.shape[1])
    zeros = None if zeros is None or not zeros.any() else zeros.float().contiguous()
    return QuantisedWeights(values.contiguous(), scales.contiguous(), zeros, bits)


_Found = tuple[Literal[4, 8], Tensor, Tensor | None]
"""Bits, values [outputs, inputs] and zeros [outputs, groups], both of int8."""


def _awq(parts: Mapping[str, Tensor], shape: tuple[int, int], shift: int) -> _Found:
    bits = _bits(parts["qweight"].shape[1], shape[0])
    if bits != 4:
        raise UnsupportedModelError(f"AWQ of {bits} bits is not read, only of 4")
    values, zeros = (
        _apart(parts[name], bits, 1).view(-1, shape[0] // 8, 8)[..., _UNDONE].flatten(1)
        for name in ("qweight", "qzeros")
    )
    return bits, _signed(values, bits).T, _signed(zeros + shift, bits).T


def _gptq(parts: Mapping[str, Tensor], shape: tuple[int, int], shift: int) -> _Found:
    bits = _bits(parts["qweight"].shape[0], shape[1])
    values, zeros = _apart(parts["qweight"], bits, 0), _apart(parts["qzeros"], bits, 1)
    zeros = (zeros + shift) & (2**bits - 1)  # a zero of 0 was stored as the largest number
    return bits, _signed(values, bits).T, _signed(zeros, bits).T


def _compressed(parts: Mapping[str, Tensor], shape: tuple[int, int]) -> _Found:
    outputs, inputs = shape
    zeros = parts.get("weight_zero_point")
    if "weight_packed" not in parts:
        return 8, parts["weight"], None if zeros is None else _signed(zeros, 8, 0).reshape(-1, 1)
    told = parts.get("weight_shape")
    if told is not None and tuple(told.tolist()) != shape:
        raise InvalidModelError(f"its weight_shape is {told.tolist()}, but the layer's {list(shape)}")
    bits = _bits(parts["weight_packed"].shape[1], inputs)
    values = _signed(_apart(parts["weight_packed"], bits, 1)[:, :inputs], bits)
    if zeros is not None and zeros.dtype == torch.int32 and len(zeros) != outputs:
        return bits, values, _signed(_apart(zeros, bits, 0)[:outputs], bits)
    return bits, values, None if zeros is None else _signed(zeros, bits, 0)


def _bits(words: int, values: int) -> Literal[4, 8]:
    """Of each of so many values in so many int32."""
    if words == -(-values // 8):
        return 4
    if words == -(-values // 4):
        return 8
    raise UnsupportedModelError(
        f"{words} int32 for {values} weights are neither of 4 nor of 8 bits, and no others are read"
    )


def _apart(packed: Tensor, bits: int, dim: Literal[0, 1]) -> Tensor:
    """The values of each int32 along a dimension, int32 from 0 on."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    moved = packed.unsqueeze(dim + 1) >> (shifts if dim else shifts.unsqueeze(1))
    return moved.bitwise_and_(2**bits - 1).flatten(dim, dim + 1)


def _signed(values: Tensor, bits: int, middle: int | None = None) -> Tensor:
    """Of int8, less the middle of what the bits can be; -8 to 7, or -128 to 127.

    Raises:
        InvalidModelError: beyond that.
    """
    half = 2 ** (bits - 1)
    moved = values - (half if middle is None else middle)
    if moved.numel() and not -half <= int(moved.min()) <= int(moved.max()) < half:
        raise InvalidModelError(f"it has a value beyond {bits} bits: the file is damaged")
    return moved.to(torch.int8)


def _check_groups(given: Tensor | None, groups: int) -> None:
    """Refuse groups of inputs that do not follow each other.

    Args:
        given: of each input; None, or -1 throughout: they do.
    """
    if given is None or bool((given == -1).all()):
        return
    size, rest = divmod(len(given), groups)
    if rest or int(given.min()) != 0 or int(given.max()) != groups - 1:
        raise InvalidModelError(f"its {len(given)} inputs are not in {groups} groups, as many as have scales")
    if not torch.equal(given.long(), torch.arange(groups, device=given.device).repeat_interleave(size)):
        raise UnsupportedModelError(
            "its groups are of inputs in the order of their activations (desc_act, or actorder group), which "
            "is not read: take a checkpoint whose groups are of inputs that follow each other (desc_act "
            "false, or actorder static)"
        )
