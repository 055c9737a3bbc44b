"""Small checkpoints of LLaVA-NeXT in the layout of the public `llava-hf/llava-v1.6-*-7b-hf`, and transformers
beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from engine.checkpoints import IMAGE_SIZE, PUBLISHED_TEMPLATE, Variant, edit_json, write_checkpoint
from engine.looks import check_greedy

SHEETS = [
    [IMAGE_SIZE * rows, IMAGE_SIZE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]
"""Heights and widths, in tiles those of the public ones."""

MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}{% for content in "
    "message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for "
    "content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}"
    "{% endfor %}{{ ' [/INST]' }}{% endif %}{% endfor %}"
)

TEMPLATES = {"llama": PUBLISHED_TEMPLATE, "mistral": MISTRAL_TEMPLATE}


def write_next(folder: Path, decoder: str = "llama", window: int | None = None) -> Path:
    """A whole folder: in two shards, with a generation config that asks for more than greedy answers."""
    variant = Variant(seed=6, kv_heads=2, shards=2, template=TEMPLATES[decoder])
    write_checkpoint(folder, variant)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | {"model_type": decoder, "rope_theta": 1e6}
    if decoder == "mistral":
        text |= {"sliding_window": window, "architectures": ["MistralForCausalLM"]}
    edit_json(
        folder / "config.json",
        architectures=["LlavaNextForConditionalGeneration"],
        model_type="llava_next",
        image_grid_pinpoints=SHEETS,
        text_config=text,
        use_image_newline_parameter=True,
    )
    edit_json(
        folder / "preprocessor_config.json",
        aspect_ratio_setting="anyres",
        image_grid_pinpoints=SHEETS,
        image_processor_type="LlavaNextImageProcessor",
        processor_class="LlavaNextProcessor",
    )
    edit_json(folder / "generation_config.json", do_sample=True, temperature=0.7, repetition_penalty=1.1)
    file = "model-00002-of-00002.safetensors"
    weights = load_file(folder / file)
    newline = torch.randn(64, generator=torch.Generator().manual_seed(7)) * 0.5
    save_file({**weights, "image_newline": newline.half()}, folder / file, {"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    where = {**index["weight_map"], "image_newline": file}
    edit_json(folder / "model.safetensors.index.json", weight_map=where)
    return folder


class Reference:
    """Transformers' own model and processor of a folder."""

    def __init__(self, folder: Path, decoder: str, attention: str = "sdpa") -> None:
        self.model: Any = LlavaNextForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()
        self.images: Any = LlavaNextImageProcessorPil.from_pretrained(folder)
        settings = json.loads((folder / "processor_config.json").read_text())
        self.processor: Any = LlavaNextProcessor(
            self.images,
            AutoTokenizer.from_pretrained(folder),
            patch_size=settings["patch_size"],
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=TEMPLATES[decoder],
        )

    def inputs(self, question: str, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """As its processor makes them: each picture in its base view and in tiles."""
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        found: dict[str, Tensor] = self.processor(text=text, images=list(images), return_tensors="pt")
        return found

    def sent(self, question: str, original: Image.Image, image: Image.Image) -> dict[str, Tensor]:
        """The same of one picture, but with the pixels of what was sent of it."""
        found, there = self.inputs(question, [original]), self.images.image_grid_pinpoints
        sheet = list(select_best_resolution((original.height, original.width), there))
        values = self.images([image], image_grid_pinpoints=[sheet], return_tensors="pt")
        return {**found, "pixel_values": values["pixel_values"]}

    @torch.inference_mode()
    def base(self, ids: Sequence[int], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """For its forward, around tokens that have the base views' places: what its own tower and projector
        make of the first tile of its processor's."""
        embeddings = self.model.get_input_embeddings()(torch.tensor([list(ids)]))
        pixels = torch.cat([self.images([one], return_tensors="pt")["pixel_values"][0, :1] for one in images])
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        rows = self.model.model.multi_modal_projector(seen)
        embeddings[0, torch.tensor(ids) == self.model.config.image_token_id] = rows.flatten(0, 1)
        return {"inputs_embeds": embeddings, "attention_mask": torch.ones(1, len(ids))}

    def check(self, answer: Sequence[int], inputs: dict[str, Tensor]) -> None:
        """An answer of at most `MOST` tokens is its own, greedily, through the end token; up to a tie."""
        check_greedy(answer, self.model, inputs)
