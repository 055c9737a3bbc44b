"""The models measured by name, with weights, as the engine serves them and as transformers runs them.

All but the embedded one stand for public checkpoints by their sizes alone: latency and FLOPs depend on
shapes, not on what the weights have learnt.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.initialization import no_init_weights

from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.embedded import DEMO
from secondlook.engine.engine import Engine
from secondlook.engine.models.attention import ATTENTION
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.folders import find_folder
from secondlook.engine.models.packed_linear import pack_linear_layers
from secondlook.engine.models.pictures import Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.registry import architecture
from secondlook.engine.models.settings import Localisation, LookSettings

_CLIP_LARGE_14_336: Final = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_DECODERS: Final[dict[str, tuple[int, int, int, int]]] = {  # layers, width, heads, intermediate width
    "small": (16, 1024, 16, 2816),
    "llava-1.5-7b": (32, 4096, 32, 11_008),
    "llava-1.5-13b": (40, 5120, 40, 13_824),
}


@dataclass(frozen=True)
class Preset:
    """Everything about a model but its weights.

    Attributes:
        config: transformers' own; Any, for it declares nested configurations as dict or None as well.
        image_tokens: of each image.
    """

    name: str
    config: Any
    prompts: ChatPrompts
    preprocessing: Preprocessing
    settings: LookSettings
    localisation: Localisation
    image_tokens: int

    def prompt(self, question: str, images: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Tokens, and each image's [start, stop)."""
        return self.prompts.ids(self.prompts.tokens(question), [self.image_tokens] * images)


def preset(name: str) -> Preset:
    """By name: `small` has LLaVA-1.5's vision tower and a decoder for CPUs, `demo` is the embedded model."""
    if name == DEMO:
        return _embedded()
    layers, width, heads, intermediate = _DECODERS[name]
    decoder = {
        "vocab_size": 32_064,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    return random_preset(name, _CLIP_LARGE_14_336, decoder)


def random_preset(name: str, vision: dict[str, Any], decoder: dict[str, Any]) -> Preset:
    """A preset of these sizes, for random weights, of the embedded model's architecture.

    So are prompts and preprocessing; answers never end early, for no end token counts.

    Args:
        vision, decoder: keywords of transformers' configurations of a CLIP vision tower and of a Llama.
    """
    demo = _embedded()
    values = json.loads((find_folder(DEMO) / "config.json").read_text(encoding="utf-8"))
    kinds = {part: {"model_type": values[part]["model_type"]} for part in ("vision_config", "text_config")}
    values["vision_config"] = kinds["vision_config"] | vision
    values["text_config"] = kinds["text_config"] | decoder | {"bos_token_id": 1, "eos_token_id": None}
    config: Any = AutoConfig.for_model(**{**values, "vision_feature_layer": -2})
    preprocessing = replace(demo.preprocessing, side=vision["image_size"])
    where = architecture(config.model_type, name).default_localisation(config)
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    return Preset(name, config, demo.prompts, preprocessing, LookSettings(), where, tokens)


@cache
def _embedded() -> Preset:
    model: Any = load_model(DEMO, device="cpu")  # with prompts, as all that make them of a chat template
    config = AutoConfig.from_pretrained(find_folder(DEMO), local_files_only=True)
    parts = (model.prompts, model.preprocessing, model.settings, model.localisation)
    return Preset(DEMO, config, *parts, model.most_visual_tokens[0])


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
        """Bytes that a decoded token must read: the decoder's layers and the language model's head."""
        decoder, head = self.model.model.language_model, self.model.lm_head
        tensors = chain(decoder.layers.parameters(), decoder.norm.parameters(), head.parameters())
        return sum(tensor.nbytes for tensor in tensors)


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


def served(preset: Preset, model: PreTrainedModel) -> VisionLanguageModel:
    """A preset's model as the engine calls it, on the same tensors but for weights that are packed."""
    ours = twin(model, {"text_config": ATTENTION, "vision_config": "sdpa"})
    pack_linear_layers(ours)  # as loading does
    module = architecture(preset.config.model_type, preset.name)
    made: VisionLanguageModel = module.made(
        preset.name, ours, preset.prompts, preset.preprocessing, preset.settings, preset.localisation
    )
    return made


def random_model(config: Any, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """A model of random weights, made on the device in its dtype; on the meta device without any.

    Weights are spread so that attention is not uniform and greedy choices are no near-ties.
    """
    make: Any = AutoModelForImageTextToText  # untyped
    with torch.device(device), no_init_weights():
        model = make.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
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
    if "norm" in name:
        values.fill_(1.0 if name.endswith("weight") else 0.0)
    elif name.endswith("bias"):
        values.zero_()
    elif any(part in name for part in ("embed_tokens", "position_embedding", "class_embedding")):
        values.normal_(0.0, 0.5, generator=generator)
    else:
        gain = 6.0 if "lm_head" in name else 1.5
        values.normal_(0.0, gain * values[0].numel() ** -0.5, generator=generator)
