"""The same passes counted by torch, as they run: the check on the analytic numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import DynamicCache

from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.presets import Preset
from secondlook.benchmarks.latency.subject import random_model
from secondlook.benchmarks.latency.work import Lengths

__all__ = ["PassCount", "count_passes", "counted"]

_aten: Any = torch.ops.aten


def counted(work: Callable[[], object]) -> int:
    """FLOPs that torch's counter sees in `work`, and those of the CPU's fused attention, unknown to it."""
    formulas = {_aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # untyped in torch
    return flops


@dataclass(frozen=True)
class PassCount:
    """One pass: `tokens` new tokens (or patches' images) with `keys` keys, and its FLOPs, computed both ways.

    Attributes:
        deviation: counted over analytic, less one.
    """

    name: str
    tokens: int
    keys: int
    analytic: int
    counted: int
    deviation: float


def count_passes(preset: Preset, lengths: Lengths) -> list[PassCount]:
    """The passes of an unsure request, run on shapes alone (the meta device)."""
    model: Any = random_model(preset.config, torch.float32, torch.device("meta"))
    passes = PassFlops(preset.config)
    decoder, width = model.model.language_model, preset.config.text_config.hidden_size
    side = preset.config.vision_config.image_size
    cache = DynamicCache(config=preset.config.text_config)

    def pixels() -> object:
        image = torch.empty(1, 3, side, side, device="meta")
        return model.get_image_features(pixel_values=image, return_dict=True)

    def extend(tokens: int) -> Callable[[], object]:
        embeddings = torch.empty(1, tokens, width, device="meta")
        return lambda: decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)

    def row(name: str, tokens: int, keys: int, analytic: int, work: Callable[[], object]) -> PassCount:
        seen = counted(work)
        return PassCount(name, tokens, keys, analytic, seen, seen / analytic - 1)

    asked, rest, both = lengths.question, lengths.both - lengths.question, lengths.both
    hidden = torch.empty(1, asked, width, device="meta")
    # The cache grows from row to row: the prompt, what the second prompt has more, one token.
    return [
        row("encode", passes.image_tokens, 0, passes.encode(), pixels),
        row("prefill", asked, asked, passes.decoder(asked, asked), extend(asked)),
        row("prefill after a prefix", rest, both, passes.decoder(rest, both), extend(rest)),
        row("decode", 1, both + 1, passes.decoder(1, both + 1), extend(1)),
        row("logits", asked, 0, passes.logits(asked), lambda: model.lm_head(hidden)),
    ]
