"""What each flow computes until each of its milestones: passes put together; and the FLOPs benchmark."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import Any, Final, Literal

import torch
from transformers import GenerationMixin

from secondlook.benchmarks.latency.flow import ORIGINAL, Metric
from secondlook.benchmarks.latency.subject import Preset, random_model
from secondlook.benchmarks.options import FlopsRun
from secondlook.edge.geometry import Size
from secondlook.engine.asked import own_question
from secondlook.engine.errors import UnsupportedModelError
from secondlook.engine.flops import META, PassFlops, blank, counted
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import Picture, Prompt, QuestionTokens, VisionLanguageModel
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.results import FirstLook, Look

FlowName = Literal["reference", "strong", "encoding_once", "high_resolution", "ours"]

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
        shared: of the generic prompt, so many that need not be computed, for the question's begins with them.
    """

    prefix: int
    question: int
    generic: int
    both: int
    new: int
    decided: int
    again: int | None = None
    rows: int = 0
    shared: int = 0

    @classmethod
    def of(
        cls, model: VisionLanguageModel, question: str, new_tokens: int, region: Size | None = None
    ) -> Lengths:
        """Of a question's prompts about an original of `ORIGINAL` pixels; region: see `looked_at`."""
        asked, generic = model.tokens(question), model.tokens(GENERIC_QUESTION)
        whole = blank(model, model.global_view, ORIGINAL)
        local = blank(model, model.local_view, looked_at(model, region))
        prompt = model.prompt(asked, [whole.grid])
        return cls(
            prefix=prompt.shared,
            question=len(prompt.ids),
            generic=len(model.prompt(generic, [whole.grid]).ids) if model.localisation.generic else 0,
            both=len(model.prompt(asked, [whole.grid, local.grid]).ids),
            new=new_tokens,
            decided=min(new_tokens, Policy.decide_after),
            shared=_shared(model, whole, asked, prompt),
        )


@dataclass(frozen=True)
class Pictures:
    """FLOPs of the pictures of one request.

    Attributes:
        whole, local: of encoding the global image, and the local one.
        question, generic: of reading an encoded one for either question (`condition`).
    """

    whole: int = 0
    local: int = 0
    question: int = 0
    generic: int = 0


def looked_at(model: VisionLanguageModel, region: Size | None = None) -> Size:
    """A region's size; of none that is known the largest that is tried, for the most that a look computes."""
    side = round(model.localisation.crop_size * model.localisation.ratios[-1])
    return region or Size(min(side, ORIGINAL.width), min(side, ORIGINAL.height))


def flows_of(preset: Preset) -> tuple[FlowName, ...]:
    """The flows that there are for a preset: not all of transformers' models take what was encoded before,
    and one that sees tiles takes no picture without."""
    with suppress(UnsupportedModelError):
        preset.shapes.high_resolution()
        return "high_resolution", "ours"
    kind = type(preset.shapes.module)
    parameters = signature(kind.forward).parameters
    takes = "mm_encoder_outputs" in parameters and kind.generate is GenerationMixin.generate
    return ("reference", "strong", "encoding_once", "ours") if takes else ("reference", "strong", "ours")


def work_of(
    preset: Preset, question: str, new_tokens: int, *, region: Size | None = None, masked: bool = True
) -> dict[bool, dict[FlowName, dict[Metric, Work]]]:
    """Of unsure requests (True) and sure ones, by flow, until each milestone; `region` as for `looked_at`,
    `masked` as for `PassFlops`."""
    model, passes = preset.shapes, PassFlops(preset.shapes, masked=masked)
    lengths = Lengths.of(model, question, new_tokens, region)
    ours = Pictures(
        passes.encode(model.global_view, ORIGINAL),
        passes.encode(model.local_view, looked_at(model, region)),
        *(passes.condition(model.tokens(asked)) for asked in (question, GENERIC_QUESTION)),
    )
    if flows_of(preset)[0] == "high_resolution":
        high = model.high_resolution()
        one = _one_look(PassFlops(high, masked=masked), question, new_tokens)
        return {
            unsure: {
                "high_resolution": one,
                "ours": flow_work("ours", passes, lengths, ours, unsure=unsure),
            }
            for unsure in (True, False)
        }
    theirs = _theirs(preset, ours)
    pictures = {flow: ours if flow == "ours" else theirs for flow in flows_of(preset)}
    return {
        unsure: {
            flow: flow_work(flow, passes, lengths, each, unsure=unsure) for flow, each in pictures.items()
        }
        for unsure in (True, False)
    }


def _one_look(passes: PassFlops, question: str, new_tokens: int) -> dict[Metric, Work]:
    """`generate` with the global image alone."""
    model = passes.model
    picture = blank(model, model.global_view, ORIGINAL)
    length = len(model.prompt(model.tokens(question), [picture.grid]).ids)
    lengths = Lengths(0, length, 0, 0, new=new_tokens, decided=0)
    return flow_work("reference", passes, lengths, Pictures(_their_encoding(model)), unsure=False)


def _theirs(preset: Preset, ours: Pictures) -> Pictures:
    """What transformers' own encoder computes.

    Where no blocks are behind the features, ours compute the same, but for the padding of windows at a
    picture's edges; such an encoder need not be countable on shapes.
    """
    if not hasattr(preset.config, "vision_feature_layer"):
        return ours
    whole = _their_encoding(preset.shapes)
    return replace(ours, whole=whole, local=whole)


def _their_encoding(model: VisionLanguageModel) -> int:
    """FLOPs of transformers' own encoder for the global image, blocks behind the features too."""
    inputs = model.pixel_inputs([blank(model, model.global_view, ORIGINAL)])
    encoder = random_model(model.module.config, torch.float32, META).get_image_features
    return counted(lambda: encoder(**inputs))


def _shared(model: VisionLanguageModel, picture: Picture, asked: QuestionTokens, prompt: Prompt) -> int:
    keys = {model.prefix_key(picture, one) for one in (asked, model.tokens(GENERIC_QUESTION))}
    return prompt.shared if len(keys) == 1 else 0


def bench_flops(preset: Preset, run: FlopsRun) -> dict[str, Any]:
    """Count a preset's FLOPs of each flow, without weights, from the start of an unsure request to each
    milestone: the report, for JSON; at its top the ratios of ours.

    Relative computation is over one plain answer of the first flow's, from one image (Song & Kim, arXiv
    2512.16349): of sure requests, of unsure ones, and at the retransmission rate r, (1 - r) · sure + r ·
    unsure.
    """
    work, rate = work_of(preset, TYPICAL_QUESTION, run.new_tokens), run.retransmission_rate
    baseline = flows_of(preset)[0]
    plain, published = (work[unsure][baseline]["final_answer"].flops for unsure in (False, True))
    rows = list[dict[str, Any]]()
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
                "relative_computation": (1 - rate) * alone + rate * twice,
            }
        )
    ours = next(row for row in rows if row["flow"] == "ours")
    return {
        "flops_ratio": ours["ratio"],
        "relative_computation": ours["relative_computation"],
        "prompt_tokens": asdict(Lengths.of(preset.shapes, TYPICAL_QUESTION, run.new_tokens)),
        "rows": rows,
    }


def look_flops(
    passes: PassFlops,
    original: Size,
    question: str,
    first: FirstLook,
    second: Look | None,
    *,
    only: bool = False,
) -> tuple[int, int | None]:
    """FLOPs of the engine's work for a first look, and what a second look of the same question adds.

    Args:
        only: no second look was to follow, so that no attention was read.
    """
    model, look, pending = passes.model, first.look, first.pending
    new, asked, generic = len(look.tokens), model.tokens(question), model.tokens(GENERIC_QUESTION)
    decided = min(new, Policy.decide_after)
    told = sum(not token.is_eos for token in look.tokens[:decided])
    rows = min(model.localisation.generated_rows, max(1, told))
    lengths = Lengths(0, look.prompt_tokens, 0, 0, new, decided, rows=rows)
    pictures = Pictures(passes.encode(model.global_view, original), question=passes.condition(asked))
    flow: FlowName = "reference" if only else "ours"
    once = flow_work(flow, passes, lengths, pictures, unsure=False)["final_answer"].flops
    if second is None or pending is None:
        return once, None
    kept = own_question(pending.question)
    prompt = kept.prompt
    lengths = replace(
        lengths,
        prefix=prompt.shared,
        generic=len(kept.generic.ids) if model.localisation.generic else 0,
        both=second.prompt_tokens,
        again=len(second.tokens),
        shared=_shared(model, kept.picture, asked, prompt),
    )
    local = passes.encode(model.local_view, pending.region.size)
    pictures = replace(pictures, local=local, generic=passes.condition(generic))
    return once, flow_work("ours", passes, lengths, pictures, unsure=True)["final_answer"].flops - once


def flow_work(
    flow: FlowName, passes: PassFlops, lengths: Lengths, pictures: Pictures, *, unsure: bool
) -> dict[Metric, Work]:
    """The work of a request from its start to each milestone; a sure one has no region."""
    if flow == "ours":
        return _engine(passes, lengths, pictures, unsure)
    return _published(passes, lengths, pictures, flow, unsure)


def _published(
    passes: PassFlops, lengths: Lengths, pictures: Pictures, flow: FlowName, unsure: bool
) -> dict[Metric, Work]:
    """`generate`, two complete passes, `generate` on two images.

    The reference computes logits for every position of the complete passes. The stronger flows do not, but
    every query that they decode is given all keys of a static cache. Who encodes once reads no questions.
    """
    n, g, two, new = lengths.question, lengths.generic, lengths.both, lengths.new
    again = new if lengths.again is None else lengths.again
    static, once = flow != "reference", flow == "encoding_once"
    seen, generic = pictures.whole + pictures.question, pictures.whole + pictures.generic
    first = Work(seen + passes.decoder(n, n) + passes.logits())
    answer = first + _decoding(passes, n, new, static=static)
    if not unsure:
        return {"first_token": first, "first_answer": answer, "final_answer": answer}
    region = answer
    for length, image in ((n, seen), (g, generic)) if g else ((n, seen),):
        logits = passes.logits(1 if static else length)
        region += Work(image * (not once) + passes.decoder(length, length) + logits)
    images = pictures.local + pictures.question + seen * (not once)
    second = Work(images + passes.decoder(two, two) + passes.logits())
    final = region + second + _decoding(passes, two, again, static=static)
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _engine(passes: PassFlops, lengths: Lengths, pictures: Pictures, unsure: bool) -> dict[Metric, Work]:
    """Global image and question in one pass; after the first tokens the generic question through the probe
    layer; the second look after the kept prefix, the rest of the first answer in the same decode steps."""
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    again = lengths.new if lengths.again is None else lengths.again
    row = passes.row(n) * (not lengths.rows)
    first = pictures.whole + pictures.question + passes.decoder(n, n) + row + passes.logits()
    answer = Work(first) + _decoding(passes, n, lengths.new)
    if not unsure:
        return {"first_token": Work(first), "first_answer": answer, "final_answer": answer}
    probe = Work(pictures.generic + passes.probe(g - lengths.shared, g)) if g else Work()
    if lengths.rows:
        keys = n + lengths.rows
        probe += Work(passes.probe(lengths.rows, keys) + passes.row(keys) * (lengths.rows - 1))
    region, answer = Work(first) + _decoding(passes, n, lengths.decided) + probe, answer + probe
    local = pictures.local + pictures.question
    second = Work(local + passes.decoder(two - prefix, two) + passes.logits())
    rest = Work(sequential=answer.sequential - region.sequential)
    final = region + second + rest + _decoding(passes, two, again)
    return {"first_token": Work(first), "first_answer": answer, "region": region, "final_answer": final}


def _decoding(passes: PassFlops, prompt: int, new: int, *, static: bool = False) -> Work:
    """Every token but the first, each with the keys so far, or with all `prompt + new - 1` of a static
    cache."""
    keys = [prompt + (new - 1 if static else step) for step in range(1, new)]
    return Work(sequential=sum(passes.decoder(1, each) + passes.logits() for each in keys), steps=len(keys))
