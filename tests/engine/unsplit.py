"""Small checkpoints of the architectures whose processors write text around a picture's tokens.

SmolVLM2, Idefics3 and InternVL3 in the layouts of the public ones: their files and the keys in them, their
chat templates and special tokens, weights in shards; and transformers beside them. The weights are noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from engine.looks import check_greedy
from secondlook.engine.models.base import Picture

FAKE, GLOBAL, END = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
IDEFICS_TEMPLATE = SMOL_TEMPLATE.replace("<|im_start|>", "<|begin_of_text|>")
INTERN_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """One architecture, as the tests have it.

    Attributes:
        special: of its tokenizer; the last is the placeholder.
        processor: the *Pil* image processor.
        side, grid: of the square in pixels, and of its map.
        drawn: how the processor is told to squash a picture once to that square.
    """

    model_type: str
    template: str
    special: tuple[str, ...]
    processor: Any
    side: int
    grid: int
    drawn: dict[str, Any]
    end: str
    decoder: str = "llama"

    @property
    def image(self) -> str:
        return self.special[-1]


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


SMOL = Family(
    "smolvlm",
    SMOL_TEMPLATE,
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", FAKE, GLOBAL, "<row_1_col_1>", END, "<image>"),
    SmolVLMImageProcessorPil,
    64,
    4,
    {"do_image_splitting": False, "size": _square(64)},
    END,
)
IDEFICS = Family(
    "idefics3",
    IDEFICS_TEMPLATE,
    ("<|end_of_text|>", "<|begin_of_text|>", FAKE, END, "<image>"),  # <global-img> is plain text there
    Idefics3ImageProcessorPil,
    83,  # as 384 with patches of 14: some pixels are in no patch
    3,
    {"do_image_splitting": False, "size": _square(83)},
    END,
)
INTERN = Family(
    "internvl",
    INTERN_TEMPLATE,
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<video>", "<IMG_CONTEXT>"),
    GotOcr2ImageProcessorPil,
    56,
    4,
    {"crop_to_patches": False},
    "<|im_end|>",
    "qwen2",
)
INTERN_LLAMA = Family(*(getattr(INTERN, name) for name in list(Family.__annotations__)[:-1]))
FAMILIES = {"smolvlm": SMOL, "idefics3": IDEFICS, "internvl": INTERN, "internvl-llama": INTERN_LLAMA}


def write_folder(folder: Path, family: Family, layer: int | None = None) -> Path:
    """A whole checkpoint, in a folder made if needed.

    Args:
        layer: whose attention is read; None: the architecture's default.
    """
    folder.mkdir(exist_ok=True)
    vocabulary = _write_tokenizer(folder, family)
    text = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "model_type": family.decoder,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "vocab_size": len(vocabulary) + 3,
        "bos_token_id": vocabulary[family.special[1]],
        "eos_token_id": vocabulary[family.end],
        "pad_token_id": vocabulary[family.special[0]],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    vision = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
    config = {
        "model_type": family.model_type,
        "text_config": text,
        "image_token_id": vocabulary[family.image],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.47.1",
    }
    if family.model_type == "internvl":
        config["vision_config"] = {
            **vision,
            "architectures": ["InternVisionModel"],
            "attention_bias": True,
            "hidden_act": "gelu",
            "image_size": [family.side] * 2,
            "layer_norm_eps": 1e-06,
            "layer_scale_init_value": 0.1,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "patch_size": [7, 7],
            "use_absolute_position_embeddings": True,
            "use_qk_norm": False,
        }
        config |= {"downsample_ratio": 0.5, "image_seq_length": 16, "projector_hidden_act": "gelu"}
        config |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    else:
        perceiver = {"num_key_value_heads": 1, "resampler_depth": 6, "resampler_n_heads": 16}
        text |= {"perceiver_config": perceiver, "qk_layer_norms": False, "rope_scaling": None}
        smol = family.model_type == "smolvlm"
        config["vision_config"] = {
            **vision,
            "image_size": family.side,
            "max_image_size": {"longest_edge": family.side},
            "model_type": f"{family.model_type}_vision",
            "patch_size": 8 if smol else 9,
            "size": {"longest_edge": 4 * family.side},
            "tie_word_embeddings": False,
            "use_base_siglip": True,
        }
        config |= {"scale_factor": 2 if smol else 3, "pad_token_id": 2, "use_cache": True}
    _write_json(folder / "config.json", config)
    _write_weights(folder)
    _write_settings(folder, family, vocabulary)
    if layer is not None:
        _write_json(folder / "localisation.json", {"layers": {str(layer): None}})
    return folder


def _write_settings(folder: Path, family: Family, vocabulary: dict[str, int]) -> None:
    (folder / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    kind = family.processor.__name__.removesuffix("Pil")
    if family.model_type == "internvl":
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        sizes: dict[str, Any] = {"size": _square(family.side), "crop_to_patches": True, "max_patches": 12}
    else:
        mean, std = [0.5] * 3, [0.5] * 3
        longest = {"longest_edge": 4 * family.side}
        sizes = {"size": longest, "max_image_size": {"longest_edge": family.side}, "do_image_splitting": True}
    processor = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": mean,
        "image_processor_type": kind,
        "image_std": std,
        "resample": 3 if family.model_type == "internvl" else 1,
        "rescale_factor": 0.00392156862745098,
    }
    _write_json(folder / "preprocessor_config.json", processor | sizes)
    ends = [vocabulary[family.special[0]], vocabulary[family.end]]
    generation = {"_from_model_config": True, "eos_token_id": ends, "repetition_penalty": 1.1}
    _write_json(folder / "generation_config.json", generation)


def _write_tokenizer(folder: Path, family: Family) -> dict[str, int]:
    """A byte-level BPE, of bytes alone; returns the whole vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, *family.special])}
    tokenizer = Tokenizer(models.BPE({token: vocabulary[token] for token in letters}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(family.special))
    begin = family.special[1]
    if family is IDEFICS:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": family.special[0]}
    values |= {"eos_token": family.end}
    if family.model_type == "internvl":
        values["extra_special_tokens"] = {
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        }
    else:
        values["bos_token"] = begin
    _write_json(folder / "tokenizer_config.json", values)
    return vocabulary


def _write_weights(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: Any = AutoModelForImageTextToText.from_config(config)
    generator, tensors = torch.Generator().manual_seed(3), dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "norm" not in name and "lambda" not in name:
            # Spread enough that tokens differ, attention is not uniform, and greedy choices are no near-ties.
            gain = 6 if "lm_head" in name else 1.5
            spread = 0.5 if "embed" in name else gain / math.sqrt(tensor[0].numel())
            tensor = torch.randn(tensor.shape, generator=generator) * spread
        tensors[_published(name, config.model_type)] = tensor.bfloat16().contiguous()
    shards = {f"model-0000{part + 1}-of-00002.safetensors": sorted(tensors)[part::2] for part in (0, 1)}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    where = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    _write_json(folder / "model.safetensors.index.json", index)


def _published(name: str, model_type: str) -> str:
    """A tensor's name in the published files, from its name in transformers 5."""
    if model_type != "internvl":
        return name
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1) if "language" in name else name


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


class Reference:
    """Transformers' own model, tokenizer and image processor of a folder."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.family = family
        self.model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.images: Any = family.processor.from_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """Of pictures that are not resized again; one prompt's, where the model takes several prompts'."""
        options = self.family.drawn | {"do_resize": False}
        taken = [one.pixels.numpy() for one in pictures]
        values: Tensor = self.images(images=taken, **options, return_tensors="pt")["pixel_values"]
        return values

    @torch.inference_mode()
    def check(self, answer: Sequence[int], ids: Sequence[int], pictures: Sequence[Picture]) -> None:
        """An answer of at most `MOST` tokens is its own, greedily, through the end token; up to a tie."""
        inputs = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            "pixel_values": self.pixels(pictures),
        }
        check_greedy(answer, self.model, inputs)

    @torch.inference_mode()
    def row(self, ids: Sequence[int], picture: Picture, layer: int) -> Tensor:
        """The attention of the last token to the picture's, mean over heads."""
        inputs = {"input_ids": torch.tensor([ids]), "pixel_values": self.pixels([picture])}
        weights = self.model(**inputs, output_attentions=True).attentions[layer][0, :, -1]
        row: Tensor = weights[:, torch.tensor(ids) == self.model.config.image_token_id].mean(0)
        return row
