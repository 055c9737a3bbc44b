"""SmolVLM, SmolVLM2 (Marafioti et al., arXiv 2504.05299) and Idefics3 (Laurençon et al., arXiv 2408.12637).

A SigLIP tower, a pixel shuffle that makes one row of several patches, a Llama decoder. A picture is shown as
their processors show one that they do not split: whole, squashed to the tower's square. They resize it twice
for that, first to their `size`; here it is resized once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import Idefics3ForConditionalGeneration, SmolVLMForConditionalGeneration

from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.pictures import Picture, Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.square import SquareAdapter, square_preprocessing

__all__ = ["SUPPORTED", "SmolVlm", "default_localisation", "load"]

SUPPORTED = "SmolVLM, SmolVLM2 and Idefics3 (model_type smolvlm, idefics3) with a llama decoder"

_KINDS: Final[dict[str, Any]] = {
    "smolvlm": SmolVLMForConditionalGeneration,
    "idefics3": Idefics3ForConditionalGeneration,
}
_AROUND_IMAGE = ("<fake_token_around_image><global-img>", "<fake_token_around_image>")
"""What the processors write around the tokens of a whole picture."""

_PROCESSORS = ("SmolVLMImageProcessor", "Idefics3ImageProcessor")
_STANDARD: Final[dict[str, Any]] = {
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "max_image_size": {"longest_edge": 364},
}


def load(checkpoint: Checkpoint) -> SmolVlm:
    """The model of a folder; raises as `Checkpoint` does."""
    config = _config(checkpoint)
    settings = checkpoint.settings()
    side = config.vision_config.image_size
    preprocessing = square_preprocessing(
        checkpoint, side, _PROCESSORS, size="max_image_size", resample=1, defaults=_STANDARD
    )
    prompts = checkpoint.prompts(config, settings.question_suffix, around_image=_AROUND_IMAGE)
    localisation = checkpoint.localisation(default_localisation(config))
    module = checkpoint.weights(_KINDS[config.model_type], config)
    return SmolVlm(checkpoint.name, module, prompts, preprocessing, settings, localisation)


def default_localisation(config: Any) -> Localisation:
    """The relative depth at which Zhang et al. (arXiv 2502.17422) read LLaVA-1.5, and crops of the encoder's
    side; published for none of these models, and not tried here on real weights."""
    layer = config.text_config.num_hidden_layers * 14 // 32
    return Localisation({layer: None}, config.vision_config.image_size)


class SmolVlm(SquareAdapter):
    """A `VisionLanguageModel`, see there."""

    def __init__(
        self,
        name: str,
        module: Any,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        config, vision = module.config, ShuffledVision(module.model)
        cell = config.vision_config.patch_size * config.scale_factor
        super().__init__(name, module, prompts, preprocessing, settings, localisation, vision, cell)
        told = ("hidden_act", "layer_norm_eps", "num_attention_heads")
        self.vision_settings = str([getattr(config.vision_config, one) for one in told])

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        return {name: values.unsqueeze(1) for name, values in super().pixel_inputs(pictures).items()}


class ShuffledVision(nn.Module):
    """Features [n, N, D] of normalised pixels [n, 3, S, S], row-major cells.

    The tower's own forward looks at a mask of patches, for which the host waits; here all of them count.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.connector = model.vision_model, model.connector
        embeddings = self.tower.embeddings
        places = _places(embeddings.num_patches_per_side)
        device = embeddings.position_embedding.weight.device
        self.register_buffer("places", places.to(device), persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        placed = patches + embeddings.position_embedding(self.places)
        seen = self.tower.encoder(inputs_embeds=placed, attention_mask=None).last_hidden_state
        features: Tensor = self.connector(self.tower.post_layernorm(seen))
        return features


def _places(side: int) -> Tensor:
    """The learned position of each patch of a square [side²]: as transformers rounds, mostly its number."""
    edges = torch.arange(1 / side, 1.0, 1 / side)
    starts = (torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))).clamp(max=1.0 - 1e-6)
    line = torch.bucketize(starts, edges, right=True)
    return (line[:, None] * side + line).flatten()


def _config(checkpoint: Checkpoint) -> Any:
    config, folder = checkpoint.config(), checkpoint.folder
    if config.text_config.model_type != "llama":
        raise UnsupportedModelError(
            f"{folder} holds model_type {config.model_type}, decoder {config.text_config.model_type}; "
            f"supported is {SUPPORTED}"
        )
    vision = config.vision_config
    side, patch, factor = vision.image_size, vision.patch_size, config.scale_factor
    whole = isinstance(side, int) and isinstance(patch, int) and factor >= 1
    if not whole or patch > side or side // patch % factor:
        raise InvalidModelError(
            f"{folder}: image_size {side} in patches of patch_size {patch} cannot be divided into squares of "
            f"scale_factor {factor} patches"
        )
    return config
