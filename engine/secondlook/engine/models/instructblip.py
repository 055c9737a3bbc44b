"""InstructBLIP (Dai et al., arXiv 2305.06500) with Vicuna: a vision tower, a Q-Former, a Llama decoder.

What the tower sees is free of the question, and is kept for the next question about a picture. The Q-Former
reads the question beside it, and makes a few rows: so a prefix belongs to one question, and what a row looked
at is told by the Q-Former's own attention to the tower's cells (Zhang et al., arXiv 2502.17422).
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import InstructBlipForConditionalGeneration, PreTrainedTokenizerBase

from secondlook.engine.devices import to_device
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    QuestionTooLongError,
    UnsupportedModelError,
)
from secondlook.engine.models.base import Features, Prompt
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.pictures import Grid, Picture, Preprocessing
from secondlook.engine.models.prompts import ChatPrompts, QuestionTokens
from secondlook.engine.models.rendering import Frame
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.square import SquareAdapter, square_preprocessing
from secondlook.engine.models.vision import Axis, Interface, TensorType, VisionEncoder, VisionGraph

__all__ = ["SUPPORTED", "InstructBlip", "default_localisation", "load"]

SUPPORTED = "InstructBLIP (model_type instructblip) with a llama decoder"

WRITTEN: Final = Frame((("Question: ", " Short answer:"),) * 2, trims=True, ahead=True)
"""What the model was shown with; pictures stand before the first token of the text."""

_TOKENIZER = "qformer_tokenizer"
_CROSS_BLOCK = 2
"""Of the Q-Former's blocks with cross attention, the one whose cells are read."""


_STANDARD = {"size": {"height": 384, "width": 384}}


def load(checkpoint: Checkpoint) -> InstructBlip:
    """The model of a folder; raises as `Checkpoint` does."""
    config = _config(checkpoint)
    settings = checkpoint.settings()
    side = config.vision_config.image_size
    preprocessing = square_preprocessing(
        checkpoint, side, ("BlipImageProcessor",), size="size", resample=3, defaults=_STANDARD
    )
    prompts = checkpoint.prompts(config, settings.question_suffix, WRITTEN)
    if not (checkpoint.folder / _TOKENIZER / "tokenizer.json").is_file():
        raise IncompleteModelError(
            f"the model folder {checkpoint.folder} is incomplete: no {_TOKENIZER}/tokenizer.json"
        )
    reader = checkpoint.tokenizer(_TOKENIZER)
    if max(reader.get_vocab().values()) >= config.qformer_config.vocab_size:
        raise InvalidModelError(
            f"{checkpoint.folder / _TOKENIZER} has more tokens than the Q-Former's embedding has rows: "
            f"{config.qformer_config.vocab_size}"
        )
    localisation = checkpoint.localisation(default_localisation(config))
    eager = {"qformer_config": "eager"}  # it tells what it looked at
    module = checkpoint.weights(InstructBlipForConditionalGeneration, config, eager)
    return InstructBlip(checkpoint.name, module, prompts, preprocessing, settings, localisation, reader)


def default_localisation(config: Any) -> Localisation:
    """What InstructBLIP with Vicuna-7B has in Zhang et al., arXiv 2502.17422: layer 15 of 32, crops of the
    encoder's side.

    Other depths read the same relative depth.
    """
    layer = config.text_config.num_hidden_layers * 15 // 32
    return Localisation({layer: None}, config.vision_config.image_size)


class InstructBlip(SquareAdapter):
    """A `VisionLanguageModel`, see there."""

    brief = True

    def __init__(
        self,
        name: str,
        module: InstructBlipForConditionalGeneration,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
        reader: PreTrainedTokenizerBase,
    ) -> None:
        """
        Args:
            module: loaded with the `secondlook` attention for its language model, eager for its Q-Former.
            reader: tokenizer of the Q-Former.
        """
        config: Any = module.config  # transformers declares its nested configurations as dict or None as well
        self._queries: int = config.num_query_tokens
        self._most_read: int = config.qformer_config.max_position_embeddings
        self._tokenizer: Any = reader
        vision, patch = Tower(module.vision_model), config.vision_config.patch_size
        parts = (prompts, preprocessing, settings, localisation)
        super().__init__(name, module, *parts, vision, patch, "bicubic")
        cells = (config.vision_config.image_size // patch) ** 2
        self.features = cells + 1, config.vision_config.hidden_size
        self._reader = Reader(module)
        self._read: VisionEncoder = self._reader
        told = ("hidden_act", "layer_norm_eps", "num_attention_heads")
        both = config.vision_config, config.qformer_config
        self.vision_settings = str([getattr(one, name) for one in both for name in told])

    def tokens(self, question: str) -> QuestionTokens:
        """As everywhere, and

        Raises:
            QuestionTooLongError: the Q-Former has fewer positions.
        """
        tokens = super().tokens(question)
        read = self._tokenizer(self.prompts.written(question))["input_ids"]
        if len(read) > self._most_read:
            raise QuestionTooLongError(
                f"the question has {len(read)} tokens, but the model's Q-Former reads at most "
                f"{self._most_read}; ask a shorter question"
            )
        return replace(tokens, instruction=tuple(read))

    def with_module(self, module: Any) -> InstructBlip:
        return InstructBlip(self.name, module, *self.parts, self._tokenizer)

    def text_inputs(self, prompt: Prompt, question: QuestionTokens) -> dict[str, Tensor]:
        read = to_device(torch.tensor([question.instruction] * len(prompt.spans)), self.device)
        return {**super().text_inputs(prompt, question), "qformer_input_ids": read}

    def layout(self, grid: Grid) -> Tensor:
        del grid
        return torch.arange(self._queries).unsqueeze(0)

    def prefix_key(self, picture: Picture, question: QuestionTokens) -> Hashable:
        return picture.digest, question.instruction

    @torch.inference_mode()
    def condition(self, features: Features, question: QuestionTokens) -> tuple[Features, Tensor]:
        """The Q-Former's rows [queries, D], and what each looked at of the tower's cells [queries, N]."""
        read = to_device(torch.tensor([question.instruction]), self.device)
        rows, looked = self._read(features.tokens.unsqueeze(0), read)
        return Features(rows[0]), looked[0].float()

    def vision_graphs(self) -> Mapping[str, VisionGraph]:
        """The tower, and the Q-Former that reads what it saw beside the question."""
        cells = self.features[0] - 1
        interface = Interface(
            (TensorType("features", (1, *self.features)), TensorType("instruction", (1, "text"), "int64")),
            (
                TensorType("rows", (1, self._queries, self.decoder.width)),
                TensorType("looked", (1, self._queries, cells)),
            ),
            {"text": Axis(1, self._most_read, adds_up=False)},
        )

        def example() -> tuple[Tensor, ...]:
            return torch.zeros(1, *self.features), torch.zeros(1, 5, dtype=torch.int64)

        return {**super().vision_graphs(), "reader": VisionGraph(self._reader, interface, example)}

    def with_encoder(self, *encoders: VisionEncoder) -> InstructBlip:
        other = copy.copy(self)
        other._encoder, other._read = encoders
        return other

    def projection(self, output: Any) -> Tensor:
        return _looked(output.qformer_outputs)[0]


class Tower(nn.Module):
    """Features [n, 1 + N, D] of normalised pixels [n, 3, S, S], the class token first."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        seen: Tensor = self.tower(pixel_values).last_hidden_state
        return seen


class Reader(nn.Module):
    """The Q-Former: rows [1, queries, D] for the decoder from a picture's features [1, 1 + N, C] and a
    question's tokens [1, T], and what each row looked at of the N cells, [1, queries, N] float32."""

    def __init__(self, module: Any) -> None:
        """`module` must have been loaded with an attention for its Q-Former that tells its weights."""
        super().__init__()
        self.queries, self.qformer, self.projection = (
            module.query_tokens,
            module.qformer,
            module.language_projection,
        )

    def forward(self, features: Tensor, instruction: Tensor) -> tuple[Tensor, Tensor]:
        output = self.qformer(
            input_ids=instruction,
            query_embeds=self.queries,
            encoder_hidden_states=features,
            output_attentions=True,
        )
        rows = self.projection(output.last_hidden_state[:, : self.queries.shape[1]])
        return rows, _looked(output)


def _looked(output: Any) -> Tensor:
    """What each row looked at of the tower's cells [1, queries, N], by an output of the Q-Former."""
    weights: Tensor = output.cross_attentions[_CROSS_BLOCK]
    return weights.float().mean(1)[:, :, 1:]  # over heads, without the class token


def _config(checkpoint: Checkpoint) -> Any:
    config, folder = checkpoint.config(), checkpoint.folder
    if config.text_config.model_type != "llama":
        raise UnsupportedModelError(
            f"{folder} holds model_type instructblip, decoder {config.text_config.model_type}; supported is "
            f"{SUPPORTED}"
        )
    reader = config.qformer_config
    crossed = len(range(0, reader.num_hidden_layers, reader.cross_attention_frequency))
    if crossed <= _CROSS_BLOCK:
        raise UnsupportedModelError(
            f"{folder}: the Q-Former has {crossed} blocks with cross attention, but block {_CROSS_BLOCK} is "
            "read to find a region"
        )
    return config
