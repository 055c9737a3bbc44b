"""What the looks come to: plain values, from the engine to whoever asked."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import Answer, AnswerOptions, LookSeconds, Relevance
from secondlook.engine.decode.cache import KeptPrefix, PrefixClaim
from secondlook.engine.decode.token_options import ONLY_TOKENS, Likeliest, TokenOptions
from secondlook.engine.method.decision import FinalDecision, FirstDecision
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.base import Prompt, QuestionTokens
from secondlook.engine.models.pictures import Picture
from secondlook.kernels import relative_attention

__all__ = ["AttentionMaps", "FinalAnswer", "FirstLook", "LocalImage", "Look", "Pending", "Question", "Usage"]


@dataclass(frozen=True, eq=False)
class Question:
    """A question about one picture, checked and tokenised; made by `Engine.prepare`.

    Attributes:
        tokens: of the question, for both looks.
        picture: the global image.
        prompt: of the first look.
        generic: the generic question's, about the same picture.
        policy: the engine's, with the options put over it.
        max_new_tokens: of each answer.
        wanted: of the tokens of each.
        client: whose picture it is: what was computed for one client's picture is never another's.
    """

    tokens: QuestionTokens
    picture: Picture
    prompt: Prompt
    generic: Prompt
    options: AnswerOptions
    policy: Policy
    max_new_tokens: int
    client: str = ""
    wanted: TokenOptions = ONLY_TOKENS

    @property
    def text(self) -> str:
        return self.tokens.text

    @property
    def original(self) -> Size:
        return self.picture.shown

    @property
    def region(self) -> Region | None:
        """Where to look closer, if the request says so."""
        box = self.options.region
        return None if box is None else Region(box.left, box.top, box.right, box.bottom)


@dataclass(frozen=True)
class Look:
    """One look's answer.

    Attributes:
        tokens: the doubt about each output token, the end token included.
        prompt_tokens, visual_tokens: rows of the prompt, and those of them that are of pictures.
        uncertainty: G, their one number under the policy asked for.
        likeliest: for each token the likeliest at its place, where that was asked for.
        cached_tokens: rows of the prompt whose keys and values were there before; of no say in what is equal.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[TokenStatistics, ...]
    uncertainty: float
    prompt_tokens: int
    visual_tokens: int
    likeliest: tuple[Likeliest, ...] = ()
    cached_tokens: int = field(default=0, compare=False)

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
class AttentionMaps:
    """Attention to the global image's tokens, still on the model's device.

    Attributes:
        question: [rows, columns] float32, for the question asked.
        generic: the same for the generic one; ones where it is not divided by that.
    """

    question: Tensor
    generic: Tensor

    def relative(self) -> NDArray[np.float64]:
        """question / generic, [rows, columns]: what the region is sought in. Waits for the device."""
        found: NDArray[np.float64] = relative_attention(self.question, self.generic).cpu().numpy()
        return found

    def relevance(self) -> Relevance:
        """The same as it travels: a byte a cell. Waits for the device."""
        relative = self.relative()
        most = relative.max()
        cells = np.round(relative * (255 / most) if most > 0 else relative).astype(np.uint8)
        rows, columns = cells.shape
        return Relevance(width=columns, height=rows, data=b64encode(cells.tobytes()).decode())


@dataclass(frozen=True, eq=False)
class Pending:
    """Everything a second look needs besides the local image.

    Attributes:
        question: its picture is what keys and values are computed from again when they were given up.
        prefix: the global image's keys and values, while there is room for them; None where the engine keeps
            such things itself.
        counted: whether the engine's budget counts it.
        claim: while this is held, prefixes that nobody needs are given up before.
    """

    question: Question
    prefix: KeptPrefix | None
    first: Look
    region: Region
    counted: bool = False
    claim: PrefixClaim | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class LocalImage:
    """A region's picture as the second look takes it; made by `Engine.prepare_local`.

    Attributes:
        prompt: of both images and the question.
    """

    picture: Picture
    prompt: Prompt


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
    """

    look: Look
    decision: FirstDecision
    region: Region | None
    pending: Pending | None
    maps: AttentionMaps | None
    seconds: LookSeconds
    relevance: Relevance | None = None

    @property
    def nbytes(self) -> int:
        """What the picture, the prompts and the maps take in memory: what is kept for a second look.

        Keys and values are not among it: they are given up where there is no room.
        """
        asked = None if self.pending is None else self.pending.question
        kept = (
            0 if asked is None else sum(x.nbytes for x in (asked.picture.pixels, asked.prompt, asked.generic))
        )
        return kept + (0 if self.maps is None else self.maps.question.nbytes + self.maps.generic.nbytes)

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
    """

    first: Look
    second: Look
    decision: FinalDecision
    region: Region
    seconds: LookSeconds

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
