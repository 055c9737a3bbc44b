"""LLaVA-1.5 for two looks, over transformers' `LlavaForConditionalGeneration` unchanged.

The steps are functions over explicit state: `encode` pictures, compute the `prefix` (everything through the
global image) once, `extend` it by a question, with or without a local image, as often as wanted, and `decode`
greedily. A prefix is never changed by what extends it.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration

from secondlook.engine.attention import AttentionProbe
from secondlook.engine.errors import NonFiniteError
from secondlook.engine.look_settings import LookSettings
from secondlook.engine.prompts import Prompt, PromptLayout
from secondlook.engine.token_record import Decoded, TokenRecord
from secondlook.engine.vision import Preprocessing, TorchVisionEncoder, VisionEncoder

__all__ = ["LlavaAdapter", "Prefilled", "Prefix"]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of every token through the end of the global image."""

    cache: DynamicCache
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes the keys and values hold."""
        layers: list[Any] = self.cache.layers
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


@dataclass(frozen=True)
class Prefilled:
    """A whole prompt, ready to be answered.

    Attributes:
        logits: [V], of the first answer token.
        attention: [N] float32, from the last prompt token to the global image's tokens at the probe layer,
            mean over heads; None unless asked for.
        cache: keys and values of the prompt.
    """

    logits: Tensor
    attention: Tensor | None
    cache: DynamicCache


class LlavaAdapter:
    """One loaded LLaVA. Made by `load_model`; all calls belong on one thread.

    Attributes:
        name: what the model was asked for as.
        layout: its prompts.
        settings: its two-look settings.
        image_size: side of the vision encoder's input, in pixels.
        grid: (rows, columns) of an image's tokens.
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
        self._text_config = config.text_config
        self._preprocessing = preprocessing
        self._encoder: VisionEncoder = TorchVisionEncoder(model) if encoder is None else encoder

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    def digest(self) -> str:
        """SHA-256 of all weights with their names and types, its first 16 hexadecimal digits."""
        total = hashlib.sha256()
        for name, tensor in self._model.state_dict().items():
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
        return total.hexdigest()[:16]

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Visual features [n, N, D] of n pictures of any size, each fitted to the encoder's square."""
        pixels = self._preprocessing.pixel_values(images)
        return self._encoder(pixels.to(self.device, self.dtype))

    def prefix(self, feature: Tensor) -> Prefix:
        """Compute the shared prefix from the global image's feature [N, D]."""
        cache = DynamicCache(config=self._text_config)
        embeddings = self._embed(self.layout.prefix, (self.layout.span,), (feature,), 0)
        self._forward(embeddings, cache, None)
        return Prefix(cache, len(self.layout.prefix))

    def extend(
        self, prefix: Prefix, prompt: Prompt, local: Tensor | None = None, *, probe: bool = False
    ) -> Prefilled:
        """Compute the rest of a prompt after a prefix: [local image, if the prompt has one][question].

        Args:
            prompt: from this adapter's layout, so that it begins with the prefix's tokens.
            local: the local image's feature [N, D], exactly when the prompt has two images.
            probe: read the attention to the global image.
        """
        assert prompt.ids[: prefix.length] == self.layout.prefix, "a prompt of another layout"
        features = () if local is None else (local,)
        embeddings = self._embed(prompt.ids, prompt.spans[1:], features, prefix.length)
        request = AttentionProbe(self.settings.probe_layer, *self.layout.span) if probe else None
        cache = _fork(prefix.cache)
        hidden = self._forward(embeddings, cache, request)
        attention = None
        if request is not None:
            assert request.row is not None, "the probe layer did not run"
            attention = request.row[0]
        return Prefilled(self._logits(hidden), attention, cache)

    @torch.inference_mode()
    def decode(self, prefilled: Prefilled, max_new_tokens: int) -> Decoded:
        """Answer greedily, until an end token or the limit.

        Waits for the device once a token, to learn whether the answer is complete.

        Raises:
            NonFiniteError: the logits held NaN or infinity.
        """
        cache = _fork(prefilled.cache)
        record = TokenRecord([max_new_tokens], self.eos_ids, self.device)
        record.append(prefilled.logits.unsqueeze(0))
        while not record.is_complete():
            embeddings = self._model.get_input_embeddings()(record.next_tokens.view(1, 1))
            record.append(self._logits(self._forward(embeddings, cache, None)).unsqueeze(0))
        decoded = record.read(0)
        if not all(math.isfinite(token.min_entropy) for token in decoded.statistics):
            raise NonFiniteError(
                f"the model {self.name!r} computed NaN or infinity in {self.dtype}; try dtype float32"
            )
        return decoded

    def text(self, token_ids: Sequence[int]) -> str:
        """The answer as text, without special tokens and surrounding white space."""
        return self.layout.decode(token_ids)

    def synchronise(self) -> None:
        """Wait until the device has done all work given to it, so that a clock read now is honest."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def _embed(
        self,
        ids: Sequence[int],
        spans: Sequence[tuple[int, int]],
        features: Sequence[Tensor],
        start: int,
    ) -> Tensor:
        """Embeddings [1, len(ids) - start, D] of ids[start:], the spans filled with features [N, D]."""
        tokens = torch.tensor(ids[start:], device=self.device)
        embeddings: Tensor = self._model.get_input_embeddings()(tokens)
        for (first, last), feature in zip(spans, features, strict=True):
            embeddings[first - start : last - start] = feature
        return embeddings.unsqueeze(0)

    @torch.inference_mode()
    def _forward(self, embeddings: Tensor, cache: DynamicCache, probe: AttentionProbe | None) -> Tensor:
        """The last token's final hidden state [D]; `cache` grows by the tokens given."""
        output = self._model.model.language_model(
            inputs_embeds=embeddings, past_key_values=cache, use_cache=True, attention_probe=probe
        )
        hidden: Tensor = output.last_hidden_state[0, -1]
        return hidden

    @torch.inference_mode()
    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.lm_head(hidden)
        return logits


def _fork(cache: DynamicCache) -> DynamicCache:
    """A cache that starts with the same keys and values and grows on its own.

    No tensor is copied: a dynamic layer grows by concatenation into new tensors and never writes to the old
    ones.
    """
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
