"""Small random-weight checkpoints in the exact layout of the public `llava-hf/llava-1.5-7b-hf`.

The same files, the same keys in them, the same tensor names in float16 shards, a Llama tokenizer with byte
fallback and the added tokens `<image>` and `<pad>`; only the numbers are small, and the weights are noise.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

IMAGE_SIZE = 84
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE
WORDS = ["USER", "ASSISTANT", "What", "is", "on", "the", "sign", "Write", "a", "image", "of", "number"]

PUBLISHED_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}"
    "{% endif %}{# Render all images first #}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The public checkpoint's: `USER: <image>\\n{question} ASSISTANT:`."""

IMAGE_FIRST_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>{% else %}\nUSER: {{ content['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}\nASSISTANT:{% endif %}"
)
"""Images before everything, the first token written out: the layout of the ViCrop reference."""

QUESTION_FIRST_TEMPLATE = (
    "{% for message in messages %}{% for content in message['content'] | reverse %}"
    "{% if content['type'] == 'image' %}<image>{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@dataclass(frozen=True)
class Variant:
    """What differs between the checkpoints tests write."""

    seed: int = 0
    kv_heads: int = 4
    tied: bool = False
    template: str = PUBLISHED_TEMPLATE
    template_file: Literal["chat_template.json", "chat_template.jinja", "processor_config.json"] = (
        "chat_template.json"
    )
    shards: int = 1
    layers: int = 4
    context: int = 512
    eos: int | tuple[int, ...] = 2


def write_checkpoint(folder: Path, variant: Variant | None = None) -> Path:
    """Write a whole checkpoint into `folder` (made if needed) and return it."""
    variant = Variant() if variant is None else variant
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    config = _config(variant, vocabulary)
    _write_json(folder / "config.json", config)
    _write_processor(folder, variant)
    eos = variant.eos if isinstance(variant.eos, int) else list(variant.eos)
    _write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": eos, "pad_token_id": vocabulary + 1},
    )
    _write_weights(folder, config, variant)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes a key."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.update(changes)
    _write_json(path, {key: value for key, value in values.items() if value is not None})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _config(variant: Variant, vocabulary: int) -> dict[str, Any]:
    # The published file leaves out what a 7B Llama has by default; here those numbers are given.
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": vocabulary,
        "model_type": "llava",
        "pad_token_id": vocabulary + 1,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": variant.context,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": variant.layers,
            "num_key_value_heads": variant.kv_heads,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": variant.tied,
            "torch_dtype": "float16",
            "vocab_size": vocabulary + 64,
        },
        "tie_word_embeddings": variant.tied,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 32,
            "image_size": IMAGE_SIZE,
            "intermediate_size": 64,
            "model_type": "clip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "patch_size": PATCH_SIZE,
            "projection_dim": 32,
            "vocab_size": vocabulary,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _write_tokenizer(folder: Path) -> int:
    """A byte-fallback BPE like Llama's; returns the size of its vocabulary, which is the id of `<image>`."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"<>/-▁"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges: list[tuple[str, str]] = []
    for word in ["▁" + word for word in WORDS]:
        built = word[0]
        for letter in word[1:]:
            pair = (built, letter)
            built += letter
            if built not in tokens:
                tokens.append(built)
                merges.append(pair)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<image>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        "0": "<unk>",
        "1": "<s>",
        "2": "</s>",
        str(len(tokens)): "<image>",
        str(len(tokens) + 1): "<pad>",
    }
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    _write_json(folder / "added_tokens.json", {"<image>": len(tokens), "<pad>": len(tokens) + 1})
    _write_json(
        folder / "special_tokens_map.json",
        {
            name: {"content": content, **flags}
            for name, content in (
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("pad_token", "<pad>"),
                ("unk_token", "<unk>"),
            )
        },
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": None,
            "added_tokens_decoder": {
                index: {"content": content, **flags, "special": True} for index, content in added.items()
            },
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "extra_special_tokens": {"image_token": "<image>"},
            "image_token": "<image>",
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": "LlavaProcessor",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "trust_remote_code": False,
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
    )
    return len(tokens)


def _write_processor(folder: Path, variant: Variant) -> None:
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    _write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": square,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": IMAGE_SIZE},
        },
    )
    processor: dict[str, Any] = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH_SIZE,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    if variant.template_file == "processor_config.json":
        processor["chat_template"] = variant.template
    elif variant.template_file == "chat_template.json":
        _write_json(folder / "chat_template.json", {"chat_template": variant.template})
    else:
        (folder / "chat_template.jinja").write_text(variant.template, encoding="utf-8")
    _write_json(folder / "processor_config.json", processor)


def _write_weights(folder: Path, config: dict[str, Any], variant: Variant) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(variant.seed)
        model = LlavaForConditionalGeneration(LlavaConfig(**config))
    generator = torch.Generator().manual_seed(variant.seed)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and variant.tied:
            continue
        if tensor.is_floating_point() and "norm" not in name:
            # Spread enough that tokens differ, attention is not uniform, and greedy choices are no near-ties.
            gain = 6 if "lm_head" in name else 1.5
            spread = 0.5 if "embed" in name else gain / math.sqrt(tensor[0].numel())
            tensor = torch.randn(tensor.shape, generator=generator) * spread
        tensors[_published(name)] = tensor.half().contiguous() if tensor.is_floating_point() else tensor
    names = sorted(tensors)
    if variant.shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    where: dict[str, str] = {}
    for shard in range(variant.shards):
        file = f"model-{shard + 1:05}-of-{variant.shards:05}.safetensors"
        part = names[shard :: variant.shards]
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(part, file))
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where}
    )


def _published(name: str) -> str:
    """A tensor's name in the published files, from its name in transformers 5."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name
