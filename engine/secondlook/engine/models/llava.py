"""LLaVA-1.5 (Liu et al., arXiv 2310.03744): a CLIP tower, a projector and a Llama decoder of transformers'.

One square for all pictures, an image token for each of its patches, positions in one dimension. What a
question's prompt shares with every other about the same picture ends with the global image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import LlavaForConditionalGeneration

from secondlook.edge.wire import Filter
from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.clip import ClipVision
from secondlook.engine.models.pictures import Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.square import SquareAdapter, square_preprocessing

__all__ = ["SUPPORTED", "Llava", "clip_config", "default_localisation", "load"]

SUPPORTED = "LLaVA-1.5 (model_type llava) with a clip_vision_model tower and a llama decoder"

_VISION_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads")


def load(checkpoint: Checkpoint) -> Llava:
    """The model of a folder; raises as `Checkpoint` does."""
    config = clip_config(checkpoint, SUPPORTED, ("llama",))
    settings = checkpoint.settings()
    side = config.vision_config.image_size
    preprocessing = square_preprocessing(checkpoint, side, ("CLIPImageProcessor",), size="crop_size")
    prompts = checkpoint.prompts(config, settings.question_suffix)
    localisation = checkpoint.localisation(default_localisation(config))
    module = checkpoint.weights(LlavaForConditionalGeneration, config)
    return Llava(checkpoint.name, module, prompts, preprocessing, settings, localisation)


def default_localisation(config: Any) -> Localisation:
    """What LLaVA-1.5-7B has in Zhang et al., arXiv 2502.17422: layer 14 of 32, crops of the encoder's side.

    Other depths read the same relative depth.
    """
    layer = config.text_config.num_hidden_layers * 14 // 32
    return Localisation({layer: None}, config.vision_config.image_size)


class Llava(SquareAdapter):
    """A `VisionLanguageModel`, see there."""

    def __init__(
        self,
        name: str,
        module: Any,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
        filter: Filter = "lanczos",  # noqa: A002 -- the view's name for it
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        config: Any = module.config  # transformers declares its nested configurations as dict or None as well
        tower: Any = module.model.vision_tower
        layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        blocks = layer if layer >= 0 else layers + 1 + layer  # layer 0 is what enters the first block
        vision = ClipVision(tower, module.model.multi_modal_projector, blocks)
        patch = config.vision_config.patch_size
        super().__init__(name, module, prompts, preprocessing, settings, localisation, vision, patch, filter)
        told = [getattr(config.vision_config, name) for name in _VISION_SETTINGS]
        self.vision_settings = f"{told} {config.projector_hidden_act}"


def clip_config(checkpoint: Checkpoint, supported: str, decoders: Sequence[str]) -> Any:
    """The configuration of a CLIP tower before one of some decoders; raises as `Checkpoint` does."""
    folder, values = checkpoint.folder, checkpoint.values
    found = {
        "vision tower": _nested_type(values, "vision_config", "clip_vision_model"),
        "decoder": _nested_type(values, "text_config", "llama"),
    }
    if found["vision tower"] != "clip_vision_model" or found["decoder"] not in decoders:
        kinds = ", ".join(f"{what} {kind}" for what, kind in found.items() if kind)
        raise UnsupportedModelError(
            f"{folder} holds model_type {values['model_type']}, {kinds}; supported is {supported}"
        )
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
