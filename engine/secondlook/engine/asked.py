"""What this engine makes of a question, beside what any engine knows of it (`secondlook.engine.results`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from secondlook.engine.decode.cache import KeptPrefix, PrefixClaim
from secondlook.engine.models.base import Prompt, QuestionTokens
from secondlook.engine.models.pictures import Picture
from secondlook.engine.results import LocalImage, Pending, Question

__all__ = ["KeptPending", "TokenisedImage", "TokenisedQuestion", "own_image", "own_pending", "own_question"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenisedQuestion(Question):
    """A question, tokenised; made by `Engine.prepare`.

    Attributes:
        tokens: of the question, for both looks.
        picture: the global image.
        prompt: of the first look.
        generic: the generic question's, about the same picture.
    """

    tokens: QuestionTokens
    picture: Picture
    prompt: Prompt
    generic: Prompt

    @property
    def nbytes(self) -> int:
        """What the picture and the prompts take in memory."""
        return self.picture.pixels.nbytes + self.prompt.nbytes + self.generic.nbytes


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptPending(Pending):
    """What a second look goes on from.

    Attributes:
        prefix: the global image's keys and values, while there is room for them; else they are computed
            again from the question's picture. None where the engine keeps such things itself.
        claim: while this is held, prefixes that nobody needs are given up before.
    """

    prefix: KeptPrefix | None
    claim: PrefixClaim | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class TokenisedImage(LocalImage):
    """A region's picture as the second look takes it; made by `Engine.prepare_local`.

    Attributes:
        prompt: of both images and the question.
    """

    picture: Picture
    prompt: Prompt


def own_question(question: Question) -> TokenisedQuestion:
    """A question of this engine's, as it knows it."""
    assert isinstance(question, TokenisedQuestion), "a question is asked of the engine that prepared it"
    return question


def own_pending(pending: Pending) -> KeptPending:
    """Likewise what a first look left for the second."""
    assert isinstance(pending, KeptPending), "a second look is that of the engine that had the first"
    return pending


def own_image(local: LocalImage) -> TokenisedImage:
    """Likewise the local image."""
    assert isinstance(local, TokenisedImage), "it is looked at by the engine that prepared it"
    return local
