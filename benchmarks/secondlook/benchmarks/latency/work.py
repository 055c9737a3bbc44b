"""What each flow computes until each of its milestones: passes put together; and the FLOPs benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch

from secondlook.benchmarks.commands import settings
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.flow import Metric
from secondlook.benchmarks.latency.subject import Preset, random_model, served
from secondlook.benchmarks.options import FlopsRun
from secondlook.edge.geometry import Size
from secondlook.engine.flops import META, PassFlops, counted
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.results import FirstLook, Look

FlowName = Literal["reference", "strong", "encoding_once", "ours"]
FLOWS: Final[tuple[FlowName, ...]] = get_args(FlowName)

TYPICAL_QUESTION: Final = "What number is on the red sign?"
"""As long as those of the latency benchmark."""


@dataclass(frozen=True)
class Work:
    """FLOPs of passes over many tokens at once, FLOPs of decoding one by one, and how many steps that takes,
    each of which reads all weights."""

    parallel: int = 0
    sequential: int = 0
    steps: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.parallel + other.parallel, self.sequential + other.sequential, self.steps + other.steps
        )

    @property
    def flops(self) -> int:
        return self.parallel + self.sequential


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts of one unsure request.

    Attributes:
        prefix: through the end of the global image.
        question, generic: whole prompts with the global image; 0: no generic question is asked.
        both: the whole prompt with global and local image.
        new: of each answer.
        decided: of the first answer, when the engine decides whether to look again.
        again: of the second answer, if not as many as of the first.
        rows: tokens of the first answer whose attention is read; 0: that of the prompt's last row is.
    """

    prefix: int
    question: int
    generic: int
    both: int
    new: int
    decided: int
    again: int | None = None
    rows: int = 0

    @classmethod
    def of(cls, preset: Preset, question: str, new_tokens: int) -> Lengths:
        """The lengths that a question's prompts have with a preset."""
        ids, spans = preset.prompt(question, 1)
        return cls(
            prefix=spans[0][1],
            question=len(ids),
            generic=len(preset.prompt(GENERIC_QUESTION, 1)[0]),
            both=len(preset.prompt(question, 2)[0]),
            new=new_tokens,
            decided=min(new_tokens, Policy.decide_after),
        )


def work_of(
    preset: Preset, lengths: Lengths, *, masked: bool = True
) -> dict[bool, dict[FlowName, dict[Metric, Work]]]:
    """Of unsure requests (True) and sure ones, by flow, until each milestone; `masked` as for `PassFlops`."""
    model = random_model(preset.config, torch.float32, META)
    passes = PassFlops(served(preset, model), masked=masked)
    side = preset.preprocessing.side
    pixels = torch.empty(1, 3, side, side, device=META)
    image = dict.fromkeys(FLOWS, counted(lambda: model.get_image_features(pixel_values=pixels)))
    image["ours"] = passes.encode(passes.model.global_view, Size(side, side))  # no block behind the features
    return {
        unsure: {flow: flow_work(flow, passes, lengths, image[flow], unsure=unsure) for flow in FLOWS}
        for unsure in (True, False)
    }


def bench_flops(preset: Preset, run: FlopsRun) -> dict[str, Any]:
    """Count a preset's FLOPs, without weights: the report, for JSON; at its top the ratios of ours."""
    lengths = Lengths.of(preset, TYPICAL_QUESTION, run.new_tokens)
    rows = flow_rows(preset, lengths, run.retransmission_rate)
    ours = next(row for row in rows if row["flow"] == "ours")
    return {
        "flops_ratio": ours["ratio"],
        "relative_computation": ours["relative_computation"],
        **settings(run),
        "prompt_tokens": asdict(lengths),
        "environment": environment("cpu", "none: shapes only"),
        "rows": rows,
    }


def flow_rows(preset: Preset, lengths: Lengths, retransmission_rate: float) -> list[dict[str, Any]]:
    """FLOPs of each flow, from the start of an unsure request to each milestone.

    Relative computation is over one plain answer from the global image (Song & Kim, arXiv 2512.16349): of
    sure requests, of unsure ones, and at the retransmission rate r, (1 - r) · sure + r · unsure.
    """
    work = work_of(preset, lengths)
    plain, published = (work[unsure]["reference"]["final_answer"].flops for unsure in (False, True))
    rows = []
    for flow, milestones in work[True].items():
        flops = {str(metric): done.flops for metric, done in milestones.items()}
        alone, twice = (work[unsure][flow]["final_answer"].flops / plain for unsure in (False, True))
        rows.append(
            {
                "flow": flow,
                **flops,
                "ratio": flops["final_answer"] / published,
                "relative_computation_sure": alone,
                "relative_computation_unsure": twice,
                "relative_computation": (1 - retransmission_rate) * alone + retransmission_rate * twice,
            }
        )
    return rows


def look_flops(
    passes: PassFlops, original: Size, first: FirstLook, second: Look | None, *, only: bool = False
) -> tuple[int, int | None]:
    """FLOPs of the engine's work for a first look, and what a second look of the same question adds.

    Args:
        only: no second look was to follow, so that no attention was read.
    """
    model, look, pending = passes.model, first.look, first.pending
    new, image = len(look.tokens), passes.encode(model.global_view, original)
    decided = min(new, Policy.decide_after)
    told = sum(not token.is_eos for token in look.tokens[:decided])
    rows = min(model.localisation.generated_rows, max(1, told))
    lengths = Lengths(0, look.prompt_tokens, 0, 0, new, decided, rows=rows)
    flow: FlowName = "reference" if only else "ours"
    once = flow_work(flow, passes, lengths, 0, unsure=False)["final_answer"].flops
    if second is None or pending is None:
        return image + once, None
    prompt = pending.question.prompt
    generic = len(pending.question.generic.ids) if model.localisation.generic else 0
    both, again = second.prompt_tokens, len(second.tokens)
    lengths = Lengths(prompt.shared, look.prompt_tokens, generic, both, new, decided, again, rows)
    twice = flow_work("ours", passes, lengths, 0, unsure=True)["final_answer"].flops
    return image + once, twice - once + passes.encode(model.local_view, pending.region.size)


def flow_work(
    flow: FlowName, passes: PassFlops, lengths: Lengths, image: int, *, unsure: bool
) -> dict[Metric, Work]:
    """The work of a request from its start to each milestone; a sure one has no region.

    Args:
        image: FLOPs of encoding one picture.
    """
    if flow == "ours":
        return _engine(passes, lengths, image, unsure)
    return _published(passes, lengths, image, flow, unsure)


def _published(
    passes: PassFlops, lengths: Lengths, image: int, flow: FlowName, unsure: bool
) -> dict[Metric, Work]:
    """`generate`, two complete passes, `generate` on two images.

    The reference computes logits for every position of the complete passes. The stronger flows do not, but
    every query that they decode is given all keys of a static cache.
    """
    n, g, two, new = lengths.question, lengths.generic, lengths.both, lengths.new
    again = new if lengths.again is None else lengths.again
    static, once = flow != "reference", flow == "encoding_once"
    first = Work(image + passes.decoder(n, n) + passes.logits())
    answer = first + _decoding(passes, n, new, static=static)
    if not unsure:
        return {"first_token": first, "first_answer": answer, "final_answer": answer}
    region = answer
    for length in (n, g):
        logits = passes.logits(1 if static else length)
        region += Work(image * (not once) + passes.decoder(length, length) + logits)
    second = Work(image * (1 if once else 2) + passes.decoder(two, two) + passes.logits())
    final = region + second + _decoding(passes, two, again, static=static)
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _engine(passes: PassFlops, lengths: Lengths, image: int, unsure: bool) -> dict[Metric, Work]:
    """Global image and question in one pass; after the first tokens the generic question through the probe
    layer; the second look after the kept prefix, the rest of the first answer in the same decode steps."""
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    again = lengths.new if lengths.again is None else lengths.again
    first = Work(image + passes.decoder(n, n) + passes.row(n) * (not lengths.rows) + passes.logits())
    answer = first + _decoding(passes, n, lengths.new)
    if not unsure:
        return {"first_token": first, "first_answer": answer, "final_answer": answer}
    probe = Work(passes.probe(g - prefix, g)) if g else Work()
    if lengths.rows:
        keys = n + lengths.rows
        probe += Work(passes.probe(lengths.rows, keys) + passes.row(keys) * (lengths.rows - 1))
    region, answer = first + _decoding(passes, n, lengths.decided) + probe, answer + probe
    second = Work(image + passes.decoder(two - prefix, two) + passes.logits())
    rest = Work(sequential=answer.sequential - region.sequential)
    final = region + second + rest + _decoding(passes, two, again)
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _decoding(passes: PassFlops, prompt: int, new: int, *, static: bool = False) -> Work:
    """Every token but the first, each with the keys so far, or with all `prompt + new - 1` of a static
    cache."""
    keys = [prompt + (new - 1 if static else step) for step in range(1, new)]
    return Work(sequential=sum(passes.decoder(1, each) + passes.logits() for each in keys), steps=len(keys))
