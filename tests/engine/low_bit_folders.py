"""Folders of a checkpoint as others quantise it, packed here value by value, and of its weights then.

The layouts are those of AutoAWQ, AutoGPTQ, GPTQModel and compressed-tensors; what these packages store of one
layer is in `tests/golden/low_bit.safetensors`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

Bits = Literal[4, 8]
Form = Literal["awq", "gptq", "gptq_v2", "pack-quantized", "int-quantized"]
Numbers = NDArray[np.int64]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GROUP = 32


def settings(form: Form, bits: Bits, *, symmetric: bool = False) -> dict[str, Any]:
    """The `quantization_config` of config.json, as published checkpoints have it."""
    if form == "awq":
        return {
            "bits": bits,
            "group_size": GROUP,
            "modules_to_not_convert": ["visual"],
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        }
    if form in ("gptq", "gptq_v2"):
        return {
            "bits": bits,
            "checkpoint_format": form,
            "damp_percent": 0.01,
            "desc_act": False,
            "group_size": GROUP,
            "lm_head": False,
            "quant_method": "gptq",
            "sym": symmetric,
            "true_sequential": True,
        }
    group = GROUP if form == "pack-quantized" else None
    weights = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": group,
        "num_bits": bits,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group" if group else "channel",
        "symmetric": symmetric,
        "type": "int",
    }
    scheme = {
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": scheme},
        "format": form,
        "global_compression_ratio": 1.5,
        "ignore": ["re:.*lm_head", "re:.*vision.*", "re:.*visual.*", "re:.*projector.*"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def quantised_pair(
    source: Path,
    folder: Path,
    form: Form,
    bits: Bits,
    chosen: Callable[[str], bool],
    *,
    symmetric: bool = False,
) -> tuple[Path, Path]:
    """A folder of the quantised checkpoint, and one of what its weights are in float32.

    Args:
        chosen: which weights are quantised, by their names in the files.
    """
    packed, plain = (Path(shutil.copytree(source, folder / name)) for name in ("packed", "plain"))
    stored, dequantised = dict[str, Tensor](), dict[str, Tensor]()
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor
            dequantised[name] = stored[name].float() if tensor.is_floating_point() else tensor
            if chosen(name):
                del stored[name]
                parts, dequantised[name] = packed_layer(tensor.float(), form, bits, symmetric=symmetric)
                layer = name.removesuffix("weight")
                stored |= {f"{layer}{part}": value for part, value in parts.items()}
    for where, tensors in ((packed, stored), (plain, dequantised)):
        for old in where.glob("*.safetensors*"):
            old.unlink()
        save_file(tensors, where / "model.safetensors", {"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = settings(form, bits, symmetric=symmetric)
    (packed / "config.json").write_text(json.dumps(config))
    return packed, plain


def packed_layer(
    weight: Tensor, form: Form, bits: Bits, *, symmetric: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """What is stored of a weight [outputs, inputs], and what it is then."""
    outputs, inputs = weight.shape
    group = inputs if form == "int-quantized" else GROUP
    grouped, most = weight.view(outputs, -1, group), 2**bits - 1
    if symmetric:
        scales = (grouped.abs().amax(-1) / (2 ** (bits - 1) - 1)).half().float()
        zeros = torch.full_like(scales, 2 ** (bits - 1))
    else:
        least, largest = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((largest - least) / most).half().float()
        zeros = (-least / scales).round().clamp(1 if form == "gptq" else 0, most)
    values = (grouped / scales[..., None] + zeros[..., None]).round().clamp(0, most)
    dequantised = ((values - zeros[..., None]) * scales[..., None]).view(outputs, inputs)
    numbers = values.view(outputs, inputs).numpy().astype(np.int64)
    return _stored(form, bits, numbers, zeros.numpy().astype(np.int64), scales.half(), symmetric), dequantised


def _stored(
    form: Form, bits: Bits, values: Numbers, zeros: Numbers, scales: Tensor, symmetric: bool
) -> dict[str, Tensor]:
    """Of unsigned values [outputs, inputs], zeros and scales [outputs, groups]."""
    half, order = 2 ** (bits - 1), AWQ_ORDER if form == "awq" else range(32 // bits)
    if form == "awq":
        words = {"qweight": _words(values.T, bits, order), "qzeros": _words(zeros.T, bits, order)}
        return {**words, "scales": scales.T.contiguous()}
    if form in ("gptq", "gptq_v2"):
        told = zeros - (form == "gptq")
        return {
            "qweight": _words(values, bits, order).T.contiguous(),
            "qzeros": _words(told.T, bits, order),
            "scales": scales.T.contiguous(),
            "g_idx": torch.arange(values.shape[1], dtype=torch.int32) // (values.shape[1] // zeros.shape[1]),
        }
    if form == "int-quantized":
        signed = {"weight": torch.from_numpy(values - half).to(torch.int8), "weight_scale": scales}
        if not symmetric:
            signed["weight_zero_point"] = torch.from_numpy(zeros - half).to(torch.int8)
        return signed
    found = {
        "weight_packed": _words(values, bits, order),
        "weight_scale": scales,
        "weight_shape": torch.tensor(values.shape),
    }
    if not symmetric:
        found["weight_zero_point"] = _words(zeros.T, bits, order).T.contiguous()
    return found


def _words(rows: Numbers, bits: Bits, order: Sequence[int]) -> Tensor:
    """int32 [R, C x bits / 32] of values [R, C], the last filled up with zeros."""
    found = []
    for row in rows.tolist():
        row += [0] * (-len(row) % len(order))
        words = [row[start : start + len(order)] for start in range(0, len(row), len(order))]
        found.append([sum(word[place] << bits * at for at, place in enumerate(order)) for word in words])
    return torch.from_numpy(np.array(found, np.uint32).view(np.int32))
