"""What each flow computes until each of its milestones: passes put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.flow import Metric
from secondlook.engine.prompts import GENERIC_QUESTION, PromptLayout

__all__ = ["FLOWS", "TYPICAL_QUESTION", "FlowName", "Lengths", "Work", "flow_work"]

FlowName = Literal["reference", "strong", "ours"]
FLOWS: Final[tuple[FlowName, ...]] = get_args(FlowName)

TYPICAL_QUESTION: Final = "What number is on the red sign?"
"""As long as those of the latency benchmark."""


@dataclass(frozen=True)
class Work:
    """FLOPs of passes over many tokens at once, FLOPs of decoding one by one, and how many of those steps."""

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
    """

    prefix: int
    question: int
    generic: int
    both: int
    new: int

    @classmethod
    def of(cls, layout: PromptLayout, question: str, new_tokens: int) -> Lengths:
        """The lengths that a question's prompts have in a layout."""
        return cls(
            prefix=len(layout.prefix),
            question=len(layout.build(question, 1, new_tokens).ids),
            generic=len(layout.build(GENERIC_QUESTION, 1, 1).ids),
            both=len(layout.build(question, 2, new_tokens).ids),
            new=new_tokens,
        )


def flow_work(flow: FlowName, passes: PassFlops, lengths: Lengths, probe_layer: int) -> dict[Metric, Work]:
    """The work of an unsure request from its start to each milestone; a sure one ends with "first_answer"."""
    if flow == "ours":
        return _engine(passes, lengths, probe_layer)
    return _published(passes, lengths, strong=flow == "strong")


def _published(passes: PassFlops, lengths: Lengths, strong: bool) -> dict[Metric, Work]:
    """`generate`, two complete passes, `generate` on two images.

    The reference computes logits for every position of the complete passes. The strong flow does not, but
    every query in its `generate` is given all keys of a static cache.
    """
    n, g, two, new = lengths.question, lengths.generic, lengths.both, lengths.new
    one_cache, two_cache = (n + new - 1, two + new - 1) if strong else (n, two)
    first = Work(passes.encode() + passes.decoder(n, one_cache) + passes.logits())
    answer = first + _decoding(passes, n, new, static=strong)
    region = answer
    for length in (n, g):
        logits = passes.logits(1 if strong else length)
        region += Work(passes.encode() + passes.decoder(length, length) + logits)
    second = Work(passes.encode(2) + passes.decoder(two, two_cache) + passes.logits())
    return _milestones(first, answer, region, region + second + _decoding(passes, two, new, static=strong))


def _engine(passes: PassFlops, lengths: Lengths, probe_layer: int) -> dict[Metric, Work]:
    """Global image and question in one pass; the generic question through the probe layer; the second look
    after the kept prefix."""
    n, g, two, prefix = lengths.question, lengths.generic, lengths.both, lengths.prefix
    first = Work(passes.encode() + passes.decoder(n, n) + passes.row(n) + passes.logits())
    answer = first + _decoding(passes, n, lengths.new)
    region = answer + Work(passes.probe(g - prefix, g, probe_layer))
    second = Work(passes.encode() + passes.decoder(two - prefix, two) + passes.logits())
    return _milestones(first, answer, region, region + second + _decoding(passes, two, lengths.new))


def _milestones(first: Work, answer: Work, region: Work, final: Work) -> dict[Metric, Work]:
    return {"first_token": first, "first_answer": answer, "region": region, "final_answer": final}


def _decoding(passes: PassFlops, prompt: int, new: int, *, static: bool = False) -> Work:
    """Every token but the first, each with the keys so far, or with all `prompt + new - 1` of a static
    cache."""
    keys = [prompt + (new - 1 if static else step) for step in range(1, new)]
    return Work(sequential=sum(passes.decoder(1, each) + passes.logits() for each in keys), steps=len(keys))
