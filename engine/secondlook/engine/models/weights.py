"""A folder's weights: what the files hold, and that all of it, and nothing else, went into the model."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from secondlook.engine.errors import IncompleteModelError, InvalidModelError, UnsupportedModelError
from secondlook.engine.models.configuration import walk
from secondlook.engine.models.faults import reading
from secondlook.engine.models.folders import CONFIG_FILE, weight_files

__all__ = ["Stored", "check_finite", "check_loaded", "check_size", "stored_tensors"]

_FLOATS = ("F64", "F32", "F16", "BF16")
_WHOLE = ("I8", "I32", "I64")
_PACKED = 8
_HARMLESS = re.compile(r"(^|\.)(position_ids|num_batches_tracked|inv_freq|masked_bias)$")
"""Buffers that older versions saved."""
_INDEX = re.compile(r"\b\d+\b")

_log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A tensor in a file, its values not read."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """That it has room for: an int32 may hold eight."""
        return math.prod(self.shape) * (_PACKED if self.dtype == "I32" else 1)


def stored_tensors(folder: Path, *, quantised: bool = False) -> dict[str, Stored]:
    """All tensors of the folder's weights, by their names in the files.

    Args:
        quantised: whether weights of whole numbers are expected.

    Raises:
        InvalidModelError: a file is no safetensors, or is truncated.
        UnsupportedModelError: there are types that are not read.
    """
    found: dict[str, Stored] = {}
    for path in weight_files(folder):
        with reading(f"{path} cannot be read as safetensors"), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                tensor = file.get_slice(name)
                found[name] = Stored(path, str(tensor.get_dtype()), tuple(tensor.get_shape()))
    read = (*_FLOATS, *_WHOLE) if quantised else _FLOATS
    for name, tensor in found.items():
        if tensor.dtype not in read and not _HARMLESS.search(name):
            raise UnsupportedModelError(
                f"{tensor.file}: {name} is of type {tensor.dtype}, as quantised weights are, but "
                + (
                    "such are not read"
                    if quantised
                    else f"{CONFIG_FILE} does not say how (quantization_config)"
                )
                + "; take the checkpoint that they were made from, in float32, bfloat16 or float16"
            )
    return found


def check_size(
    folder: Path, values: Mapping[str, Any], kind: Any, config: Any, stored: Mapping[str, Stored]
) -> None:
    """Refuse to make room for a model that is much larger than its weights.

    Args:
        values: of config.json.
        kind: the model's class; built without memory here.

    Raises:
        InvalidModelError: there cannot be such a model, or its weights are not these.
    """
    with reading(folder / CONFIG_FILE), torch.device("meta"):
        try:
            described = sum(part.numel() for part in kind(copy.deepcopy(config)).parameters())
        except KeyError as error:  # of a table of transformers', which does not tell whose value it was
            blamed = [where for where, _, value in walk(values) if [value] == list(error.args)]
            raise InvalidModelError(
                f"{folder / CONFIG_FILE}: {', '.join(blamed)} {error} is unknown to transformers"
            ) from error
    held = sum(tensor.values for tensor in stored.values())
    if described > 2 * held:  # tied weights are there once
        raise InvalidModelError(
            f"{folder / CONFIG_FILE} describes a model of {described} values, but the weights have {held}"
        )


def check_loaded(folder: Path, model: nn.Module, info: Mapping[str, Collection[Any]]) -> None:
    """Compare the weights with the places that the model has for them.

    Args:
        info: what transformers tells of loading them.

    Raises:
        IncompleteModelError: some are missing.
        InvalidModelError: some have another shape, or are of layers or parts that config.json leaves out.
    """
    if info["missing_keys"]:
        raise IncompleteModelError(f"{folder} lacks weights: {_some(info['missing_keys'])}")
    if info["mismatched_keys"]:
        names = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
        raise InvalidModelError(f"{folder}: weights of another shape than config.json says: {_some(names)}")
    extra = [name for name in info["unexpected_keys"] if not _HARMLESS.search(name)]
    left_out = [name for name in extra if _belongs(name, model)]
    if left_out:
        raise InvalidModelError(
            f"{folder / CONFIG_FILE} leaves out weights that the files have, of more layers "
            f"(num_hidden_layers) or parts than it says: {_some(left_out)}"
        )
    if extra:
        _log.warning("%s: weights that the model has no place for are ignored: %s", folder, _some(extra))


def _belongs(name: str, model: nn.Module) -> bool:
    """Whether a weight is of a part that the model has, such as a bias or a layer more, or inside of one."""
    modules = {_INDEX.sub("N", path): part for path, part in model.named_modules()}
    *around, _ = accumulate(_INDEX.sub("N", name).split("."), "{}.{}".format)
    inside = any(path in modules and not list(modules[path].children()) for path in around)
    return inside or (around[-1] if around else "") in modules


def check_finite(folder: Path, model: nn.Module) -> None:
    """Look at every weight once, which takes less than reading it did.

    Raises:
        InvalidModelError: one is not a number, or not finite in the dtype that it was loaded in.
    """
    for name, weight in model.named_parameters():
        least, most = torch.aminmax(weight)
        if torch.isnan(least):
            raise InvalidModelError(f"{folder}: the weights hold NaN, in {name}: the file is damaged")
        if torch.isinf(least) or torch.isinf(most):
            narrow = weight.dtype == torch.float16
            raise InvalidModelError(
                f"{folder}: {name} holds infinity in {str(weight.dtype).removeprefix('torch.')}"
                + ("; try dtype float32" if narrow else ": the file is damaged")
            )


def _some(names: Iterable[object]) -> str:
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
