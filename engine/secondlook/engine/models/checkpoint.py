"""Loading a model: the embedded one, a folder in the Hugging Face layout, or a name on the hub.

What is the same for every architecture: the folder and its files, weights and digests, and every fault of a
folder as one error of ours. What differs is in the module that `registry` names for the `model_type`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from secondlook import kernels
from secondlook.edge.errors import SettingsError
from secondlook.engine.devices import chosen_device
from secondlook.engine.errors import IncompleteModelError, InvalidModelError, UnsupportedModelError
from secondlook.engine.models.attention import ATTENTION
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.folders import (
    DEMO,
    chat_template,
    check_complete,
    find_folder,
    image_processor,
    read_json,
)
from secondlook.engine.models.packed_linear import pack_linear_layers
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.registry import architecture
from secondlook.engine.models.settings import (
    LOCALISATION_FILE,
    SETTINGS_FILE,
    Localisation,
    LookSettings,
    read_file,
)

__all__ = ["Checkpoint", "DType", "digest", "load_model", "state"]

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""Weights' and activations' type. "auto": float32 on the CPU, elsewhere what the checkpoint was published
in."""

# What transformers, torch and safetensors raise for values that they do not check, or files they cannot read.
_UNLOADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

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
) -> VisionLanguageModel:
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
        checkpoint = Checkpoint(name_or_path, folder, read_json(folder / "config.json"), dtype, place)
        module = architecture(checkpoint.values.get("model_type"), folder)
        model: VisionLanguageModel = module.load(checkpoint)
    _check_localisation(folder, model)
    return model


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder, for the module of its architecture to load.

    Attributes:
        name: what the model was asked for as.
        values: of config.json.
        dtype, device: that it is to be loaded in and on.

    Every method raises InvalidModelError, IncompleteModelError or UnsupportedModelError, with what is wrong.
    """

    name: str
    folder: Path
    values: Mapping[str, Any]
    dtype: DType
    device: torch.device

    def config(self) -> Any:
        """Transformers' configuration; Any, for nested ones are declared as dict or None as well."""
        try:
            return AutoConfig.from_pretrained(self.folder, local_files_only=True)
        except _UNLOADABLE as error:
            raise InvalidModelError(f"{self.folder / 'config.json'}: {first_line(error)}") from error

    def image_processor(self) -> Mapping[str, Any]:
        """The preprocessor's settings."""
        values = image_processor(self.folder)
        assert values is not None  # check_complete saw it
        return values

    def settings(self) -> LookSettings:
        return read_file(self.folder / SETTINGS_FILE, LookSettings())

    def localisation(self, default: Localisation) -> Localisation:
        return read_file(self.folder / LOCALISATION_FILE, default)

    def prompts(self, placeholder: int, question_suffix: str) -> ChatPrompts:
        template = chat_template(self.folder)
        assert template is not None  # check_complete saw it
        return ChatPrompts(
            self._tokenizer(),
            chat_template=template,
            placeholder=placeholder,
            question_suffix=question_suffix,
        )

    def weights(self, kind: Any, config: Any) -> Any:
        """A model of transformers with the folder's weights, its decoder attending by plans.

        Args:
            kind: the model's class.
        """
        try:
            model, info = kind.from_pretrained(
                self.folder,
                config=config,
                dtype=self._torch_dtype(config),
                attn_implementation={"text_config": ATTENTION, "vision_config": "sdpa"},
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, as one error
                output_loading_info=True,
            )
        except _UNLOADABLE as error:
            raise InvalidModelError(
                f"{self.folder}: the model cannot be loaded: {first_line(error)}"
            ) from error
        if info["missing_keys"]:
            raise IncompleteModelError(f"{self.folder} lacks weights: {_some(info['missing_keys'])}")
        if info["mismatched_keys"]:
            names = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
            raise InvalidModelError(
                f"{self.folder}: weights of another shape than config.json says: {_some(names)}"
            )
        _check_greedy(self.folder, model.generation_config)
        model = model.eval().requires_grad_(False).to(self.device)
        pack_linear_layers(model)
        return model

    def _torch_dtype(self, config: Any) -> torch.dtype:
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        if self.device.type == "cpu":
            return torch.float32
        published = config.dtype or config.get_text_config().dtype
        return published if isinstance(published, torch.dtype) else torch.float16

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        path = self.folder / "tokenizer.json"
        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # the only type tokenizers raises
            raise InvalidModelError(f"{path} cannot be read: {first_line(error)}") from error
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True
            )
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise InvalidModelError(
                f"{self.folder}: the tokenizer cannot be loaded: {first_line(error)}"
            ) from error
        return tokenizer


def state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` holds, part after part: of packed weights it would hold copies, all at once."""
    for name, part in module.named_modules(remove_duplicate=False):
        own: dict[str, Tensor] = {}
        part._save_to_state_dict(own, f"{name}." if name else "", False)
        yield from own.items()


def digest(tensors: Iterable[tuple[str, Tensor]], settings: str = "") -> str:
    """SHA-256 of tensors with their names and types, its first 16 hexadecimal digits."""
    total = hashlib.sha256(settings.encode())
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()[:16]


def _prepare_operators(place: torch.device) -> None:
    """Load the operators, or build them, now: the first answer should not have to wait for that."""
    try:
        kernels.status("cuda" if place.type == "cuda" else "cpu")
    except kernels.KernelError as error:
        raise SettingsError(str(error)) from error


def _check_localisation(folder: Path, model: VisionLanguageModel) -> None:
    there, path = model.decoder, folder / LOCALISATION_FILE
    for layer, heads in model.localisation.layers.items():
        for key, what, index, count in (
            (f"layers.{layer}", "layer", layer, there.layers),
            *((f"layers.{layer}.{head}", "head", head, there.heads) for head in heads or ()),
        ):
            if index >= count:
                raise InvalidModelError(f"{path}: {key}: the decoder's last {what} is {count - 1}")


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


def first_line(error: BaseException) -> str:
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
