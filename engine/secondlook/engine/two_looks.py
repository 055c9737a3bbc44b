"""Looking twice: from a global image and a question to an answer, or to a region worth a second look.

Song & Kim, arXiv 2512.16349, with the region of Zhang et al., arXiv 2502.17422. Nothing here knows of HTTP,
of any one model, or of what computes: that is what a subclass adds. Each look is a flow
(`secondlook.engine.decode.flows`), so that many run at once on one model. What waits for a local image is a
value, `Pending`; whoever holds it decides how long.

A question is checked and tokenised once, by `prepare`, on any thread; one thread does all the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from secondlook.edge.geometry import Region, Size, target
from secondlook.edge.wire import AnswerOptions, LookSeconds, ModelCard
from secondlook.engine.answers import Answers
from secondlook.engine.asked import (
    KeptPending,
    TokenisedImage,
    TokenisedQuestion,
    own_image,
    own_pending,
    own_question,
)
from secondlook.engine.decode.cache import KeptPrefix, PrefixClaim
from secondlook.engine.decode.flows import Decode, Flow, Flows, Request, Wait
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.method.budget import BudgetedThreshold
from secondlook.engine.method.decision import Decider
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.preparing import Preparer
from secondlook.engine.progress import InProgress, Stages
from secondlook.engine.results import (
    FinalAnswer,
    FirstLook,
    LocalImage,
    Look,
    Pending,
    Question,
    RegionSource,
    Usage,
)

if TYPE_CHECKING:
    from secondlook.engine.serve.protocol import Outside

__all__ = ["Looking", "TwoLooks"]


class Looking(Protocol):
    """A look in progress: its prompt is computed, and its answer's first token."""

    @property
    def slot(self) -> int:
        """What `Decode` knows its answer by."""
        ...

    @property
    def cached(self) -> int:
        """Rows of its prompt that were there before."""
        ...

    def maps(self, answer: tuple[int, ...], stages: Stages) -> Flow[AttentionMaps]:
        """What a region is found in; of first looks that were begun with `read`.

        Args:
            answer: its tokens so far, at least one.
        """
        ...

    def keep(self) -> tuple[KeptPrefix | None, PrefixClaim | None]:
        """Of a first look, what a second one goes on from, and who comes back to that."""
        ...

    def close(self) -> None:
        """Nothing more is wanted of it; once, however it ended."""
        ...


class TwoLooks(ABC):
    """Two looks with one model, whatever computes them.

    Args:
        model: the model.
        flows: what computes for the flows.
        policy: defaults for what a request leaves out; by default the checkpoint's threshold.
        region: how a region is sought; by default the checkpoint's.
        capacity: rows that a sequence may have, its answer included.
        max_question_characters: longest question taken, also by a server of this engine.
        budget: moves the threshold; see `secondlook.engine.method.decision`.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        flows: Flows,
        policy: Policy | None,
        region: RegionSettings | None,
        capacity: int,
        max_question_characters: int,
        budget: BudgetedThreshold | None,
    ) -> None:
        self.model = model
        self.policy = Policy(threshold=model.settings.default_threshold) if policy is None else policy
        self.region = model.localisation.region if region is None else region
        self.budget = budget
        self.max_question_characters = max_question_characters
        self._flows = flows
        self._decider = Decider(self.policy, model.global_view, budget, local_view=model.local_view)
        self._preparer = Preparer(model, self.policy, capacity, max_question_characters)
        self._answers = Answers(model)

    @property
    def outside(self) -> Outside | None:
        """What computes for it elsewhere; nothing, unless a subclass says otherwise."""
        return None

    @property
    def card(self) -> ModelCard:
        """What an edge must know to prepare pictures; under a budget with the threshold that it tracks."""
        return ModelCard(
            name=self.model.name,
            global_view=self.model.global_view,
            local_view=self.model.local_view,
            crop_size=self.region.crop_size,
            threshold=self._decider.threshold,
            precision=self.model.precision,
            gated=self.policy.gate is not None,
        )

    @property
    def context(self) -> str | None:
        """How an earlier answer is put behind a question; None: the checkpoint has not learnt to read it."""
        return self.model.settings.context

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as text, white space and all. May be called on any thread."""
        return [self.model.token_text(token) for token in token_ids]

    @property
    @abstractmethod
    def slots(self) -> int:
        """Sequences that can be computed at once."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What the cache is used for. May be asked for on any thread."""

    @abstractmethod
    def _begin_first(self, asked: TokenisedQuestion, stages: Stages, *, read: bool) -> Flow[Looking]:
        """Compute [global image | question], and the first token of the answer.

        Args:
            read: whether its maps may be wanted.
        """

    @abstractmethod
    def _begin_second(self, pending: KeptPending, local: TokenisedImage, stages: Stages) -> Flow[Looking]:
        """Compute [global image | local image | question], and the first token of the answer."""

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
        wanted: TokenOptions = ONLY_TOKENS,
        jpeg: bytes | None = None,
    ) -> TokenisedQuestion:
        """Check and tokenise a question, and bring its picture to the size that the model takes.

        May be called on any thread, to keep work from the engine's.

        Args:
            global_image: the whole original, shrunk as the model's view says, or smaller.
            original: the size of the original.
            client: whose picture it is.
            wanted: of the answer's tokens, besides.
            jpeg: of no use here.

        Raises:
            QuestionError: the question is empty, too long, or contains reserved text.
            SettingsError: the options contradict the policy.
            PictureMismatchError: the image is larger than an edge sends of such an original.
            GeometryError: the original has no size under the model's view, or the options' region is empty or
                reaches outside it.
        """
        options = AnswerOptions() if options is None else options
        return self._preparer.question(global_image, question, original, options, client, wanted)

    def prepare_local(
        self, pending: Pending, local_image: Image.Image, *, jpeg: bytes | None = None
    ) -> TokenisedImage:
        """Bring a region's picture to the size that the model takes, and put the question's prompt around it.

        May be called on any thread.

        Raises:
            PictureMismatchError: the image is larger than an edge sends of such a region.
            QuestionTooLongError: `pending` is of no question of `prepare`, and asks for more than has room.
            GeometryError: the region has no size under the model's view.
        """
        return self._preparer.local(pending, local_image)

    def first_look(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
    ) -> FirstLook:
        """Answer from the global image, and decide whether to look again. Raises as `prepare`, and

        Raises:
            NonFiniteError: the model computed NaN or infinity.
        """
        asked = self.prepare(global_image, question, original, options)
        return self._flows.run(self.start_first_look(asked))

    def second_look(self, pending: Pending, local_image: Image.Image) -> FinalAnswer:
        """Answer again from global and local image together, and keep one of the answers.

        `pending` is not used up: the same look may be repeated. Raises as `prepare_local`, and

        Raises:
            NonFiniteError: the model computed NaN or infinity.
        """
        prepared = self.prepare_local(pending, local_image)
        return self._flows.run(self.start_second_look(pending, prepared))

    def start_first_look(
        self,
        question: Question,
        *,
        on_region: Callable[[FirstLook], None] | None = None,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Request[FirstLook]:
        """Begin a first look; `round` goes on with it.

        Args:
            on_region: called with what is known so far if the region is known before the answer is complete.
            on_tokens: called with the answer so far each time that it has more tokens, once it is certain
                that it stands.
        """
        stages = Stages()
        flow = self._first(own_question(question), on_region, on_tokens, stages)
        return self._flows.start(flow, stages, client=question.client)

    def start_second_look(
        self,
        pending: Pending,
        local_image: LocalImage,
        *,
        after: InProgress[FirstLook] | None = None,
        sent_bytes: int = 0,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Request[FinalAnswer]:
        """Begin a second look.

        Args:
            local_image: of `prepare_local`.
            after: its first look, where that may still be going on.
            sent_bytes: of the local image as it was sent, for the budget; 0: not sent.
            on_tokens: called as by `start_first_look`, where the second answer stands in any case.
        """
        if self.budget is not None and pending.counted and sent_bytes:
            self.budget.received(sent_bytes)
        stages = Stages()
        flow = self._second(own_pending(pending), own_image(local_image), after, on_tokens, stages)
        return self._flows.start(flow, stages, urgent=True, client=pending.question.client)

    def round(self) -> bool:
        """Compute a little of every look in progress; False when there is none."""
        return self._flows.round()

    def cancel(self, request: InProgress[FirstLook] | InProgress[FinalAnswer]) -> None:
        """End a look that nobody waits for; its slot is free at once."""
        self._flows.cancel(request)

    def _first(
        self,
        asked: TokenisedQuestion,
        on_region: Callable[[FirstLook], None] | None,
        on_tokens: Callable[[Look], None] | None,
        stages: Stages,
    ) -> Flow[FirstLook]:
        limit, policy, options, given = asked.max_new_tokens, asked.policy, asked.options, asked.region
        read = options.relevance or (given is None and options.second_look != "never")
        looking = yield from self._begin_first(asked, stages, read=read)
        try:
            told = asked.prompt, policy, looking.cached
            seen = self._answers.shown(*told, on_tokens)
            least = min(limit, policy.decide_after)
            early = yield Decode(looking.slot, least, seen if options.second_look == "never" else None)
            look = self._answers.look(early, *told)
            need = (policy.need(look.tokens), asked.original, policy, options)
            region, pending, maps, relevance = given, None, None, None
            source: RegionSource | None = None if given is None else "request"
            if read and (options.relevance or self._decider.seeks(*need)):
                stages.enter("prefill")
                maps = yield from looking.maps(early.token_ids, stages)
                region, source = given or self._region(maps, asked.original), source or "attention"
                relevance = maps.relevance() if options.relevance else None
            # As things are by now, for others were decided on while its region was sought.
            decision = self._decider.decide(*need, region)
            if decision == "unsure":
                assert region is not None, (
                    "it was sought, for nothing happens between seeking none and deciding"
                )
                prefix, claim = looking.keep()
                counted = self._decider.counts(policy, options)
                pending = KeptPending(asked, look, region, counted, source, prefix=prefix, claim=claim)
            seconds = LookSeconds(**stages.seconds)
            found = FirstLook(look, decision, region, pending, maps, seconds, relevance, source)
            if len(early.token_ids) < limit and not early.statistics[-1].is_eos:
                if pending is not None and on_region is not None:
                    on_region(found)
                seen = seen if decision != "unsure" else None
                if seen is not None:
                    seen(early)
                look = self._answers.look((yield Decode(looking.slot, limit, seen)), *told)
            pending = None if pending is None else replace(pending, first=look)
            return replace(found, look=look, pending=pending, seconds=LookSeconds(**stages.seconds))
        finally:
            looking.close()

    def _second(
        self,
        pending: KeptPending,
        local: TokenisedImage,
        after: InProgress[FirstLook] | None,
        on_tokens: Callable[[Look], None] | None,
        stages: Stages,
    ) -> Flow[FinalAnswer]:
        limit, policy = pending.question.max_new_tokens, pending.question.policy
        if after is not None and after.future.done():
            after.future.result()  # where that failed, nothing can be compared in the end
        looking = yield from self._begin_second(pending, local, stages)
        try:
            told = local.prompt, policy, looking.cached
            seen = None if policy.arbitration else self._answers.shown(*told, on_tokens)
            second = self._answers.look((yield Decode(looking.slot, limit, seen)), *told)
        finally:
            looking.close()
        known = pending.first if after is None else (yield Wait(after)).look
        return FinalAnswer.kept(pending, known, second, LookSeconds(**stages.seconds))

    def _region(self, maps: AttentionMaps, original: Size) -> Region:
        view = self.model.global_view
        return find_region(
            maps.question, maps.generic, original, self.region, target(view, original), view.fit
        )
