"""The first embedded model, `demo`: a small LLaVA, which sees every picture squashed to one square.

A CLIP vision tower on 168-pixel pictures (12 by 12 patches), LLaVA's two-layer projector, a four-layer Llama.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from secondlook.edge.wire import Fixed, View
from secondlook.engine.models.pictures import Grid
from training.model import DECODER, IMAGE_SIZE, PATCH, Architecture, pixels_to_float, token_id

__all__ = ["GRID", "Square", "start_projector"]

GRID: Final = IMAGE_SIZE // PATCH


class Square(Architecture):
    """An `Architecture`, see there. Close-ups take a random part of the 12 by 12 position table, so that
    every position is trained."""

    view = View(size=Fixed(width=IMAGE_SIZE, height=IMAGE_SIZE))
    squashes = (1.0, 1.0, 0.75, 0.67, 0.56, 1.33)  # of the pictures' shapes
    image = "<image>"
    width = 192
    tower_prefix = "model.vision_tower."
    head_file = "patch_head.safetensors"

    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            "llava",
            vision_config=AutoConfig.for_model(
                "clip_vision_model",
                hidden_size=self.width,
                intermediate_size=768,
                num_hidden_layers=6,
                num_attention_heads=3,
                image_size=IMAGE_SIZE,
                patch_size=PATCH,
                hidden_act="gelu_pytorch_tanh",
                projection_dim=192,
            ).to_dict(),
            text_config=AutoConfig.for_model(
                "llama",
                **DECODER,
                vocab_size=len(tokenizer),
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ).to_dict(),
            image_token_index=token_id(tokenizer, self.image),
            projector_hidden_act="gelu",
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=GRID * GRID,
            tie_word_embeddings=True,
        )
        return AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]

    def features(self, tower: Any, pixels: Sequence[Tensor], corner: Grid = (0, 0)) -> Tensor:
        embeddings, (top, left) = tower.embeddings, corner
        patches = embeddings.patch_embedding(pixels_to_float(torch.stack(list(pixels))))
        cells = patches.shape[-1]
        patches = patches.flatten(2).transpose(1, 2)
        table = embeddings.position_embedding.weight
        places = table[1:].view(GRID, GRID, -1)[top : top + cells, left : left + cells].flatten(0, 1)
        first = (embeddings.class_embedding + table[0]).expand(len(pixels), 1, -1)
        hidden = tower.pre_layrnorm(torch.cat([first, patches + places], dim=1))
        features: Tensor = tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]
        return features.flatten(0, 1)

    def visual(self, model: Any, features: Tensor) -> Tensor:
        visual: Tensor = model.model.multi_modal_projector(features)
        return visual

    def start(self, model: Any, head: nn.Module, features: Tensor) -> None:
        start_projector(model.model.multi_modal_projector, head, features)

    def layout(self, grid: Grid) -> Tensor:
        return torch.arange(grid[0] * grid[1]).unsqueeze(0)

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
        images.save_pretrained(folder)
        make_processor: Any = PROCESSOR_MAPPING[AutoConfig.for_model("llava").__class__]  # untyped
        make_processor(
            image_processor=images,
            tokenizer=tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.chat_template,
        ).save_pretrained(folder)


@torch.no_grad()
def start_projector(projector: Any, head: Any, features: Tensor) -> None:
    """Initialise the projector so that its output deviates by 1 from its mean over `features` [R, D].

    The first hidden units are the patch head's logits (halved), the others standardised random directions.
    """
    flat = features.float()
    mean, deviation = flat.mean(0), flat.std(0)
    weight = torch.empty_like(projector.linear_1.weight)
    nn.init.orthogonal_(weight)
    weight = 1.5 * weight / (math.sqrt(flat.shape[1]) * deviation)
    read_outs = head.linear.weight.shape[0]
    bias = -weight @ mean
    weight[:read_outs], bias[:read_outs] = head.linear.weight / 2, head.linear.bias / 2
    projector.linear_1.weight.copy_(weight)
    projector.linear_1.bias.copy_(bias)
    nn.init.normal_(projector.linear_2.weight)
    projector.linear_2.bias.zero_()
    output = projector(flat)
    projector.linear_2.weight.div_((output - output.mean(0)).std())
