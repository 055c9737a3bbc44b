"""Loading a model: the embedded one, a folder in the Hugging Face layout, or a name on the hub.

What is the same for every architecture: the folder and its files, its weights, and every fault of a folder
as one error of ours. What differs is in the module that `registry` names for the `model_type`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from secondlook import kernels
from secondlook.edge.errors import SettingsError
from secondlook.engine.devices import chosen_device
from secondlook.engine.embedded import DEMO
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    UnsupportedModelError,
)
from secondlook.engine.models.attention import ATTENTION
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.configuration import (
    check_config,
    check_generation,
    check_image_processor,
    check_layers,
)
from secondlook.engine.models.faults import reading
from secondlook.engine.models.folders import (
    CONFIG_FILE,
    chat_template,
    check_complete,
    commit_of,
    find_folder,
    image_processor,
    image_processor_file,
    read_json,
)
from secondlook.engine.models.low_bit import quantise_linear_layers
from secondlook.engine.models.packing import pack_linear_layers
from secondlook.engine.models.profiles import check_localisation, chosen_profile
from secondlook.engine.models.prompts import GENERIC_QUESTION, ChatPrompts
from secondlook.engine.models.quantisation_config import Packing, chosen_packing
from secondlook.engine.models.quantised_checkpoints import packed_layers, unpack_layers, with_places
from secondlook.engine.models.registry import architecture
from secondlook.engine.models.rendering import Frame
from secondlook.engine.models.rounding import ROUNDINGS, Quantise
from secondlook.engine.models.settings import (
    LOCALISATION_FILE,
    SETTINGS_FILE,
    Localisation,
    LookSettings,
    read_file,
)
from secondlook.engine.models.weights import check_finite, check_loaded, check_size, stored_tensors

__all__ = ["Checkpoint", "DType", "attending", "load_model"]

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""Weights' and activations' type. "auto": float32 on the CPU, elsewhere what the checkpoint was published
in."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_log = getLogger(__name__)


def load_model(
    name_or_path: str = DEMO,
    *,
    revision: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    progress: bool = False,
    profile: str | None = None,
    weights: bool = True,
    quantise: Quantise | None = None,
) -> VisionLanguageModel:
    """Load a model, ready to answer; the first time, its operators are built too (`secondlook.kernels`).

    Args:
        name_or_path: "demo" or "demo-qwen", which come with the package, a folder, or a hub name.
        revision: branch, tag or commit of a hub model; None: its main branch.
        dtype: see `DType`.
        device: "cpu", "cuda", "cuda:N", or "auto" (a CUDA GPU if there is one).
        progress: let transformers and the hub draw progress bars and log while they work.
        profile: where it looks, see `secondlook.engine.models.profiles`; None: as its folder says.
        weights: whether they are read; without, the model lies on the meta device, and prepares questions
            and pictures for what else computes.
        quantise: see `Quantise`; None: weights as they are stored.

    Raises:
        ModelNotFoundError, IncompleteModelError, InvalidModelError, UnsupportedModelError: see there.
        DeviceError: no such device here.
        SettingsError: an unknown dtype, a revision of what is no hub model, or an unknown mode in the
            variable SECONDLOOK_KERNELS; or a profile that is not there or another model's; or weights that
            cannot be quantised, for they are already, or a CPU does not multiply with them in the dtype.
    """
    if dtype not in get_args(DType):
        raise SettingsError(f"dtype must be one of {', '.join(get_args(DType))}, not {dtype!r}")
    if quantise not in (None, *get_args(Quantise)):
        raise SettingsError(f"quantise must be one of {', '.join(get_args(Quantise))}, not {quantise!r}")
    place = chosen_device(device)
    _prepare_operators(place)
    with _quiet(not progress):
        folder = find_folder(name_or_path, revision)
        check_complete(folder)
        values = read_json(folder / CONFIG_FILE)
        module = architecture(values.get("model_type"), folder)
        check_config(folder, values)
        packing = chosen_packing(folder, values, quantise, dtype, place)
        checkpoint = Checkpoint(name_or_path, folder, values, dtype, place, weights, quantise, packing)
        with reading(folder):
            model: VisionLanguageModel = module.load(checkpoint)
    there, looks = model.decoder, folder / LOCALISATION_FILE
    shape = there.layers, there.heads, there.width
    if profile is not None:
        kind = model.module.config.model_type
        looks, model.localisation = Path(profile), chosen_profile(profile, model.localisation, kind, shape)
    check_localisation(looks, model.localisation, shape)
    _check_context(folder, model)
    model.revision = commit_of(folder)
    model.quantised = quantise if packing is None else packing.told
    if model.revision is not None:
        _log.info("%s is of commit %s", name_or_path, model.revision)
    return model


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder, for the module of its architecture to load.

    Attributes:
        name: what the model was asked for as.
        values: of config.json.
        dtype, device: that it is to be loaded in and on.
        read: whether its weights are.
        quantise: see `Quantise`.
        packing: how its weights are quantised already; None: they are not.

    Every method raises InvalidModelError, IncompleteModelError or UnsupportedModelError, with what is wrong.
    """

    name: str
    folder: Path
    values: Mapping[str, Any]
    dtype: DType
    device: torch.device
    read: bool = True
    quantise: Quantise | None = None
    packing: Packing | None = None

    def config(self) -> Any:
        """Transformers' configuration; Any, for nested ones are declared as dict or None as well."""
        with reading(self.folder / CONFIG_FILE):
            config: Any = AutoConfig.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
            for part in (config, config.get_text_config()):  # else transformers wants others' packages
                vars(part).pop("quantization_config", None)
            return config

    def image_processor(self) -> Mapping[str, Any]:
        """The preprocessor's settings; what means nothing in them is refused."""
        values = image_processor(self.folder)
        assert values is not None  # check_complete saw it
        values = _without_nulls(values)
        check_image_processor(image_processor_file(self.folder), values)
        return values

    def settings(self) -> LookSettings:
        return read_file(self.folder / SETTINGS_FILE, LookSettings())

    def localisation(self, default: Localisation) -> Localisation:
        return read_file(self.folder / LOCALISATION_FILE, default)

    def prompts(
        self,
        config: Any,
        question_suffix: str,
        written: Frame | None = None,
        around_image: tuple[str, str] = ("", ""),
    ) -> ChatPrompts:
        """
        Args:
            config: transformers' own, with the `image_token_id`.
            written: around a question, where an architecture has no chat template.
            around_image: see `ChatPrompts`.
        """
        template, file = (written, self.folder) if written is not None else self._template()
        tokenizer, vocabulary = self.tokenizer(), config.get_text_config().vocab_size
        self._check_placeholder(tokenizer, config.image_token_id, vocabulary)
        with reading(self.folder / "tokenizer_config.json"):
            try:
                return ChatPrompts(
                    tokenizer,
                    chat_template=template,
                    placeholder=config.image_token_id,
                    vocabulary=vocabulary,
                    question_suffix=question_suffix,
                    around_image=around_image,
                )
            except ModelError as error:
                raise type(error)(f"{file}: {error}") from error

    def weights(self, kind: Any, config: Any, attention: Mapping[str, str] | None = None) -> Any:
        """A model of transformers with the folder's weights, its decoder attending by plans.

        Args:
            kind: the model's class.
            attention: of other parts than decoder and vision tower, by the names of their configurations.
        """
        if not self.read:
            return self._bare(kind, config)
        packing = self.packing
        stored = stored_tensors(self.folder, quantised=packing is not None)
        check_layers(self.folder, self.values, len(stored))
        check_size(self.folder, self.values, kind, config, stored)
        placed = kind
        if packing is not None:
            placed = with_places(kind, packed_layers(self.folder, packing, stored))
        with reading(f"{self.folder}: the model cannot be loaded"):
            model, info = placed.from_pretrained(
                self.folder,
                config=config,
                dtype=self._torch_dtype(config),
                attn_implementation=attending(attention),
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, as one error
                output_loading_info=True,
            )
            check_loaded(self.folder, model, info)
            check_generation(self.folder, model.generation_config, config.get_text_config().vocab_size)
            model = model.eval().requires_grad_(False).to(self.device)
            if packing is not None:
                unpack_layers(self.folder, model, kind, packing, self._torch_dtype(config))
            check_finite(self.folder, model)
        if self.quantise is not None:
            try:
                quantise_linear_layers(model, **ROUNDINGS[self.quantise]._asdict())
            except ValueError as error:
                raise UnsupportedModelError(f"{self.folder}: {self.quantise}: {error}") from error
        pack_linear_layers(model)
        return model

    def _bare(self, kind: Any, config: Any) -> Any:
        """The model without weights, on the meta device."""
        with torch.device("meta"):
            model = kind(config).to(self._torch_dtype(config)).eval()
        if (self.folder / "generation_config.json").is_file():
            with reading(self.folder / "generation_config.json"):
                model.generation_config = GenerationConfig.from_pretrained(self.folder)
        check_generation(self.folder, model.generation_config, config.get_text_config().vocab_size)
        return model

    def _torch_dtype(self, config: Any) -> torch.dtype:
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        if self.device.type == "cpu":
            return torch.float32
        published = config.dtype or config.get_text_config().dtype
        return published if isinstance(published, torch.dtype) else torch.float16

    def tokenizer(self, inside: str = "") -> PreTrainedTokenizerBase:
        """The decoder's, or another that lies in a folder inside."""
        folder = self.folder / inside
        path = folder / "tokenizer.json"
        with reading(f"{path} cannot be read"):
            Tokenizer.from_file(str(path))
        with reading(f"{folder / 'tokenizer_config.json'}: the tokenizer cannot be loaded"):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        return tokenizer

    def _template(self) -> tuple[str, Path]:
        found = chat_template(self.folder)
        if found is None:
            raise IncompleteModelError(
                f"the model folder {self.folder} is incomplete: no chat_template.jinja"
            )
        return found

    def _check_placeholder(self, tokenizer: Any, token: Any, vocabulary: int) -> None:
        names = ("image_token_index", "image_token_id")
        given = next((name for name in names if name in self.values), None)
        what = f"{given} {token!r}" if given else f"{' or '.join(names)} is missing; its default {token!r}"
        known = type(token) is int and 0 <= token < 2**31 and tokenizer.convert_ids_to_tokens(token)
        if not known or token >= vocabulary:
            raise InvalidModelError(
                f"{self.folder / CONFIG_FILE}: {what} is "
                + (f"beyond the embedding's {vocabulary} rows" if known else "no token of tokenizer.json")
            )


def attending(others: Mapping[str, str] | None = None) -> dict[str, str]:
    """How the parts of a served module attend: its decoder by plans.

    Args:
        others: see `Checkpoint.weights`.
    """
    return {"text_config": ATTENTION, "vision_config": "sdpa", **(others or {})}


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, and those inside them, without what is said to be nothing: the default."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def _prepare_operators(place: torch.device) -> None:
    """Load the operators, or build them, now: the first answer should not have to wait for that."""
    try:
        kernels.status("cuda" if place.type == "cuda" else "cpu")
    except kernels.KernelError as error:
        raise SettingsError(str(error)) from error


def _check_context(folder: Path, model: VisionLanguageModel) -> None:
    """Refuse a model that no question about two pictures fits in: none could be answered."""
    pictures, answer = sum(model.most_visual_tokens), model.settings.max_new_tokens
    text = len(model.tokens(GENERIC_QUESTION).two)
    if pictures + text + answer > model.context:
        positions = model.module.config.get_text_config().max_position_embeddings
        name = "max_position_embeddings" if model.context == positions else "sliding_window"
        raise InvalidModelError(
            f"{folder / CONFIG_FILE}: {name} is {model.context}, too small for two "
            f"pictures of {pictures} tokens, a question of {text} and an answer of {answer}"
        )


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
