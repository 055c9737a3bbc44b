"""What each flow computes until each of its milestones: passes put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.flow import Metric
from secondlook.benchmarks.latency.subject import Preset
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.prompts import GENERIC_QUESTION

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
        question, generic: whole prompts with the global image.
        both: the whole prompt with global and local image.
        new: of each answer.
        decided: of the first answer, when the engine decides whether to look again.
        again: of the second answer, if not as many as of the first.
    """

    prefix: int
    question: int
    generic: int
    both: int
    new: int
    decided: int
    again: int | None = None

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


def flow_work(
    flow: FlowName, passes: PassFlops, lengths: Lengths, probe_layer: int, *, unsure: bool
) -> dict[Metric, Work]:
    """The work of a request from its start to each milestone; a sure one has no region."""
    if flow == "ours":
        return _engine(passes, lengths, probe_layer, unsure)
    return _published(passes, lengths, flow, unsure)


def _published(passes: PassFlops, lengths: Lengths, flow: FlowName, unsure: bool) -> dict[Metric, Work]:
    """`generate`, two complete passes, `generate` on two images.

    The reference computes logits for every position of the complete passes. The stronger flows do not, but
    every query that they decode is given all keys of a static cache.
    """
    n, g, two, new = lengths.question, lengths.generic, lengths.both, lengths.new
    again = new if lengths.again is None else lengths.again
    static, once = flow != "reference", flow == "encoding_once"
    first = Work(passes.encode() + passes.decoder(n, n) + passes.logits())
    answer = first + _decoding(passes, n, new, static=static)
    if not unsure:
        return {"first_token": first, "first_answer": answer, "final_answer": answer}
    region = answer
    for length in (n, g):
        logits = passes.logits(1 if static else length)
        region += Work(passes.encode(0 if once else 1) + passes.decoder(length, length) + logits)
    second = Work(passes.encode(1 if once else 2) + passes.decoder(two, two) + passes.logits())
    final = region + second + _decoding(passes, two, again, static=static)
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _engine(passes: PassFlops, lengths: Lengths, probe_layer: int, unsure: bool) -> dict[Metric, Work]:
    """Global image and question in one pass; after the first tokens the generic question through the probe
    layer; the second look after the kept prefix, the rest of the first answer in the same decode steps."""
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    again = lengths.new if lengths.again is None else lengths.again
    encode = passes.encode(features_only=True)
    first = Work(encode + passes.decoder(n, n) + passes.row(n) + passes.logits())
    answer = first + _decoding(passes, n, lengths.new)
    if not unsure:
        return {"first_token": first, "first_answer": answer, "final_answer": answer}
    probe = Work(passes.probe(g - prefix, g, probe_layer))
    region, answer = first + _decoding(passes, n, lengths.decided) + probe, answer + probe
    second = Work(encode + passes.decoder(two - prefix, two) + passes.logits())
    rest = Work(sequential=answer.sequential - region.sequential)
    final = region + second + rest + _decoding(passes, two, again)
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _decoding(passes: PassFlops, prompt: int, new: int, *, static: bool = False) -> Work:
    """Every token but the first, each with the keys so far, or with all `prompt + new - 1` of a static
    cache."""
    keys = [prompt + (new - 1 if static else step) for step in range(1, new)]
    return Work(sequential=sum(passes.decoder(1, each) + passes.logits() for each in keys), steps=len(keys))
