"""Loading a LLaVA: the embedded model, a folder in the Hugging Face layout, or a name on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from secondlook import kernels
from secondlook.edge.errors import SettingsError
from secondlook.engine.decode.plans import ATTENTION
from secondlook.engine.devices import chosen_device
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    UnsupportedModelError,
)
from secondlook.engine.models.folders import (
    DEMO,
    chat_template,
    check_complete,
    find_folder,
    image_processor,
    read_json,
)
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.engine.models.look_settings import LookSettings, read_settings
from secondlook.engine.models.packed_linear import pack_linear_layers
from secondlook.engine.models.prompts import PromptLayout
from secondlook.engine.models.vision import Preprocessing

__all__ = ["DType", "load_model"]

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""Weights' and activations' type. "auto": float32 on the CPU, elsewhere what the checkpoint was published
in."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SUPPORTED = (
    "LlavaForConditionalGeneration (model_type llava) with a clip_vision_model tower and a llama decoder"
)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

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


def load_model(
    name_or_path: str = DEMO, *, dtype: DType = "auto", device: str = "auto", progress: bool = False
) -> LlavaAdapter:
    """Load a model, ready to answer; the first time, its operators are built too (`secondlook.kernels`).

    Args:
        name_or_path: "demo", a folder, or a hub name.
        dtype: see `DType`.
        device: "cpu", "cuda", "cuda:N", or "auto" (a CUDA GPU if there is one).
        progress: let transformers and the hub draw progress bars and log while they work.

    Raises:
        ModelNotFoundError, IncompleteModelError, InvalidModelError, UnsupportedModelError: see there.
        DeviceError: no such device here.
        SettingsError: an unknown dtype, or an unknown mode in the variable SECONDLOOK_KERNELS.
    """
    if dtype not in get_args(DType):
        raise SettingsError(f"dtype must be one of {', '.join(get_args(DType))}, not {dtype!r}")
    place = chosen_device(device)
    _prepare_operators(place)
    with _quiet(not progress):
        folder = find_folder(name_or_path)
        check_complete(folder)
        config = _config(folder)
        layers: int = config.text_config.num_hidden_layers
        defaults = LookSettings.default_for(layers=layers, image_size=config.vision_config.image_size)
        settings = read_settings(folder, defaults)
        if settings.probe_layer >= layers:
            raise InvalidModelError(
                f"{folder}: probe_layer {settings.probe_layer} is beyond the decoder's last, {layers - 1}"
            )
        preprocessing = _preprocessing(folder, config, settings)
        layout = _layout(folder, config, settings)
        model = _weights(folder, config, _torch_dtype(dtype, place, config), place)
    _check_greedy(folder, model.generation_config)
    return LlavaAdapter(name_or_path, model, layout, preprocessing, settings)


def _prepare_operators(place: torch.device) -> None:
    """Load the operators, or build them, now: the first answer should not have to wait for that."""
    try:
        kernels.status("cuda" if place.type == "cuda" else "cpu")
    except kernels.KernelError as error:
        raise SettingsError(str(error)) from error


def _torch_dtype(dtype: DType, place: torch.device, config: Any) -> torch.dtype:
    if dtype != "auto":
        return _DTYPES[dtype]
    if place.type == "cpu":
        return torch.float32
    published = config.dtype or config.text_config.dtype
    return published if isinstance(published, torch.dtype) else torch.float16


def _config(folder: Path) -> Any:
    """A LlavaConfig; Any, because transformers declares its nested configurations as dict or None as well."""
    values = read_json(folder / "config.json")
    found = {
        "model_type": values.get("model_type"),
        "vision tower": _nested_type(values, "vision_config", "clip_vision_model"),
        "decoder": _nested_type(values, "text_config", "llama"),
    }
    supported = {"model_type": "llava", "vision tower": "clip_vision_model", "decoder": "llama"}
    if found != supported:
        kinds = ", ".join(f"{what} {kind}" for what, kind in found.items() if what == "model_type" or kind)
        raise UnsupportedModelError(f"{folder} holds {kinds}; supported is {_SUPPORTED}")
    strategy = values.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise UnsupportedModelError(
            f"{folder}: vision_feature_select_strategy {strategy!r} is not supported, only 'default'"
        )
    try:
        config = LlavaConfig.from_pretrained(folder, local_files_only=True)
    except (StrictDataclassError, TypeError, ValueError, OSError) as error:
        raise InvalidModelError(f"{folder / 'config.json'}: {_first_line(error)}") from error
    _check_feature_layer(folder, config)
    return config


def _check_feature_layer(folder: Path, config: Any) -> None:
    layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise UnsupportedModelError(
            f"{folder}: vision_feature_layer must be one layer, not {layer}; features of several are not "
            "supported"
        )
    if not -layers - 1 <= layer <= layers:
        raise InvalidModelError(
            f"{folder}: vision_feature_layer {layer} does not exist in a vision tower of {layers} layers"
        )


def _nested_type(values: Mapping[str, Any], name: str, default: str) -> object:
    nested = values.get(name)
    return (
        nested.get("model_type", default) if isinstance(nested, dict) else default if nested is None else None
    )


def _preprocessing(folder: Path, config: Any, settings: LookSettings) -> Preprocessing:
    values = image_processor(folder)
    assert values is not None  # check_complete saw it
    kind = str(values.get("image_processor_type", "CLIPImageProcessor"))
    if not kind.startswith("CLIPImageProcessor"):
        raise UnsupportedModelError(f"{folder}: image processor {kind}; supported is CLIPImageProcessor")
    side = config.vision_config.image_size
    crop = values.get("crop_size")
    if isinstance(crop, dict) and (crop.get("height"), crop.get("width")) != (side, side):
        raise InvalidModelError(
            f"{folder}: the preprocessor crops to {crop.get('width')}x{crop.get('height')}, "
            f"but the vision tower takes {side}x{side}"
        )
    normalise, rescale = values.get("do_normalize", True), values.get("do_rescale", True)
    try:
        return Preprocessing(
            side=side,
            mode=settings.resize_mode,
            mean=tuple(values.get("image_mean", _CLIP_MEAN)) if normalise else (0.0, 0.0, 0.0),
            std=tuple(values.get("image_std", _CLIP_STD)) if normalise else (1.0, 1.0, 1.0),
            scale=float(values.get("rescale_factor", 1 / 255)) if rescale else 1.0,
        )
    except (SettingsError, TypeError, ValueError) as error:
        raise InvalidModelError(f"{folder}: the preprocessor's settings: {error}") from error


def _layout(folder: Path, config: Any, settings: LookSettings) -> PromptLayout:
    template = chat_template(folder)
    assert template is not None  # check_complete saw it
    _check_tokenizer(folder / "tokenizer.json")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise InvalidModelError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    vision = config.vision_config
    return PromptLayout(
        tokenizer,
        chat_template=template,
        image_token_id=config.image_token_id,
        tokens_per_image=(vision.image_size // vision.patch_size) ** 2,
        context=config.text_config.max_position_embeddings,
        question_suffix=settings.question_suffix,
    )


def _check_tokenizer(path: Path) -> None:
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the only type tokenizers raises
        raise InvalidModelError(f"{path} cannot be read: {_first_line(error)}") from error


def _weights(
    folder: Path, config: Any, dtype: torch.dtype, place: torch.device
) -> LlavaForConditionalGeneration:
    try:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(  # a pair, for output_loading_info
            folder,
            config=config,
            dtype=dtype,
            attn_implementation={"text_config": ATTENTION, "vision_config": "sdpa"},
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, as one error
            output_loading_info=True,
        )
    except (SafetensorError, OSError) as error:
        raise InvalidModelError(f"{folder}: the weights cannot be read: {_first_line(error)}") from error
    model, info = loaded
    if info["missing_keys"]:
        raise IncompleteModelError(f"{folder} lacks weights: {_some(info['missing_keys'])}")
    if info["mismatched_keys"]:
        names = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
        raise InvalidModelError(f"{folder}: weights of another shape than config.json says: {_some(names)}")
    served: LlavaForConditionalGeneration = model.eval().requires_grad_(False).to(place)
    pack_linear_layers(served)
    return served


def _check_greedy(folder: Path, generation: GenerationConfig | None) -> None:
    """Refuse generation settings that plain greedy decoding would silently ignore."""
    for name, neutral in _GREEDY_NEUTRAL.items():
        value = getattr(generation, name, None)
        if value is not None and value not in neutral:
            raise UnsupportedModelError(
                f"{folder}: generation_config.json sets {name}={value!r}; only plain greedy decoding is done"
            )


def _some(names: Any) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """While the block runs, transformers draws no bars and logs only errors; then everything is as it was.

    What it would warn of here, weights missing or of another shape, is raised as an error instead.
    """
    if not quiet:
        yield
        return
    transformers_logging: Any = logging  # its functions carry no types
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
