"""What the looks come to: plain values, from the engine to whoever asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secondlook.edge.geometry import Region
from secondlook.edge.wire import Answer, LookSeconds
from secondlook.engine.decode.cache import KeptPrefix, PrefixClaim
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.vision import Square
from secondlook.kernels import relative_attention

__all__ = ["AttentionMaps", "FinalAnswer", "FinalDecision", "FirstDecision", "FirstLook", "Look", "Pending"]

FirstDecision = Literal["sure", "no_detail_to_gain", "disabled", "unsure"]
FinalDecision = Literal["kept_first", "took_second"]


@dataclass(frozen=True)
class Look:
    """One look's answer.

    Attributes:
        tokens: the doubt about each output token, the end token included.
        uncertainty: G, their one number under the policy asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[TokenStatistics, ...]
    uncertainty: float

    @property
    def answer(self) -> Answer:
        """As it travels to the edge."""
        return Answer(text=self.text, uncertainty=self.uncertainty, tokens=len(self.tokens))


@dataclass(frozen=True)
class AttentionMaps:
    """Attention to the global image's tokens, still on the model's device.

    Attributes:
        question, generic: [rows, columns] float32, mean over heads, for the question asked and for the
            generic one.
    """

    question: Tensor
    generic: Tensor

    def relative(self) -> NDArray[np.float64]:
        """question / generic, [rows, columns]: what the region is sought in. Waits for the device."""
        found: NDArray[np.float64] = relative_attention(self.question, self.generic).cpu().numpy()
        return found


@dataclass(frozen=True)
class Pending:
    """Everything a second look needs besides the local image.

    Attributes:
        prefix: the global image's keys and values, while there is room for them.
        global_image: what they are computed from again when there was not.
        counted: whether the engine's budget counts it.
        claim: while this is held, prefixes that nobody needs are given up before.
    """

    prefix: KeptPrefix
    global_image: Square
    question: str
    first: Look
    region: Region
    policy: Policy
    max_new_tokens: int
    counted: bool = False
    claim: PrefixClaim | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class FirstLook:
    """What the first look came to.

    Attributes:
        look: its answer.
        decision: "unsure" when a second look is wanted (also when it was demanded); otherwise why it is not.
        region: where to look closer; None unless it was sought.
        pending: continues with `Engine.second_look`; None when the answer is final.
        maps: what the region was found in; None unless it was sought.
        seconds: time per stage.
    """

    look: Look
    decision: FirstDecision
    region: Region | None
    pending: Pending | None
    maps: AttentionMaps | None
    seconds: LookSeconds

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
