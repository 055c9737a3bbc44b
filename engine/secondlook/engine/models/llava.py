"""LLaVA-1.5 for two looks, over transformers' `LlavaForConditionalGeneration` unchanged.

Stateless: pictures to features, token ids to embeddings, packed rows of any sequences to hidden states and
logits. Which rows belong together, and what they see, says the plan that goes with them
(`secondlook.engine.decode.plans`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from secondlook.engine.decode.plans import AttentionPlan
from secondlook.engine.devices import to_device
from secondlook.engine.models.look_settings import LookSettings
from secondlook.engine.models.prompts import PromptLayout
from secondlook.engine.models.vision import Preprocessing, Square, TorchVisionEncoder, VisionEncoder

__all__ = ["LlavaAdapter"]

_VISION_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads")


class LlavaAdapter:
    """One loaded LLaVA. Made by `load_model`; all calls belong on one thread.

    Attributes:
        name: what the model was asked for as.
        layout: its prompts.
        settings: its two-look settings.
        image_size: side of the vision encoder's input, in pixels.
        grid: (rows, columns) of an image's tokens.
        decoder_config: the language model's, transformers' own.
        feature_layer: index of the vision tower's hidden state that is projected, as in the configuration.
        preprocessing: of pictures.
    """

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        layout: PromptLayout,
        preprocessing: Preprocessing,
        settings: LookSettings,
        *,
        encoder: VisionEncoder | None = None,
    ) -> None:
        """`model` must have been loaded with the `secondlook` attention for its language model."""
        config: Any = model.config  # transformers declares its nested configurations as dict or None as well
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        eos = model.generation_config.eos_token_id
        self.name = name
        self.layout = layout
        self.settings = settings
        self.image_size: int = vision.image_size
        self.grid: tuple[int, int] = (side, side)
        self.eos_ids: frozenset[int] = frozenset([eos] if isinstance(eos, int) else eos or ())
        self._model = model
        self.decoder_config: Any = config.text_config
        self.feature_layer: int = config.vision_feature_layer
        self.preprocessing = preprocessing
        self._torch_encoder = TorchVisionEncoder(model)
        self._encoder: VisionEncoder = self._torch_encoder if encoder is None else encoder

    @property
    def module(self) -> LlavaForConditionalGeneration:
        """Transformers' own; nobody but its owner changes it."""
        return self._model

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    def digest(self) -> str:
        """SHA-256 of all weights with their names and types, its first 16 hexadecimal digits."""
        return _digest(_state(self._model))

    def encoder_digest(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 of the vision tower's and projector's weights, and of those settings of theirs that no
        weight tells; its first 16 hexadecimal digits.

        Args:
            dtype: as if the model had been loaded in it; None: as it is. Weights in float32 tell what they
                would be in all others, for loading rounds them the same way.
        """
        model: Any = self._model
        settings = [getattr(model.config.vision_config, name) for name in _VISION_SETTINGS]
        parts = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
        tensors = (
            (f"{part} {name}", tensor.to(dtype or tensor.dtype))
            for part, module in parts.items()
            for name, tensor in _state(module)
        )
        return _digest(tensors, f"{settings} {model.config.projector_hidden_act}")

    def vision_module(self) -> nn.Module:
        """Vision tower and projector: pixel values [n, 3, S, S] normalised to features [n, N, D]."""
        return self._torch_encoder.module

    def with_encoder(self, encoder: VisionEncoder) -> LlavaAdapter:
        """The same model, on the same weights, with its pictures encoded by another."""
        other = copy.copy(self)
        other._encoder = encoder
        return other

    def square(self, image: Image.Image) -> Square:
        """Fit a picture of any size to the encoder's square. May be called on any thread."""
        return self.preprocessing.square(image)

    def encode(self, squares: Sequence[Square]) -> Tensor:
        """Visual features [n, N, D] of n pictures."""
        pixels = self.preprocessing.pixel_values(squares, self.device)
        return self._encoder(pixels.to(self.dtype))

    @torch.inference_mode()
    def embed(
        self, ids: Sequence[int], spans: Sequence[tuple[int, int]] = (), features: Sequence[Tensor] = ()
    ) -> Tensor:
        """Embeddings [len(ids), D] of tokens, each span of image tokens filled with a feature [N, D]."""
        embeddings: Tensor = self._model.get_input_embeddings()(to_device(torch.tensor(ids), self.device))
        for (first, last), feature in zip(spans, features, strict=True):
            embeddings[first:last] = feature
        return embeddings

    @torch.inference_mode()
    def token_embeddings(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, D] of tokens [B] int64 on the device."""
        embeddings: Tensor = self._model.get_input_embeddings()(tokens)
        return embeddings

    @torch.inference_mode()
    def hidden(self, embeddings: Tensor, positions: Tensor, plan: AttentionPlan) -> Tensor:
        """The decoder's final hidden states [R, D] of packed rows [R, D] at positions [R] int64."""
        output = self._model.model.language_model(
            inputs_embeds=embeddings.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            attention_plan=plan,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[R, V] of hidden states [R, D]."""
        logits: Tensor = self._model.lm_head(hidden)
        return logits

    def text(self, token_ids: Sequence[int]) -> str:
        """The answer as text, without special tokens and surrounding white space."""
        return self.layout.decode(token_ids)

    def synchronise(self) -> None:
        """Wait until the device has done all work given to it, so that a clock read now is honest."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` holds, part after part: of packed weights it would hold copies, all at once."""
    for name, part in module.named_modules(remove_duplicate=False):
        own: dict[str, Tensor] = {}
        part._save_to_state_dict(own, f"{name}." if name else "", False)
        yield from own.items()


def _digest(tensors: Iterable[tuple[str, Tensor]], settings: str = "") -> str:
    total = hashlib.sha256(settings.encode())
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()[:16]
