"""What a folder's config.json and generation_config.json say, checked before anything is built of it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import GenerationConfig

from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.faults import reading
from secondlook.engine.models.folders import CONFIG_FILE, read_json

__all__ = ["check_config", "check_generation", "check_image_processor", "check_layers", "walk"]

_GENERATION_FILE = "generation_config.json"
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
_COUNT = re.compile(r"depth|n_layers?|(num|encoder|decoder)_(\w+_)?(layers|blocks|experts)")
"""The names by which configurations count what is built one by one."""
_SIZE = re.compile(
    r"num_(hidden_layers|(attention_|key_value_)?heads)|depth|head_dim|max_position_embeddings"
    r"|(hidden|intermediate|image|patch|vocab)_size"
)
"""The names of what no model can have none of."""
_MOST_LABELS = 100_000
_ROPE_NUMBER = re.compile(r"((high|low)_freq_)?factor|rope_theta|original_max_position_embeddings")

# Generation settings that change greedy decoding, and the values with which they do not.
_GREEDY_NEUTRAL: dict[str, tuple[object, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "repetition_penalty": (1.0,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
    "watermarking_config": (),
}

_log = logging.getLogger(__name__)


def check_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Refuse what transformers would meet with a missing package, a bare name, or silence.

    Raises:
        UnsupportedModelError: the weights are in files that config.json names itself.
        InvalidModelError: an unknown dtype, a number that none can be, or broken generation
            settings.
    """
    path = folder / CONFIG_FILE
    with reading(path):
        for where, key, value in walk(values):
            _check_value(f"{path}: {where}", key, value)
    if (generation := folder / _GENERATION_FILE).is_file():
        read_json(generation)
        with reading(generation):  # transformers takes one that is broken for one that is not there
            GenerationConfig.from_pretrained(folder, local_files_only=True)


def _check_value(where: str, key: str, value: Any) -> None:
    if key in ("type", "rope_type") and "rope_" in where.rpartition(": ")[2]:
        _check(isinstance(value, str), where, value, "a name")
    if _ROPE_NUMBER.fullmatch(key) and value is not None:
        _check(isinstance(value, int | float) and value > 0, where, value, "a number above 0")
    if key in ("dtype", "torch_dtype") and value is not None:
        _check(value in _DTYPES, where, value, f"one of {', '.join(_DTYPES)}")
    if _SIZE.fullmatch(key) and isinstance(value, int):
        _check(value >= 1, where, value, "at least 1")
    if key == "num_labels" and isinstance(value, int):  # of no use here, but transformers names each
        _check(value <= _MOST_LABELS, where, value, f"at most {_MOST_LABELS}")
    if key == "transformers_weights":
        raise UnsupportedModelError(f"{where} {value!r} is not supported: weights must have their usual name")


def _check(right: bool, where: str, value: object, wanted: str) -> None:
    if not right:
        raise InvalidModelError(f"{where} must be {wanted}, not {value!r}")


def check_layers(folder: Path, values: Mapping[str, Any], tensors: int) -> None:
    """Refuse to build more layers than there are tensors: it would take for ever.

    Raises:
        InvalidModelError: config.json says so.
    """
    for where, key, value in walk(values):
        if _COUNT.fullmatch(key) and isinstance(value, int) and value > tensors:
            raise InvalidModelError(
                f"{folder / CONFIG_FILE}: {where} is {value}, but the weights are {tensors} tensors in all"
            )


def check_generation(folder: Path, generation: Any, vocabulary: int) -> None:
    """Say what plain greedy decoding ignores of the generation settings, and check the end tokens.

    Args:
        generation: transformers' own, of the folder.
        vocabulary: rows of the embedding.

    Raises:
        InvalidModelError: an end token that is no token.
    """
    path = folder / _GENERATION_FILE
    ends = generation.eos_token_id
    for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        if type(end) is not int or not 0 <= end < vocabulary:
            raise InvalidModelError(
                f"{path if path.is_file() else folder / CONFIG_FILE}: eos_token_id {ends!r} is not one of "
                f"the {vocabulary} tokens"
            )
    ignored = [
        f"{name}={value!r}"
        for name, neutral in _GREEDY_NEUTRAL.items()
        if (value := getattr(generation, name, None)) is not None and value not in neutral
    ]
    if ignored:
        _log.warning("%s: decoding is plainly greedy, without %s", path, ", ".join(ignored))


def walk(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key of a configuration at any depth: its dotted path, itself, its value."""
    for key, value in values.items():
        yield f"{inside}{key}", key, value
        if isinstance(value, dict):
            yield from walk(value, f"{inside}{key}.")


def check_image_processor(file: Path, values: Mapping[str, Any]) -> None:
    """Refuse settings of an image processor that mean nothing, those too that are not used.

    Args:
        file: where they are, for the message.

    Raises:
        InvalidModelError: with file and key.
    """
    if not values:
        raise InvalidModelError(f"{file} holds no setting of the image processor")
    factor = values.get("rescale_factor", 1 / 255)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise InvalidModelError(f"{file}: rescale_factor must be a number above 0, not {factor!r:.40}")
    resample = values.get("resample")
    if resample is not None and (isinstance(resample, bool) or resample not in tuple(Image.Resampling)):
        raise InvalidModelError(f"{file}: resample must be a filter's number, 0 to 5, not {resample!r:.40}")
    for key in ("size", "crop_size"):
        size = values.get(key)
        sides = size if isinstance(size, dict) else {} if size is None else {"": size}
        for name, side in sides.items():
            if isinstance(side, bool) or not isinstance(side, int) or side < 1:
                place = f"{key}.{name}" if name else key
                raise InvalidModelError(f"{file}: {place} must be a whole number above 0, not {side!r:.40}")
