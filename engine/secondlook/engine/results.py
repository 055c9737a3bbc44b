"""What the looks come to: plain values, from whichever engine to whoever asked. Without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import Answer, AnswerOptions, LookSeconds, Relevance
from secondlook.engine.decode.token_options import ONLY_TOKENS, Likeliest, TokenOptions
from secondlook.engine.method.decision import FinalDecision, FirstDecision
from secondlook.engine.method.policy import Policy, keep_second
from secondlook.engine.method.uncertainty import TokenStatistics

if TYPE_CHECKING:
    from secondlook.engine.method.maps import AttentionMaps

__all__ = [
    "FinalAnswer",
    "FirstLook",
    "LocalImage",
    "Look",
    "Pending",
    "Question",
    "RegionSource",
    "Usage",
]

RegionSource = Literal["attention", "pointing", "request", "not_found"]
"""Who chose where to look closer: the model's attention, the model in words, whoever asked; nobody could."""


@dataclass(frozen=True, eq=False)
class Question:
    """A question about one picture, checked; what its engine needs besides is its subclass's.

    Attributes:
        text: as it was asked.
        original: size of the picture that it is about.
        policy: the engine's, with the options put over it.
        max_new_tokens: of each answer.
        client: whose picture it is: what was computed for one client's picture is never another's.
        wanted: of the tokens of each answer.
    """

    text: str
    original: Size
    options: AnswerOptions
    policy: Policy
    max_new_tokens: int
    client: str = ""
    wanted: TokenOptions = ONLY_TOKENS

    def __post_init__(self) -> None:
        """Raise GeometryError where the options' region reaches outside the original."""
        if self.region is not None and not self.region.within(self.original):
            raise GeometryError(
                f"region {self.region} reaches outside the original of {self.original} pixels"
            )

    @property
    def region(self) -> Region | None:
        """Where to look closer, if the request says so."""
        box = self.options.region
        return None if box is None else Region(box.left, box.top, box.right, box.bottom)

    @property
    def nbytes(self) -> int:
        """What it takes in memory: its picture above all."""
        return 0


@dataclass(frozen=True)
class Look:
    """One look's answer.

    Attributes:
        tokens: the doubt about each output token, the end token included.
        prompt_tokens, visual_tokens: rows of the prompt, and those of them that are of pictures.
        uncertainty: G, their one number under the policy asked for.
        likeliest: for each token the likeliest at its place, where that was asked for.
        cached_tokens: rows of the prompt whose keys and values were there before; of no say in what is equal.
        end_untold: whether it ended by itself, though its end token is not among those known.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[TokenStatistics, ...]
    uncertainty: float
    prompt_tokens: int
    visual_tokens: int
    likeliest: tuple[Likeliest, ...] = ()
    cached_tokens: int = field(default=0, compare=False)
    end_untold: bool = False

    @property
    def ended(self) -> bool:
        """Whether it ended by itself, and not at the most tokens asked for."""
        return self.end_untold or self.tokens[-1].is_eos

    @property
    def answer(self) -> Answer:
        """As it travels to the edge."""
        return Answer(
            text=self.text,
            uncertainty=self.uncertainty,
            tokens=len(self.tokens),
            visual_tokens=self.visual_tokens,
        )


@dataclass(frozen=True, eq=False)
class Pending:
    """Everything a second look needs besides the local image; what its engine keeps is its subclass's.

    Attributes:
        counted: whether the engine's budget counts it.
        source: who chose the region.
    """

    question: Question
    first: Look
    region: Region
    counted: bool = False
    source: RegionSource | None = None


@dataclass(frozen=True, eq=False)
class LocalImage:
    """A region's picture as the second look of one engine takes it, in a subclass of that."""


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What the first look came to.

    Attributes:
        look: its answer.
        decision: "unsure" when a second look is wanted (also when it was demanded); otherwise why it is not.
        region: where to look closer; None unless that was sought, or given.
        pending: continues with `Engine.second_look`; None when the answer is final.
        maps: what a region is found in; None unless one was sought, or `relevance` was asked for.
        seconds: time per stage.
        relevance: the maps as they travel; None unless asked for.
        source: who chose the region; "not_found": it was sought in vain, so that an unsure answer is final.
    """

    look: Look
    decision: FirstDecision
    region: Region | None
    pending: Pending | None
    maps: AttentionMaps | None
    seconds: LookSeconds
    relevance: Relevance | None = None
    source: RegionSource | None = None

    @property
    def nbytes(self) -> int:
        """What the question and the maps take in memory: what is kept for a second look.

        Keys and values are not among it: they are given up where there is no room.
        """
        kept = 0 if self.pending is None else self.pending.question.nbytes
        return kept + (0 if self.maps is None else self.maps.nbytes)

    @property
    def text(self) -> str:
        return self.look.text

    @property
    def tokens(self) -> tuple[TokenStatistics, ...]:
        return self.look.tokens

    @property
    def uncertainty(self) -> float:
        return self.look.uncertainty


@dataclass(frozen=True)
class FinalAnswer:
    """Both looks, and which one stands.

    Attributes:
        seconds: time per stage, of the second look alone.
        source: who chose the region.
    """

    first: Look
    second: Look
    decision: FinalDecision
    region: Region
    seconds: LookSeconds
    source: RegionSource | None = None

    @classmethod
    def kept(cls, pending: Pending, first: Look, second: Look, seconds: LookSeconds) -> FinalAnswer:
        """The surer of both looks, as the question's policy has it."""
        better = keep_second(first.uncertainty, second.uncertainty, pending.question.policy)
        decision: FinalDecision = "took_second" if better else "kept_first"
        return cls(first, second, decision, pending.region, seconds, pending.source)

    @property
    def look(self) -> Look:
        """The one that stands."""
        return self.second if self.decision == "took_second" else self.first


@dataclass(frozen=True)
class Usage:
    """What an engine's cache is used for, and was.

    Attributes:
        slots, used, kept: there are, have a look computed in them, are kept for a further one.
        prefix_queries, prefix_hits: rows of all prompts so far, and those of them that were kept.
        recomputed: prefixes that were given up, and computed again for a second look.
    """

    slots: int
    used: int
    kept: int
    prefix_queries: int
    prefix_hits: int
    recomputed: int
