"""LLaVA-1.5 (Liu et al., arXiv 2310.03744): a CLIP tower, a projector and a Llama decoder of transformers'.

One square for all pictures, an image token for each of its patches, positions in one dimension. What a
question's prompt shares with every other about the same picture ends with the global image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.wire import Fixed, View
from secondlook.engine.decode.cache import DecoderShape
from secondlook.engine.decode.plans import AttentionPlan, Rows
from secondlook.engine.devices import to_device
from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.base import Features, Prompt, VisionEncoder, VisionLanguageModel
from secondlook.engine.models.checkpoint import Checkpoint, digest, state
from secondlook.engine.models.clip import ClipVision
from secondlook.engine.models.pictures import Grid, Picture, Preprocessing, fitted
from secondlook.engine.models.prompts import ChatPrompts, QuestionTokens
from secondlook.engine.models.settings import Localisation, LookSettings

__all__ = ["SUPPORTED", "Llava", "default_localisation", "load", "made"]

SUPPORTED = "LLaVA-1.5 (model_type llava) with a clip_vision_model tower and a llama decoder"

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_VISION_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads")


def load(checkpoint: Checkpoint) -> Llava:
    """The model of a folder; raises as `Checkpoint` does."""
    config = _config(checkpoint)
    settings = checkpoint.settings()
    preprocessing = _preprocessing(checkpoint, config)
    prompts = checkpoint.prompts(config, settings.question_suffix)
    localisation = checkpoint.localisation(default_localisation(config))
    module = checkpoint.weights(LlavaForConditionalGeneration, config)
    return Llava(checkpoint.name, module, prompts, preprocessing, settings, localisation)


def made(*parts: Any) -> Llava:
    """The model of parts that are there already: `Llava`'s own arguments."""
    return Llava(*parts)


def default_localisation(config: Any) -> Localisation:
    """What LLaVA-1.5-7B has in Zhang et al., arXiv 2502.17422: layer 14 of 32, crops of the encoder's side.

    Other depths read the same relative depth.
    """
    return Localisation(config.text_config.num_hidden_layers * 14 // 32, config.vision_config.image_size)


class Llava(VisionLanguageModel):
    """A `VisionLanguageModel`, see there.

    Attributes:
        preprocessing: of pictures, after fitting.
    """

    def __init__(
        self,
        name: str,
        module: LlavaForConditionalGeneration,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        config: Any = module.config  # transformers declares its nested configurations as dict or None as well
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        eos = module.generation_config.eos_token_id
        self.name = name
        self.module = module
        self.device, self.dtype = module.device, module.dtype
        self.decoder = DecoderShape.of(config.text_config)
        self.context: int = config.text_config.max_position_embeddings
        self.eos_ids: frozenset[int] = frozenset([eos] if isinstance(eos, int) else eos or ())
        self.settings = settings
        self.localisation = localisation
        self.preprocessing = preprocessing
        self.global_view = View(size=Fixed(width=side, height=side), fit=settings.fit)
        self.local_view = self.global_view
        self.most_visual_tokens = ((side // patch) ** 2,) * 2
        self._cell = (patch, patch)
        self.prompts = prompts
        layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        blocks = layer if layer >= 0 else layers + 1 + layer  # layer 0 is what enters the first block
        tower: Any = module.model.vision_tower
        self._vision = ClipVision(tower, module.model.multi_modal_projector, blocks)
        self._encoder: VisionEncoder = self._vision

    def with_encoder(self, encoder: VisionEncoder) -> Llava:
        """The same model, on the same weights, with its pictures encoded by another."""
        other = copy.copy(self)
        other._encoder = encoder
        return other

    def picture(self, image: Image.Image, view: View, original: Size) -> Picture:
        return fitted(image, view, original, self._cell)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        pixels = self.preprocessing.pixel_values(pictures, self.device)
        return [Features(tokens) for tokens in self._encoder(pixels.to(self.dtype))]

    def tokens(self, question: str) -> QuestionTokens:
        return self.prompts.tokens(question)

    def prompt(self, question: QuestionTokens, grids: Sequence[Grid]) -> Prompt:
        ids, spans = self.prompts.ids(question, [rows * columns for rows, columns in grids])
        positions = torch.arange(len(ids)).unsqueeze(0)
        return Prompt(ids, spans, tuple(grids), spans[0][1], positions, len(ids))

    @torch.inference_mode()
    def rows(self, prompt: Prompt, start: int, features: Sequence[Features]) -> Rows:
        embeddings = self.embed(to_device(torch.tensor(prompt.ids[start:]), self.device))
        spans = [span for span in prompt.spans if span[0] >= start]
        for (first, stop), feature in zip(spans, features, strict=True):
            embeddings[first - start : stop - start] = feature.tokens
        return Rows(embeddings, to_device(prompt.positions[:, start:], self.device))

    @torch.inference_mode()
    def embed(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.module.get_input_embeddings()(tokens)
        return embeddings

    @torch.inference_mode()
    def hidden(self, rows: Rows, plan: AttentionPlan) -> Tensor:
        output = self.module.model.language_model(
            inputs_embeds=rows.embeddings.unsqueeze(0),
            position_ids=rows.positions,
            use_cache=False,
            attention_plan=plan,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.lm_head(hidden)
        return logits

    def text(self, token_ids: Sequence[int]) -> str:
        return self.prompts.decode(token_ids)

    def vision_module(self) -> nn.Module:
        return self._vision

    def digest(self) -> str:
        return digest(state(self.module))

    def encoder_digest(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 of the vision tower's and projector's weights, and of those settings of theirs that no
        weight tells; its first 16 hexadecimal digits.

        Args:
            dtype: as if the model had been loaded in it; None: as it is. Weights in float32 tell what they
                would be in all others, for loading rounds them the same way.
        """
        model: Any = self.module
        settings = [getattr(model.config.vision_config, name) for name in _VISION_SETTINGS]
        settings.append(len(self._vision.blocks))
        parts = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
        tensors = (
            (f"{part} {name}", tensor.to(dtype or tensor.dtype))
            for part, module in parts.items()
            for name, tensor in state(module)
        )
        return digest(tensors, f"{settings} {model.config.projector_hidden_act}")


def _config(checkpoint: Checkpoint) -> Any:
    folder, values = checkpoint.folder, checkpoint.values
    found = {
        "vision tower": _nested_type(values, "vision_config", "clip_vision_model"),
        "decoder": _nested_type(values, "text_config", "llama"),
    }
    if found != {"vision tower": "clip_vision_model", "decoder": "llama"}:
        kinds = ", ".join(f"{what} {kind}" for what, kind in found.items() if kind)
        raise UnsupportedModelError(f"{folder} holds model_type llava, {kinds}; supported is {SUPPORTED}")
    strategy = values.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise UnsupportedModelError(
            f"{folder}: vision_feature_select_strategy {strategy!r} is not supported, only 'default'"
        )
    config = checkpoint.config()
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


def _preprocessing(checkpoint: Checkpoint, config: Any) -> Preprocessing:
    folder, values = checkpoint.folder, checkpoint.image_processor()
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
            mean=tuple(values.get("image_mean") or _CLIP_MEAN) if normalise else (0.0, 0.0, 0.0),
            std=tuple(values.get("image_std") or _CLIP_STD) if normalise else (1.0, 1.0, 1.0),
            scale=float(values.get("rescale_factor") or 1 / 255) if rescale else 1.0,
        )
    except (SettingsError, TypeError, ValueError) as error:
        raise InvalidModelError(f"{folder}: the preprocessor's settings: {error}") from error
