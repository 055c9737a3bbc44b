"""An architecture unlike any other: pictures of their originals' shapes, positions in three dimensions (time,
row, column), and before each picture's cells a row that depends on the question, so that a prefix belongs to
one question."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from secondlook.edge.wire import Budget, View
from secondlook.engine.models.adapter import Adapter
from secondlook.engine.models.attention import ATTENTION
from secondlook.engine.models.base import Features
from secondlook.engine.models.pictures import Grid, Picture
from secondlook.engine.models.prompts import ChatPrompts, QuestionTokens
from secondlook.engine.models.settings import Localisation, LookSettings

CELL, WIDTH, WORDS, IMAGE = 8, 32, 97, 1
TEMPLATE = "{% for part in messages[0].content %}{{ part.text or '<image>' }}{% endfor %}"
SHAPE = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
ROTARY = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}
TOKENS = {"vocab_size": WORDS, "eos_token_id": 0, "bos_token_id": None}
TEXT = {**SHAPE, **TOKENS, "num_key_value_heads": 1, "rope_parameters": ROTARY}


def decoder(seed: int, attention: str) -> Any:
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config={"depth": 0, "hidden_size": 8})
    module: Any = Qwen2_5_VLForConditionalGeneration(config)
    module.set_attn_implementation({"text_config": attention})
    generator = torch.Generator().manual_seed(seed)
    for weights in module.parameters():
        weights.data.normal_(std=0.7, generator=generator)
    return module.eval().requires_grad_(False)


class ToyModel(Adapter):
    def __init__(self, seed: int = 0) -> None:
        letters = {"<eos>": 0, "<image>": IMAGE} | {chr(number + 30): number for number in range(2, WORDS)}
        tokenizer = Tokenizer(models.WordLevel(letters, "?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<image>"])
        prompts, budget = ChatPrompts(fast, chat_template=TEMPLATE, placeholder=IMAGE), 6 * CELL**2
        rules = [Budget(multiple=CELL, least_pixels=budget, most_pixels=n * budget) for n in (4, 2)]
        where, views = Localisation({0: {1: 0.5}, 1: None}, crop_size=40), [View(size=rule) for rule in rules]
        module, settings = decoder(seed, ATTENTION), LookSettings(max_new_tokens=9)
        super().__init__("toy", module, prompts, settings, where, (views[0], views[1]), (CELL, CELL))
        self.see, self.colours = nn.AvgPool2d(CELL), torch.arange(3.0 * WIDTH).view(3, WIDTH).sin()

    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        cells = [self.see(one.pixels.permute(2, 0, 1) / 255).flatten(1).T for one in pictures]
        return [Features(cell @ self.colours) for cell in cells]

    def condition(self, features: Features, question: QuestionTokens) -> tuple[Features, Tensor]:
        told = self.embed(torch.tensor([sum(question.text.encode()) % WORDS]))
        return Features(torch.cat((told, features.tokens))), torch.eye(len(features.tokens) + 1)[:, 1:]

    def layout(self, grid: Grid) -> Tensor:
        cells = torch.cartesian_prod(torch.tensor([0]), *map(torch.arange, grid))  # [N, 3]
        return torch.cat((torch.zeros(1, 3, dtype=torch.int64), cells)).T

    def prefix_key(self, picture: Picture, question: QuestionTokens) -> Hashable:
        return picture.digest, question.text

    def vision_module(self) -> nn.Module:
        return self.see
