"""The FLOPs benchmark: what each flow computes, beside the reference flow and beside one plain answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from transformers import DynamicCache

from secondlook.benchmarks.commands import table
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.flops import META, PassFlops, counted
from secondlook.benchmarks.latency.subject import Preset, random_model, served
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, Lengths, flow_work
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.plans import (
    AttentionPlan,
    DecodePlan,
    PrefillPlan,
    Probe,
    ProbeReached,
    Rows,
    Segment,
)


def bench_flops(preset: Preset, new_tokens: int, retransmission_rate: float) -> dict[str, Any]:
    """Count a preset's FLOPs, without weights: the report, for JSON; at its top the ratios of ours."""
    lengths = Lengths.of(preset, TYPICAL_QUESTION, new_tokens)
    rows = flow_rows(preset, lengths, retransmission_rate)
    ours = next(row for row in rows if row["flow"] == "ours")
    return {
        "flops_ratio": ours["ratio"],
        "relative_computation": ours["relative_computation"],
        "retransmission_rate": retransmission_rate,
        "preset": preset.name,
        "new_tokens": new_tokens,
        "prompt_tokens": asdict(lengths),
        "environment": environment("cpu", "none: shapes only"),
        "rows": rows,
        "passes": count_passes(preset, lengths),
    }


def flow_rows(preset: Preset, lengths: Lengths, retransmission_rate: float) -> list[dict[str, Any]]:
    """FLOPs of each flow, from the start of an unsure request to each milestone.

    Relative computation is over one plain answer from the global image (Song & Kim, arXiv 2512.16349): of
    sure requests, of unsure ones, and at the retransmission rate r, (1 - r) · sure + r · unsure.
    """
    passes, layer = PassFlops(preset.config), preset.localisation.deepest
    sure, unsure = (
        {flow: flow_work(flow, passes, lengths, layer, unsure=unsure) for flow in FLOWS}
        for unsure in (False, True)
    )
    plain = sure["reference"]["final_answer"].flops
    rows = []
    for flow, milestones in unsure.items():
        flops = {str(metric): done.flops for metric, done in milestones.items()}
        alone, twice = (work[flow]["final_answer"].flops / plain for work in (sure, unsure))
        rows.append(
            {
                "flow": flow,
                **flops,
                "ratio": flops["final_answer"] / unsure["reference"]["final_answer"].flops,
                "relative_computation_sure": alone,
                "relative_computation_unsure": twice,
                "relative_computation": (1 - retransmission_rate) * alone + retransmission_rate * twice,
            }
        )
    return rows


def count_passes(preset: Preset, lengths: Lengths) -> list[dict[str, Any]]:
    """The passes of an unsure request, run on shapes alone (the meta device): transformers', then ours.

    Each is of `tokens` new tokens (or images) with `keys` keys; `analytic` is as `PassFlops` has it, from
    counts of one and two tokens, `counted` of the pass as it is.
    """
    model = random_model(preset.config, torch.float32, META)
    passes, layer = PassFlops(preset.config), preset.localisation.deepest
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    image = preset.image_tokens
    theirs = _published_passes(model, lengths)
    ours = _engine_passes(preset, model, lengths)
    whole, after = passes.decoder(n, n), passes.decoder(two - n, two)
    counts = [
        ("encode", image, 0, passes.encode(), theirs),
        ("prefill", n, n, whole, theirs),
        ("prefill after a prefix", two - n, two, after, theirs),
        ("decode", 1, two + 1, passes.decoder(1, two + 1), theirs),
        ("logits", n, 0, passes.logits(n), theirs),
        ("ours: encode", image, 0, passes.encode(features_only=True), ours),
        ("ours: prefill with a row", n, n, whole + passes.row(n), ours),
        ("ours: generic question's row", g - prefix, g, passes.probe(g - prefix, g, layer), ours),
        ("ours: prefill after a prefix", two - prefix, two, passes.decoder(two - prefix, two), ours),
        ("ours: decode", 1, two + 1, passes.decoder(1, two + 1), ours),
    ]
    rows = []
    for name, tokens, keys, analytic, runs in counts:
        seen = counted(next(runs))
        row = {"name": name, "tokens": tokens, "keys": keys, "analytic": analytic, "counted": seen}
        rows.append({**row, "deviation": seen / analytic - 1})
    return rows


Pass = Callable[[], object]


def _published_passes(model: Any, lengths: Lengths) -> Iterator[Pass]:
    """Encode, prefill, prefill after a prefix, decode, logits; the cache grows from one to the next."""
    config, decoder = model.config, model.model.language_model
    cache = DynamicCache(config=config.text_config)

    def rows(tokens: int) -> torch.Tensor:
        return torch.empty(1, tokens, config.text_config.hidden_size, device=META)

    pixels = torch.empty(1, 3, config.vision_config.image_size, config.vision_config.image_size, device=META)
    yield lambda: model.get_image_features(pixel_values=pixels, return_dict=True)
    for tokens in (lengths.question, lengths.both - lengths.question, 1):
        inputs = {"inputs_embeds": rows(tokens), "past_key_values": cache, "use_cache": True}
        yield lambda inputs=inputs: decoder(**inputs)  # type: ignore[misc]  # mypy cannot infer it
    yield lambda: model.lm_head(rows(lengths.question))


def _engine_passes(preset: Preset, model: Any, lengths: Lengths) -> Iterator[Pass]:
    """Encode, prefill with a row, the generic question's row, prefill after a prefix, decode."""
    ours, probe_layer = served(preset, model), preset.localisation.deepest
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    # Just as long as the sequence: references, which run on shapes, compute with all of a slot.
    cache = KVCache(ours.decoder, 1, two + 1, torch.float32, META)

    def run(start: int, stop: int, plan: AttentionPlan) -> None:
        embeddings = torch.empty(stop - start, ours.decoder.width, device=META)
        with suppress(ProbeReached):
            ours.hidden(Rows(embeddings, torch.arange(start, stop, device=META)[None]), plan)

    def prefill(start: int, stop: int, layer: int | None = None, *, rows_only: bool = False) -> None:
        span = preset.prompt(TYPICAL_QUESTION, 1)[1][0]
        segments = [Segment(0, start, stop - start, span, kept=not rows_only)]
        probe = None if layer is None else Probe({layer: None})
        run(start, stop, PrefillPlan(cache, segments, probe, rows_only=rows_only))

    encoder, side = ours.vision_module(), ours.preprocessing.side
    yield lambda: encoder(torch.empty(1, 3, side, side, device=META))
    yield lambda: prefill(0, n, probe_layer)
    yield lambda: prefill(prefix, g, probe_layer, rows_only=True)
    yield lambda: prefill(prefix, two)
    one = torch.zeros(1, dtype=torch.int64, device=META)
    yield lambda: run(two, two + 1, DecodePlan(cache, one, one))


def flops_text(report: Mapping[str, Any]) -> str:
    """A FLOPs report as tables for people, in GFLOP."""
    passes = [{**row, **{of: row[of] / 1e9 for of in ("analytic", "counted")}} for row in report["passes"]]
    parts = ("first_token", "first_answer", "region", "final_answer")
    flows = [{**row, **{of: row[of] / 1e9 for of in parts}} for row in report["rows"]]
    pass_columns = (
        "pass {name} | tokens {tokens} | keys {keys} | GFLOP {analytic:.2f} | counted {counted:.2f} | "
        "deviation {deviation:.2%}"
    )
    flow_columns = (
        "flow, GFLOP {flow} | first token {first_token:.1f} | first answer {first_answer:.1f} | "
        "region {region:.1f} | final {final_answer:.1f} | ratio {ratio:.3f} | "
        "relative computation, sure {relative_computation_sure:.2f} | "
        f"unsure {{relative_computation_unsure:.2f}} | {report['retransmission_rate']:.0%} unsure "
        "{relative_computation:.2f}"
    )
    return f"{table(pass_columns, passes)}\n\n{table(flow_columns, flows)}"
