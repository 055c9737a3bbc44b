"""Small checkpoints of Qwen's models, in the layouts of the public ones, and transformers beside them.

The weights are those of the golden files. Their tokens mean nothing, so that of the tokenizer each is one
character, but for what the chat template and the generic question write.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.looks import check_greedy
from secondlook.engine.models.base import Picture, VisionLanguageModel

GOLDEN = Path(os.environ.get("SECONDLOOK_GOLDEN") or Path(__file__).parents[1] / "golden") / "models"
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
CELL = {"qwen2_5_vl": 28, "qwen3_vl": 32}

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
SPECIAL = {90: "<|vision_start|>", 91: "<|vision_end|>", 92: "<|image_pad|>", 93: "<|video_pad|>"}
WRITTEN = {
    5: SYSTEM,
    6: "<|im_start|>",
    7: "user\n",
    20: "Write",
    21: " a",
    22: " general description",
    23: " of the image.",
    30: "<|im_end|>\n",
    31: "<|im_start|>assistant\n",
}
VOCABULARY = 100

TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of the public Qwen2.5-VL checkpoints."""

TEMPLATE_3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set image_count = namespace(value=0) %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for content in message.content %}
                {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                    {%- set image_count.value = image_count.value + 1 %}
                    {%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}
                    <|vision_start|><|image_pad|><|vision_end|>
                {%- elif 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""What pictures and questions need of that of the public Qwen3-VL checkpoints, which write no system text."""

Cases = dict[str, Any]


def cases(family: str) -> Cases:
    with np.load(GOLDEN / f"{family}_cases.npz") as file:
        return {name: file[name] for name in file}


def word(token: int) -> str:
    return WRITTEN.get(token) or SPECIAL.get(token) or chr(0x4E00 + token)


def words(tokens: Sequence[int]) -> str:
    """The text of a question that has these tokens."""
    return "".join(map(word, tokens))


def write_folder(folder: Path, family: str, layer: int | None = None, template: str = TEMPLATE) -> Path:
    """A whole folder around a golden checkpoint, made if needed.

    Args:
        layer: whose attention is read; None: the architecture's default.
    """
    known = cases(family)
    shutil.copytree(GOLDEN / family, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    pixels = int(known["merge_pixels"]) ** 2
    processor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_mean": known["image_mean"].tolist(),
        "image_std": known["image_std"].tolist(),
        "patch_size": int(known["merge_pixels"]) // 2,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "resample": 3,
        "size": {
            "shortest_edge": int(known["min_tokens"]) * pixels,
            "longest_edge": int(known["max_tokens"]) * pixels,
        },
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if layer is not None:
        (folder / "localisation.json").write_text(json.dumps({"layers": {str(layer): None}}))
    return folder


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word(token): token for token in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, word(4)))
    longest = sorted(WRITTEN.values(), key=len, reverse=True)
    pattern = "|".join([*(text.replace("|", r"\|").replace(".", r"\.") for text in longest), "."])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": word(2), "pad_token": word(0)}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def publish(folder: Path, family: str) -> None:
    """Bring config, weights and generation settings to what the public checkpoints have."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if family == "qwen2_5_vl":  # the decoder's settings beside those of the whole
        text, vision = config.pop("text_config"), config["vision_config"]
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope["rope_theta"]
        text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        for values, name in ((text, "layer_types"), (text, "model_type"), (vision, "rope_parameters")):
            values.pop(name)
        vision["in_chans"] = vision.pop("in_channels")
        config = {**text, **config, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    shards = {f"model-0000{part + 1}-of-00002.safetensors": sorted(weights)[part::2] for part in (0, 1)}
    where = {name: file for file, names in shards.items() for name in names}
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    generation = {"do_sample": True, "eos_token_id": [2, 3], "pad_token_id": 0, "temperature": 0.000001}
    penalties = {"repetition_penalty": 1.05, "top_p": 0.8, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(generation | penalties))


class Reference:
    """Transformers' own model and processor of a folder."""

    def __init__(self, folder: Path, attention: str = "sdpa") -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()
        self.processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)

    def inputs(self, ids: Sequence[int], images: Sequence[Image.Image | Picture]) -> dict[str, Tensor]:
        """For its forward, around tokens that have as many of images as these need.

        Args:
            images: of which those that a model of ours takes are not resized again.
        """
        taken = [one.pixels.numpy() for one in images if isinstance(one, Picture)]
        values = self.processor(images=taken or images, do_resize=not taken, return_tensors="pt")
        tokens = torch.tensor([list(ids)])
        kinds = (tokens == self.model.config.image_token_id).int()
        return {"input_ids": tokens, "mm_token_type_ids": kinds, **values}

    def check(
        self, answer: Sequence[int], ids: Sequence[int], images: Sequence[Image.Image | Picture]
    ) -> None:
        """An answer of at most `MOST` tokens is its own, greedily, through the end token; up to a tie."""
        check_greedy(answer, self.model, self.inputs(ids, images))

    @torch.inference_mode()
    def row(self, ids: Sequence[int], image: Image.Image | Picture, layer: int) -> Tensor:
        """The attention of the last token to the picture's, mean over heads."""
        inputs = self.inputs(ids, [image])
        weights = self.model(**inputs, output_attentions=True).attentions[layer][0, :, -1]
        row: Tensor = weights[:, inputs["mm_token_type_ids"][0].bool()].mean(0)
        return row


def ids_of(model: VisionLanguageModel, question: str, grids: Sequence[tuple[int, int]]) -> list[int]:
    return list(model.prompt(model.tokens(question), grids).ids)


def through_end(tokens: Sequence[int]) -> list[int]:
    """The golden files' answers go on behind the end token."""
    tokens = [int(token) for token in tokens]
    return tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
