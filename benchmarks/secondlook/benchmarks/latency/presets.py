"""The models measured by name: their configurations, prompts and settings, without any weights.

All but the embedded one stand for public checkpoints by their sizes alone: latency and FLOPs depend on
shapes, not on what the weights have learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, PreTrainedTokenizerFast

from secondlook.benchmarks.embedded.model import CHAT_TEMPLATE, build_tokenizer
from secondlook.edge.errors import SettingsError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.folders import DEMO, find_folder, image_processor
from secondlook.engine.models.look_settings import LookSettings
from secondlook.engine.models.prompts import PromptLayout
from secondlook.engine.models.vision import Preprocessing

__all__ = ["Preset", "PresetName", "llava_config", "preset", "random_preset"]

PresetName = Literal["small", "llava-1.5-7b", "llava-1.5-13b", "demo"]
"""`small` has LLaVA-1.5's vision tower and a decoder that a CPU can carry; `demo` is the embedded model."""

_VOCABULARY: Final = 32_064
_CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_DECODERS: Final[dict[str, tuple[int, int, int, int]]] = {  # layers, width, heads, intermediate width
    "small": (16, 1024, 16, 2816),
    "llava-1.5-7b": (32, 4096, 32, 11_008),
    "llava-1.5-13b": (40, 5120, 40, 13_824),
}


@dataclass(frozen=True)
class Preset:
    """Everything about a model but its weights.

    Attributes:
        config: a LlavaConfig; Any, because transformers declares its nested configurations as dict or None
            as well.
    """

    name: str
    config: Any
    layout: PromptLayout
    preprocessing: Preprocessing
    settings: LookSettings


def preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        SettingsError: there is none of that name.
    """
    if name == DEMO:
        return _embedded()
    if name not in _DECODERS:
        raise SettingsError(f"preset must be one of {', '.join(get_args(PresetName))}, not {name!r}")
    layers, width, heads, intermediate = _DECODERS[name]
    decoder = {
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    clip_large_14_336 = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    return random_preset(name, clip_large_14_336, decoder)


def random_preset(name: str, vision: dict[str, Any], decoder: dict[str, Any]) -> Preset:
    """A preset of these sizes, for random weights, with prompts as long as LLaVA-1.5's.

    The tokenizer is learnt on the spot; answers never end early, for it has no end token that counts.

    Args:
        vision, decoder: keywords of CLIPVisionConfig and LlamaConfig.
    """
    tokenizer = build_tokenizer()
    config: Any = llava_config(tokenizer, vision, decoder)
    side, patches = config.vision_config.image_size, config.vision_config.patch_size
    layers = config.text_config.num_hidden_layers
    layout = PromptLayout(
        tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_token_id=config.image_token_id,
        tokens_per_image=(side // patches) ** 2,
        context=config.text_config.max_position_embeddings,
    )
    settings = LookSettings.default_for(layers=layers, image_size=side)
    return Preset(name, config, layout, Preprocessing(side, "squash", _CLIP_MEAN, _CLIP_STD), settings)


def llava_config(
    tokenizer: PreTrainedTokenizerFast, vision: dict[str, Any], decoder: dict[str, Any]
) -> LlavaConfig:
    """LLaVA-1.5's configuration around a vision tower and a decoder, for the tokenizer's image token."""
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token, int), "<image> is one token"
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision).to_dict(),
        text_config=LlamaConfig(**decoder, bos_token_id=1, eos_token_id=None).to_dict(),
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _embedded() -> Preset:
    folder = find_folder(DEMO)
    model = load_model(DEMO, device="cpu")
    values = image_processor(folder)
    assert values is not None, "the embedded model has a preprocessor"
    preprocessing = Preprocessing(
        side=model.image_size,
        mode=model.settings.resize_mode,
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
        scale=values["rescale_factor"],
    )
    config = LlavaConfig.from_pretrained(folder, local_files_only=True)
    return Preset(DEMO, config, model.layout, preprocessing, model.settings)
