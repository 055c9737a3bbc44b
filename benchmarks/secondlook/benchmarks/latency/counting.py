"""The same passes counted by torch, as they run: the check on the analytic numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import DynamicCache

from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.presets import Preset
from secondlook.benchmarks.latency.subject import adapter, random_model
from secondlook.benchmarks.latency.work import Lengths
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.plans import AttentionPlan, DecodePlan, PrefillPlan, ProbeReached, Segment
from secondlook.engine.models.vision import TorchVisionEncoder

__all__ = ["PassCount", "count_passes", "counted"]

_aten: Any = torch.ops.aten
_ours: Any = torch.ops.secondlook


def counted(work: Callable[[], object]) -> int:
    """FLOPs that torch's counter sees in `work`, and those unknown to it: of the CPU's fused attention and of
    our operators. Not those of packed linear layers.

    Where our operators run as references, their products are counted as they are computed: of decode
    attention over all positions of the cache.
    """
    formulas = {
        _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        _ours.attention_row: _row_flops,
        _ours.decode_attention: _decode_flops,
    }
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # untyped in torch
    return flops


def _row_flops(query: Any, keys: Any, *_: Any, **__: Any) -> int:
    """Of [B, H, D] by [B, H_kv, S, D]: a product for each head and key."""
    batch, heads, width = query
    flops: int = 2 * batch * heads * width * keys[2]
    return flops


def _decode_flops(
    query: Tensor, _keys: Tensor, _values: Tensor, _slots: Tensor, lengths: Tensor, *_: Any, **__: Any
) -> int:
    """Of [B, H, D], each row with as many keys and values as its length says."""
    return 4 * query.shape[1] * query.shape[2] * int(lengths.sum())


_decode_flops._get_raw = True  # type: ignore[attr-defined]  # torch's word for: give it tensors, not shapes


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
    """The passes of an unsure request, run on shapes alone (the meta device): transformers', then ours."""
    model = random_model(preset.config, torch.float32, torch.device("meta"))
    passes = PassFlops(preset.config)
    return [*_published_passes(passes, model, lengths), *_engine_passes(passes, preset, model, lengths)]


def _published_passes(passes: PassFlops, model: Any, lengths: Lengths) -> list[PassCount]:
    config = model.config
    decoder, width, side = model.model.language_model, config.text_config.hidden_size, _side(config)
    cache = DynamicCache(config=config.text_config)

    def pixels() -> object:
        image = torch.empty(1, 3, side, side, device="meta")
        return model.get_image_features(pixel_values=image, return_dict=True)

    def extend(tokens: int) -> Callable[[], object]:
        embeddings = torch.empty(1, tokens, width, device="meta")
        return lambda: decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)

    asked, rest, both = lengths.question, lengths.both - lengths.question, lengths.both
    hidden = torch.empty(1, asked, width, device="meta")
    # The cache grows from row to row: the prompt, what the second prompt has more, one token.
    return [
        _pass("encode", passes.image_tokens, 0, passes.encode(), pixels),
        _pass("prefill", asked, asked, passes.decoder(asked, asked), extend(asked)),
        _pass("prefill after a prefix", rest, both, passes.decoder(rest, both), extend(rest)),
        _pass("decode", 1, both + 1, passes.decoder(1, both + 1), extend(1)),
        _pass("logits", asked, 0, passes.logits(asked), lambda: model.lm_head(hidden)),
    ]


def _engine_passes(passes: PassFlops, preset: Preset, model: Any, lengths: Lengths) -> list[PassCount]:
    served, side = adapter(preset, model), _side(model.config)
    encoder = TorchVisionEncoder(model)
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    # Just as long as the sequence: references, which run on shapes, compute with all of a slot.
    cache = KVCache(model.config.text_config, 1, two + 1, torch.float32, served.device)

    def run(start: int, stop: int, plan: AttentionPlan) -> Callable[[], object]:
        embeddings = torch.empty(stop - start, model.config.text_config.hidden_size, device="meta")
        positions = torch.arange(start, stop, device="meta")
        return lambda: served.hidden(embeddings, positions, plan)

    def prefill(start: int, stop: int, layer: int | None = None, *, rows_only: bool = False) -> Any:
        segments = [Segment(0, start, stop - start, kept=not rows_only)]
        plan = PrefillPlan(cache, segments, layer, preset.layout.span, rows_only=rows_only)
        return run(start, stop, plan)

    def probe() -> None:
        with suppress(ProbeReached):
            prefill(prefix, g, preset.settings.probe_layer, rows_only=True)()

    one = torch.zeros(1, dtype=torch.int64, device="meta")
    return [
        _pass(
            "ours: encode",
            passes.image_tokens,
            0,
            passes.encode(blocks=passes.feature_blocks),
            lambda: encoder(torch.empty(1, 3, side, side, device="meta")),
        ),
        _pass(
            "ours: prefill with a row",
            n,
            n,
            passes.decoder(n, n) + passes.row(n),
            prefill(0, n, preset.settings.probe_layer),
        ),
        _pass(
            "ours: generic question's row",
            g - prefix,
            g,
            passes.probe(g - prefix, g, preset.settings.probe_layer),
            probe,
        ),
        _pass(
            "ours: prefill after a prefix",
            two - prefix,
            two,
            passes.decoder(two - prefix, two),
            prefill(prefix, two),
        ),
        _pass(
            "ours: decode",
            1,
            two + 1,
            passes.decoder(1, two + 1),
            run(two, two + 1, DecodePlan(cache, one, one)),
        ),
    ]


def _pass(name: str, tokens: int, keys: int, analytic: int, work: Callable[[], object]) -> PassCount:
    seen = counted(work)
    return PassCount(name, tokens, keys, analytic, seen, seen / analytic - 1)


def _side(config: Any) -> int:
    """Of the vision tower's pictures, in pixels."""
    side: int = config.vision_config.image_size
    return side
