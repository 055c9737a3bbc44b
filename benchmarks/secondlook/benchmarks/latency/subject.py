"""Models of given sizes, with weights, as the engine serves them and as transformers runs them.

All but the embedded one have random weights: latency and FLOPs depend on shapes, not on what weights have
learnt.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.initialization import no_init_weights

from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.embedded import DEMO
from secondlook.engine.engine import Engine
from secondlook.engine.flops import META
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import Checkpoint, attending, load_model
from secondlook.engine.models.folders import find_folder
from secondlook.engine.models.low_bit import LowBitLinear, quantise_linear_layers
from secondlook.engine.models.packing import pack_linear_layers
from secondlook.engine.models.registry import architecture
from secondlook.engine.models.rounding import ROUNDINGS, Quantise

PRESETS: Final = json.loads(files(__package__).joinpath("presets.json").read_text(encoding="utf-8"))
"""What a family's checkpoints have beside their sizes, by `model_type`: config.json's values, settings of the
image processor (without the side of a square), a chat template where it is not the embedded model's, single
tokens of the public tokenizer that are written around a question, and whether it `begins` every text with a
token. And of each preset config.json's values, and, where it stands for a public checkpoint, parameters."""

_IMAGE: Final = 4
"""The token of an image in the embedded model's vocabulary."""

_READER: Final = "qformer_tokenizer"

_EMBEDDINGS: Final = (
    *("embed_tokens", "word_embeddings", "query_tokens", "class_embedding", "image_newline"),
    *("position_embedding", "position_embeddings", "pos_embed"),
)
"""What embeddings are called in transformers."""


@dataclass(frozen=True)
class Preset:
    """Everything about a model but its weights.

    Attributes:
        shapes: the model on the meta device.
    """

    name: str
    shapes: VisionLanguageModel

    @property
    def config(self) -> Any:
        """Transformers' own; Any, for it declares nested configurations as dict or None as well."""
        return self.shapes.module.config


def preset(name: str) -> Preset:
    """By its name in presets.json; `demo` is the embedded model."""
    if name != DEMO:
        return random_preset(name, PRESETS["presets"][name]["config"])
    shapes = load_model(DEMO, device="cpu").shapes()
    assert shapes is not None
    return Preset(DEMO, shapes)


def random_preset(name: str, config: Mapping[str, Any]) -> Preset:
    """A preset of these sizes, for random weights, with what its family has beside them.

    It is loaded as a folder is, by its architecture's own module. Answers never end early, for no end token
    counts. `config` is that of config.json.
    """
    with TemporaryDirectory() as folder:
        values = write_settings(Path(folder), config)
        checkpoint = _Weightless(name, Path(folder), values, "float32", META)
        return Preset(name, architecture(values["model_type"], name).load(checkpoint))


class _Weightless(Checkpoint):
    """A folder without weights: the model is of shapes alone."""

    def weights(self, kind: Any, config: Any, attention: Mapping[str, str] | None = None) -> Any:
        with META, no_init_weights():
            module = kind._from_config(copy.deepcopy(config), attn_implementation=attending(attention))
        module.tie_weights()
        return module.eval()


def write_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Make a folder as one from the hub, but for weights; returns what is in its config.json."""
    demo, family = find_folder(DEMO), PRESETS["families"][config["model_type"]]
    tokenizer = json.loads((demo / "tokenizer.json").read_text(encoding="utf-8"))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"] += [
        {"id": number, "content": word, **plain, "special": word.startswith("<")}
        for number, word in enumerate(family.get("words", ()), len(tokenizer["model"]["vocab"]))
    ]
    if not family["begins"]:
        tokenizer["post_processor"] = None
    side = config["vision_config"].get("image_size")
    values = {
        **family["config"],
        **dict.fromkeys(("image_token_id", "image_token_index"), _IMAGE),
        **config,
        "text_config": {**config["text_config"], "bos_token_id": 1, "eos_token_id": None},
    }
    contents = {
        "config.json": values,
        "preprocessor_config.json": family["processor"] | ({"size": side, "crop_size": side} if side else {}),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.loads((demo / "tokenizer_config.json").read_text(encoding="utf-8")),
    }
    for place in (folder, folder / _READER):  # who has no Q-Former does not look there
        place.mkdir(exist_ok=True)
        for name, content in contents.items():
            (place / name).write_text(json.dumps(content), encoding="utf-8")
    template = family.get("template") or (demo / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return values


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        model: transformers' own, with SDPA attention and no end token; Any, for its parts are hardly typed.
        engine: ours, on the same weights; where they are packed, memory holds them twice.
    """

    preset: Preset
    model: Any
    engine: Engine

    @property
    def weight_bytes(self) -> int:
        """As the function, of plain layers."""
        return weight_bytes(self.model)


def weight_bytes(model: Any) -> int:
    """Bytes that a decoded token must read: the decoder's layers and the language model's head, plain ones or
    of few bits."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    parts = list(chain(decoder.layers.modules(), decoder.norm.modules(), head.modules()))
    floats: int = sum(tensor.nbytes for part in parts for tensor in part.parameters(recurse=False))
    return floats + sum(part.nbytes for part in parts if isinstance(part, LowBitLinear))


def build_subject(
    preset: Preset,
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    cache: CacheSettings | None = None,
) -> Subject:
    """A preset's model on a device, with random weights or the embedded model's own, and the engine on it."""
    if preset.name == DEMO:
        model = _embedded_model(dtype, device)
    else:
        model = random_model(preset.config, dtype, device, seed)
    model.generation_config.eos_token_id = None  # every answer has as many tokens as were asked for
    return Subject(preset, model, Engine(served(preset, model), cache=cache))


def served(preset: Preset, model: PreTrainedModel, quantise: Quantise | None = None) -> VisionLanguageModel:
    """A preset's model as the engine calls it, on the same tensors but for weights that are packed, or of few
    bits."""
    config = preset.config
    ours = twin(model, {part: getattr(config, part)._attn_implementation for part in config.sub_configs})
    if quantise is not None:
        quantise_linear_layers(ours, **ROUNDINGS[quantise]._asdict())
    pack_linear_layers(ours)  # as loading does
    made = preset.shapes.with_module(ours)
    assert made is not None, "it has shapes"
    return made


def random_model(config: Any, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """A model of random weights, made on the device in its dtype; on the meta device without any.

    Weights are spread so that attention is not uniform and greedy choices are no near-ties.
    """
    make: Any = AutoModelForImageTextToText  # untyped
    with torch.device(device), no_init_weights():
        model = make.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    model.eval().requires_grad_(False)
    if device.type != "meta":
        generator = torch.Generator(device).manual_seed(seed)
        for name, parameter in model.named_parameters():
            _fill(name, parameter, generator)
    return model


def _embedded_model(dtype: torch.dtype, device: torch.device) -> Any:
    loaded = load_model(DEMO, dtype=str(dtype).removeprefix("torch."), device=str(device))  # type: ignore[arg-type]
    model = copy.deepcopy(loaded.module)  # whose linear layers are not packed
    model.set_attn_implementation("sdpa")
    return model


def twin(model: PreTrainedModel, attention: str | dict[str, str]) -> Any:
    """A second model on the same tensors, with another attention implementation; not of a packed one."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    other.set_attn_implementation(attention)
    return other


def _fill(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    values: Tensor = parameter.data
    part = name.removesuffix(".weight").rpartition(".")[2]
    if name.endswith("bias"):
        values.zero_()
    elif part in _EMBEDDINGS:
        values.normal_(0.0, 0.5, generator=generator)
    elif values.dim() == 1:  # a norm's
        values.fill_(1.0)
    else:
        gain = 6.0 if "lm_head" in name else 1.5
        values.normal_(0.0, gain * values[0].numel() ** -0.5, generator=generator)
