"""A preset with weights, as the engine serves it and as transformers runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.initialization import no_init_weights
from transformers.utils import logging

from secondlook.benchmarks.latency.presets import Preset
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.plans import ATTENTION
from secondlook.engine.engine import Engine
from secondlook.engine.models.folders import DEMO, find_folder
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.engine.models.packed_linear import pack_linear_layers

__all__ = ["Subject", "adapter", "build_subject", "random_model", "twin"]


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        model: transformers' own, with SDPA attention and no end token.
        engine: ours, on the same weights; where they are packed, memory holds them twice.
    """

    preset: Preset
    model: LlavaForConditionalGeneration
    engine: Engine

    @property
    def weight_bytes(self) -> int:
        """Bytes that a decoded token must read: the decoder's layers and the language model's head."""
        parts: Any = self.model.model.language_model, self.model.lm_head
        decoder, head = parts
        tensors = chain(decoder.layers.parameters(), decoder.norm.parameters(), head.parameters())
        return sum(tensor.nbytes for tensor in tensors)


def build_subject(
    preset: Preset,
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    cache: CacheSettings | None = None,
    prepare: Callable[[LlavaAdapter], LlavaAdapter] = lambda served: served,
) -> Subject:
    """A preset's model on a device: random weights, or the embedded model's own.

    Args:
        cache: the engine's.
        prepare: makes of the model what the engine serves.
    """
    if preset.name == DEMO:
        model = _embedded_model(dtype, device)
    else:
        model = random_model(preset.config, dtype, device, seed)
    generation: Any = model.generation_config
    generation.eos_token_id = None  # every answer has as many tokens as were asked for
    return Subject(preset, model, Engine(prepare(adapter(preset, model)), cache=cache))


def adapter(preset: Preset, model: LlavaForConditionalGeneration) -> LlavaAdapter:
    """A preset's model as the engine calls it, on the same tensors but for weights that are packed."""
    served = twin(model, {"text_config": ATTENTION, "vision_config": "sdpa"})
    pack_linear_layers(served)  # as loading does
    return LlavaAdapter(preset.name, served, preset.layout, preset.preprocessing, preset.settings)


def random_model(
    config: Any, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> LlavaForConditionalGeneration:
    """A model of random weights, made on the device in its dtype; on the meta device without any.

    Weights are spread so that attention is not uniform and greedy choices are no near-ties.
    """
    with torch.device(device), no_init_weights():
        make: Any = LlavaForConditionalGeneration  # its _from_config is untyped
        built = make._from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    model: LlavaForConditionalGeneration = built.eval().requires_grad_(False)
    if device.type != "meta":
        generator = torch.Generator(device).manual_seed(seed)
        for name, parameter in model.named_parameters():
            _fill(name, parameter, generator)
    return model


def _embedded_model(dtype: torch.dtype, device: torch.device) -> LlavaForConditionalGeneration:
    transformers_logging: Any = logging  # its functions carry no types
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # it is there in a moment
    try:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(  # typed as any of its classes
            find_folder(DEMO), dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    model: LlavaForConditionalGeneration = loaded.eval().requires_grad_(False).to(device)
    return model


def twin(
    model: LlavaForConditionalGeneration, attention: str | dict[str, str]
) -> LlavaForConditionalGeneration:
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
