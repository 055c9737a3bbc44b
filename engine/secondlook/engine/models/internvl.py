"""InternVL3 in the Hugging Face layout (Zhu et al., arXiv 2504.10479).

An InternViT tower, a pixel shuffle that makes one row of several patches, a projector, a Qwen2 or Llama
decoder. A picture is shown as its processor shows one that it does not crop to tiles: whole, squashed to the
tower's square.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, InternVLModel

from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.pictures import Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.square import SquareAdapter, square_preprocessing

__all__ = ["SUPPORTED", "InternVl", "default_localisation", "load"]

SUPPORTED = "InternVL3 (model_type internvl) with a qwen2 or llama decoder"

_DECODERS = ("qwen2", "llama")
_AROUND_IMAGE = ("<img>", "</img>")
"""What the processor writes around the tokens of a picture."""


_STANDARD = {"size": {"height": 384, "width": 384}}


def load(checkpoint: Checkpoint) -> InternVl:
    """The model of a folder; raises as `Checkpoint` does."""
    config = _config(checkpoint)
    settings = checkpoint.settings()
    side = config.vision_config.image_size[0]
    preprocessing = square_preprocessing(
        checkpoint, side, ("GotOcr2ImageProcessor",), size="size", resample=3, defaults=_STANDARD
    )
    prompts = checkpoint.prompts(config, settings.question_suffix, around_image=_AROUND_IMAGE)
    localisation = checkpoint.localisation(default_localisation(config))
    module = checkpoint.weights(InternVLForConditionalGeneration, config)
    return InternVl(checkpoint.name, module, prompts, preprocessing, settings, localisation)


def default_localisation(config: Any) -> Localisation:
    """The relative depth at which Zhang et al. (arXiv 2502.17422) read LLaVA-1.5, and crops of the encoder's
    side; published for none of these models, and not tried here on real weights."""
    layer = config.text_config.num_hidden_layers * 14 // 32
    return Localisation({layer: None}, config.vision_config.image_size[0])


class InternVl(SquareAdapter):
    """A `VisionLanguageModel`, see there."""

    def __init__(
        self,
        name: str,
        module: InternVLForConditionalGeneration,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        config: Any = module.config  # transformers declares its nested configurations as dict or None as well
        vision = ShuffledVision(module.model, config.downsample_ratio)
        cell = round(config.vision_config.patch_size[0] / config.downsample_ratio)
        parts = (prompts, preprocessing, settings, localisation)
        super().__init__(name, module, *parts, vision, cell, "bicubic")
        told = ("hidden_act", "layer_norm_eps", "norm_type", "num_attention_heads", "use_qk_norm")
        values = [getattr(config.vision_config, one) for one in told]
        self.vision_settings = f"{values} {config.projector_hidden_act}"


class ShuffledVision(nn.Module):
    """Features [n, N, D] of normalised pixels [n, 3, S, S], row-major cells."""

    def __init__(self, model: Any, ratio: float) -> None:
        super().__init__()
        self.tower, self.projector, self.ratio = model.vision_tower, model.multi_modal_projector, ratio

    def forward(self, pixel_values: Tensor) -> Tensor:
        seen = self.tower(pixel_values).last_hidden_state[:, 1:]  # without the class token
        side = int(seen.shape[1] ** 0.5)
        shuffle: Any = InternVLModel.pixel_shuffle  # takes nothing of its model
        cells = shuffle(None, seen.unflatten(1, (side, side)), self.ratio).flatten(1, 2)
        features: Tensor = self.projector(cells)
        return features


def _config(checkpoint: Checkpoint) -> Any:
    config, folder = checkpoint.config(), checkpoint.folder
    kinds = config.vision_config.model_type, config.text_config.model_type
    if kinds[0] != "internvl_vision" or kinds[1] not in _DECODERS:
        raise UnsupportedModelError(
            f"{folder} holds model_type internvl, vision tower {kinds[0]}, decoder {kinds[1]}; supported is "
            f"{SUPPORTED}"
        )
    seen = config.vision_feature_layer, config.vision_feature_select_strategy
    if seen != (-1, "default"):
        raise UnsupportedModelError(
            f"{folder}: vision_feature_layer {seen[0]!r} with vision_feature_select_strategy {seen[1]!r} is "
            "not supported, only -1 with 'default'"
        )
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    factor = 1 / config.downsample_ratio if config.downsample_ratio else 0.0
    square = len({*size}) == len({*patch}) == 1
    if not square or factor < 1 or factor % 1 or size[0] % (patch[0] * factor):
        raise InvalidModelError(
            f"{folder}: image_size {list(size)} in patches of patch_size {list(patch)} cannot be divided by "
            f"a downsample_ratio of {config.downsample_ratio} into squares"
        )
    return config
