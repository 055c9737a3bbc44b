"""Weights of few bits, as a folder says that it has them or as they are asked for, checked before anything is
built."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import UnsupportedModelError
from secondlook.engine.models.configuration import walk
from secondlook.engine.models.folders import CONFIG_FILE, read_json
from secondlook.engine.models.rounding import Quantise
from secondlook.kernels import multiplies_bytes

__all__ = ["Method", "Packing", "chosen_packing", "packing_of"]

Method = Literal["awq", "gptq", "compressed-tensors"]

_NAMES: Final[dict[Method, str]] = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "compressed-tensors": "compressed-tensors",
}
_KEYS: Final = ("quantization_config", "compression_config")
_PARTS: Final = ("", "text_config.", "llm_config.")
"""Of config.json, that may say so."""
_FILES: Final[dict[str, Method | None]] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": None,
}
"""Which say it where config.json does not, and whose they are; None: of a package that is not read."""

_SUPPORTED: Final = (
    "supported are AWQ of 4 bits (version gemm), GPTQ of 4 or 8, and compressed-tensors of 4 or 8 (weights "
    "of type int, pack-quantized or int-quantized); or take the checkpoint that they were made from, in "
    "float32, bfloat16 or float16"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """By whose rules a checkpoint's quantised weights are read.

    Attributes:
        where: it is said, for messages.
        bits: of the weights of most layers.
        shift: to be added to the zeros that are stored.
    """

    method: Method
    where: str
    bits: str
    shift: int = 0

    @property
    def told(self) -> str:
        """How weights were rounded, in short."""
        return f"{self.name} {self.bits}"

    @property
    def name(self) -> str:
        return _NAMES[self.method]


def chosen_packing(
    folder: Path, values: Mapping[str, Any], quantise: Quantise | None, dtype: str, device: torch.device
) -> Packing | None:
    """As `packing_of`, and

    Args:
        quantise, dtype, device: that the weights are to be loaded with.

    Raises:
        SettingsError: they would be quantised twice, or the device does not multiply with them in the dtype,
            or at all.
    """
    packing = packing_of(folder, values)
    if packing is not None and quantise is not None:
        raise SettingsError(
            f"{packing.where}: the weights are quantised already ({packing.told}); they cannot be "
            f"quantised to {quantise} too"
        )
    what = quantise if packing is None else packing.told
    if what is not None and device.type == "cpu" and dtype == "float16":
        raise SettingsError(f"{what} weights go with dtype float32 or bfloat16 on a CPU, not float16")
    if quantise == "fp8" and device.type == "cpu":
        raise SettingsError("fp8 weights are multiplied with on CUDA alone, not on a CPU: take int8")
    if quantise == "int8-dynamic" and device.type != "cpu":
        raise SettingsError("int8-dynamic is for CPUs alone: on CUDA take int8")
    if quantise == "int8-dynamic" and not multiplies_bytes():
        raise SettingsError(
            "int8-dynamic needs a processor that multiplies whole numbers of 8 bits (AVX-512 VNNI or AMX), "
            "which this one does not: take int8"
        )
    return packing


def packing_of(folder: Path, values: Mapping[str, Any]) -> Packing | None:
    """How a folder's weights are quantised; None: they are not.

    Args:
        values: of config.json.

    Raises:
        UnsupportedModelError: in a way that is not read.
    """
    found = list(_said(folder, values))
    if not found:
        return None
    where, settings, method = found[0]
    for other, again, _ in found[1:]:
        if again != settings:
            raise UnsupportedModelError(f"{where} and {other} say different things; leave one of them out")
    if method is None:
        raise _refused(where, f"quant_method {settings.get('quant_method')!r}")
    reasons = {"awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed}[method](settings)
    if (reason := next(reasons, None)) is not None:
        raise _refused(where, f"{_NAMES[method]}, {reason}")
    shift = 1 if method == "gptq" and _format(settings) != "gptq_v2" else 0
    return Packing(method, where, _bits(settings), shift)


def _said(folder: Path, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Method | None]]:
    """Where, what, and whose method that is."""
    config = folder / CONFIG_FILE
    any_said = False
    for where, key, settings in walk(values):
        if key not in _KEYS or not settings:
            continue
        any_said = True
        place = f"{config}: {where}"
        if where.removesuffix(key) not in _PARTS or not isinstance(settings, dict):
            raise _refused(place, "of a part that cannot be")
        named = str(settings.get("quant_method", "")).lower()
        if key == "compression_config" and not named:
            named = "compressed-tensors"
        yield place, settings, next((method for method in _NAMES if method == named), None)
    for name, method in _FILES.items():
        if (folder / name).is_file() and not any_said:
            yield str(folder / name), read_json(folder / name), method


def _awq(settings: Mapping[str, Any]) -> Iterator[str]:
    """What of it is not read."""
    bits, version = settings.get("bits", settings.get("w_bit")), settings.get("version", "gemm")
    if bits != 4:
        yield f"bits {bits}"
    if str(settings.get("format", version)).lower() != "gemm":
        yield f"version {settings.get('format', version)}"
    if settings.get("zero_point", True) is not True:
        yield "zero_point false"


def _gptq(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("bits") not in (4, 8):
        yield f"bits {settings.get('bits')}"
    if _format(settings) not in ("gptq", "gptq_v2"):
        yield f"checkpoint_format {_format(settings)}"
    if settings.get("is_marlin_format"):
        yield "is_marlin_format"
    if settings.get("pack_dtype", "int32") != "int32":
        yield f"pack_dtype {settings['pack_dtype']}"


def _format(settings: Mapping[str, Any]) -> object:
    return settings.get("checkpoint_format") or settings.get("format") or "gptq"


def _compressed(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("quantization_status", "compressed") != "compressed":
        yield f"quantization_status {settings['quantization_status']}"
    for key in ("kv_cache_scheme", "transform_config"):
        if settings.get(key):
            yield key
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense":
        yield f"sparsity_config {settings['sparsity_config']['format']}"
    groups = settings.get("config_groups") or {}
    if not groups:
        yield "no config_groups"
    dynamic = False
    for name, group in groups.items():
        form = group.get("format") or settings.get("format")
        if form not in ("pack-quantized", "int-quantized"):
            yield f"{name}: format {form}"
        weights, given = group.get("weights") or {}, group.get("input_activations")
        for key, right in (
            ("type", ("int",)),
            ("num_bits", (4, 8)),
            ("strategy", ("tensor", "channel", "group")),
            ("dynamic", (False,)),
        ):
            if weights.get(key, right[0]) not in right:
                yield f"{name}: weights with {key} {weights.get(key)}"
        if group.get("output_activations"):
            yield f"{name}: output_activations"
        if given and not given.get("dynamic"):
            yield f"{name}: input_activations that are not dynamic"
        dynamic = dynamic or bool(given)
    if dynamic:
        _log.warning("activations, which the checkpoint would have rounded to few bits too, are not")


def _bits(settings: Mapping[str, Any]) -> str:
    groups = (settings.get("config_groups") or {}).values()
    bits = (
        {settings.get("bits", settings.get("w_bit", 8))}
        if not groups
        else {group["weights"].get("num_bits", 8) for group in groups}
    )
    return " and ".join(f"int{each}" for each in sorted(bits))


def _refused(where: str, how: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where}: the weights are quantised ({how}), which is not supported; {_SUPPORTED}"
    )
