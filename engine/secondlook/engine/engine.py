"""Looking twice: from a global image and a question to an answer, or to a region worth a second look.

Song & Kim, arXiv 2512.16349, with the region of Zhang et al., arXiv 2502.17422. Nothing here knows of HTTP,
or of any one model. Each look is a flow (`secondlook.engine.decode.scheduler`), so that many run at once on
one model. What waits for a local image is a value, `Pending`; whoever holds it decides how long.

A question is checked and tokenised once, by `prepare`, on any thread; one thread does all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from secondlook.edge.geometry import Region, Size, place, target
from secondlook.edge.wire import AnswerOptions, LookSeconds, ModelCard, View
from secondlook.engine.decode.cache import CacheSettings, KeptPrefix, SlotPool
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.plans import Probe
from secondlook.engine.decode.prefixes import PrefixIndex
from secondlook.engine.decode.record import Decoded
from secondlook.engine.decode.scheduler import (
    AttentionRow,
    Decode,
    Encode,
    Flow,
    Prefill,
    Request,
    Scheduler,
    Slot,
    Wait,
)
from secondlook.engine.errors import NonFiniteError, PictureMismatchError, QuestionTooLongError
from secondlook.engine.method.budget import Budget
from secondlook.engine.method.decision import Decider, FinalDecision
from secondlook.engine.method.policy import Policy, keep_second
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.models.base import Features, Prompt, VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS, GENERIC_QUESTION, check_question
from secondlook.engine.results import AttentionMaps, FinalAnswer, FirstLook, Look, Pending, Question

__all__ = ["Engine", "check_room"]

_MOST_ROWS: Final = {"cpu": 1024, "cuda": 4096}
"""Rows of prompts, or tokens of pictures, in one pass: enough to keep the device busy, and no more, because
answers wait for it."""


class Engine:
    """Two looks with one model.

    Args:
        model: the model.
        policy: defaults for what a request leaves out; by default the checkpoint's threshold.
        region: windows tried; by default the checkpoint's.
        cache: memory for keys and values.
        max_question_characters: longest question taken.
        budget: moves the threshold; see `secondlook.engine.method.decision`.

    Raises:
        SettingsError: the cache has no room for one sequence.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        policy: Policy | None = None,
        region: RegionSettings | None = None,
        cache: CacheSettings | None = None,
        *,
        max_question_characters: int = DEFAULT_MAX_CHARACTERS,
        budget: Budget | None = None,
    ) -> None:
        cache = CacheSettings() if cache is None else cache
        self.model = model
        self.policy = Policy(threshold=model.settings.threshold) if policy is None else policy
        self.region = model.localisation.region if region is None else region
        self.budget = budget
        self._decider = Decider(self.policy, model.global_view, budget)
        self._max_question_characters = max_question_characters
        self._capacity = min(model.context, sum(model.most_visual_tokens) + cache.text_tokens)
        slot_bytes = model.decoder.slot_bytes(self._capacity, model.dtype)
        self._pool = SlotPool(cache.slots(slot_bytes, model.device))
        self._decoder = Decoder(model, self._pool.count, self._capacity, self._capacity, _probe(model))
        self._scheduler = Scheduler(
            self._decoder,
            self._pool,
            lambda pictures: model.encode(pictures),
            _MOST_ROWS[model.device.type],
        )
        self.prefixes = PrefixIndex(self._pool.count)
        self.slots_bytes = self._decoder.cache.nbytes  # keys and values, used or not, padding included

    @property
    def card(self) -> ModelCard:
        """What an edge must know to prepare pictures; under a budget with the threshold that it tracks."""
        return ModelCard(
            name=self.model.name,
            global_view=self.model.global_view,
            local_view=self.model.local_view,
            crop_size=self.region.crop_size,
            threshold=self._decider.threshold,
        )

    @property
    def slots(self) -> int:
        """Sequences that can be computed at once."""
        return self._pool.count

    @property
    def waiting(self) -> int:
        """Looks that wait for a slot."""
        return self._scheduler.waiting

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
    ) -> Question:
        """Check and tokenise a question, and bring its picture to the size that the model takes.

        May be called on any thread, to keep work from the engine's.

        Args:
            global_image: the whole original, shrunk as the model's view says, or smaller.
            original: the size of the original.
            client: whose picture it is.

        Raises:
            QuestionError: the question is empty, too long, or contains reserved text.
            SettingsError: the options contradict the policy.
            PictureMismatchError: the image is larger than the model takes of such an original.
            GeometryError: the original has no size under the model's view.
        """
        options = AnswerOptions() if options is None else options
        model = self.model
        check_question(question, self._max_question_characters)
        policy = self.policy.with_options(options)
        limit = options.max_new_tokens or model.settings.max_new_tokens
        picture = self._picture(global_image, model.global_view, original, "global image")
        prompt = model.prompt(question, (picture.grid,))
        rows = len(prompt.ids)
        if options.second_look != "never":  # then with the largest local image that there may be
            both = model.prompt(question, (picture.grid, picture.grid))
            start, stop = both.spans[1]
            rows = len(both.ids) - (stop - start) + model.most_visual_tokens[1]
        check_room(rows, limit, self._capacity)
        return Question(question, picture, prompt, options, policy, limit, client)

    def prepare_local(self, pending: Pending, local_image: Image.Image) -> Picture:
        """Bring a region's picture to the size that the model takes. May be called on any thread.

        Raises:
            PictureMismatchError: the image is larger than the model takes of such a region.
            GeometryError: the region has no size under the model's view.
        """
        return self._picture(local_image, self.model.local_view, pending.region.size, "local image")

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
        return self._scheduler.run(self.start_first_look(asked))

    def second_look(self, pending: Pending, local_image: Image.Image) -> FinalAnswer:
        """Answer again from global and local image together, and keep one of the answers.

        `pending` is not used up: the same look may be repeated. Raises as `prepare_local`, and

        Raises:
            NonFiniteError: the model computed NaN or infinity.
        """
        picture = self.prepare_local(pending, local_image)
        return self._scheduler.run(self.start_second_look(pending, picture))

    def start_first_look(
        self, question: Question, *, on_region: Callable[[FirstLook], None] | None = None
    ) -> Request[FirstLook]:
        """Begin a first look; `round` goes on with it.

        Args:
            on_region: called with what is known so far if the region is known before the answer is complete.
        """
        spent = dict[str, float]()
        return self._scheduler.start(self._first(question, on_region, spent), spent)

    def start_second_look(
        self,
        pending: Pending,
        local_image: Picture,
        *,
        after: Request[FirstLook] | None = None,
        sent_bytes: int = 0,
    ) -> Request[FinalAnswer]:
        """Begin a second look.

        Args:
            local_image: of `prepare_local`.
            after: its first look, where that may still be going on.
            sent_bytes: of the local image as it was sent, for the budget; 0: not sent.
        """
        if self.budget is not None and pending.counted and sent_bytes:
            self.budget.received(sent_bytes)
        spent = dict[str, float]()
        return self._scheduler.start(self._second(pending, local_image, after, spent), spent, urgent=True)

    def round(self) -> bool:
        """Compute a little of every look in progress; False when there is none."""
        return self._scheduler.round()

    def cancel(self, request: Request[FirstLook] | Request[FinalAnswer]) -> None:
        """End a look that nobody waits for; its slot is free at once."""
        self._scheduler.cancel(request)

    def _first(
        self, asked: Question, on_region: Callable[[FirstLook], None] | None, spent: dict[str, float]
    ) -> Flow[FirstLook]:
        limit, policy, options = asked.max_new_tokens, asked.policy, asked.options
        key = self.model.prefix_key(asked.picture, asked.text)
        find = partial(self.prefixes.find, asked.client, key)
        slot, prefix = yield Slot(find)
        try:
            self.prefixes.count(hit=prefix is not None)
            read = options.second_look != "never" or options.relevance
            row, projection = yield from self._ask(slot, asked, limit, prefix, probe=read)
            kept = self._pool.hold(slot, asked.prompt.shared, find())
            kept.projection = projection
            self.prefixes.remember(kept, asked.client, key)
            early = yield Decode(slot, min(limit, policy.decide_after))
            look = self._look(early, asked.prompt, policy)
            seen = (look.uncertainty, asked.original, policy, options)
            region, pending, maps = None, None, None
            decision = self._decider.decide(*seen)
            unsure = decision == "unsure"
            if not unsure:
                decision = self._decider.settle(*seen, None)
            if row is not None and (unsure or options.relevance):
                seen_by_question = self.model.attention_map(row, projection, asked.prompt)
                maps = AttentionMaps(seen_by_question, (yield from self._generic(slot, asked, kept)))
                region = self._region(maps, asked.original)
            if unsure:  # as things are by now, for others were decided on while its region was sought
                decision = self._decider.settle(*seen, region)
            if decision == "unsure":
                assert region is not None, "only what is unsure at first is so in the end"
                claim = kept.claim()
                self._pool.hold(slot, kept.length, kept)  # another slot may have had it, and given it up
                pending = Pending(asked, kept, look, region, self._decider.counts(policy, options), claim)
            found = FirstLook(look, decision, region, pending, maps, _seconds(spent))
            if len(early.token_ids) < limit and not early.statistics[-1].is_eos:
                if pending is not None and on_region is not None:
                    on_region(found)
                look = self._look((yield Decode(slot, limit)), asked.prompt, policy)
            pending = None if pending is None else replace(pending, first=look)
            if kept.claimed:
                self._pool.hold(slot, kept.length, kept)  # again: where it was, it may have been given up
            return replace(found, look=look, pending=pending, seconds=_seconds(spent))
        finally:
            self._pool.give_back(slot)

    def _second(
        self, pending: Pending, picture: Picture, after: Request[FirstLook] | None, spent: dict[str, float]
    ) -> Flow[FinalAnswer]:
        asked = pending.question
        limit, policy = asked.max_new_tokens, asked.policy
        if after is not None and after.future.done():
            after.future.result()  # where that failed, nothing can be compared in the end
        slot, prefix = yield Slot(lambda: pending.prefix)
        try:
            if prefix is None:
                # It was given up: the first look's pass, alone, gives the same keys and values.
                yield from self._ask(slot, asked, 1, None, probe=False)
                self._pool.hold(slot, pending.prefix.length, pending.prefix)
            prompt = self.model.prompt(asked.text, (asked.picture.grid, picture.grid))
            check_room(len(prompt.ids), limit, self._capacity)
            features, _ = yield from self._features(picture, asked.text)
            yield Prefill(self._prompted(slot, prompt, prompt.shared, [features], limit))
            second = self._look((yield Decode(slot, limit)), prompt, policy)
        finally:
            self._pool.give_back(slot)
        known = pending.first if after is None else (yield Wait(after)).look
        better = keep_second(known.uncertainty, second.uncertainty, policy)
        decision: FinalDecision = "took_second" if better else "kept_first"
        return FinalAnswer(known, second, decision, pending.region, _seconds(spent))

    def _ask(
        self, slot: int, asked: Question, limit: int, prefix: KeptPrefix | None, *, probe: bool
    ) -> Flow[tuple[Tensor | None, Tensor | None]]:
        """[global image | question], or the question alone where the slot holds a prefix; with `probe`, the
        attention row to the picture's rows, and how it is projected to cells."""
        if prefix is None:
            features, projection = yield from self._features(asked.picture, asked.text)
            prompted = self._prompted(slot, asked.prompt, 0, [features], limit)
        else:
            projection = prefix.projection
            prompted = self._prompted(slot, asked.prompt, asked.prompt.shared, [], limit)
        row: Tensor | None = yield Prefill(prompted, probe)
        return row, projection

    def _generic(self, slot: int, asked: Question, kept: KeptPrefix) -> Flow[Tensor]:
        """The map that the question's is divided by; remembered with the prefix."""
        model, picture = self.model, asked.picture
        if not model.localisation.generic:
            return torch.ones(picture.grid, device=model.device)
        if kept.generic is None:
            prompt = model.prompt(GENERIC_QUESTION, (picture.grid,))
            start, features, projection = prompt.shared, list[Features](), kept.projection
            if model.prefix_key(picture, GENERIC_QUESTION) != model.prefix_key(picture, asked.text):
                conditioned, projection = yield from self._features(picture, GENERIC_QUESTION)
                start, features = 0, [conditioned]
            row = yield AttentionRow(self._prompted(slot, prompt, start, features))
            kept.generic = model.attention_map(row, projection, prompt)
        return kept.generic

    def _features(self, picture: Picture, question: str) -> Flow[tuple[Features, Tensor | None]]:
        features = yield Encode(picture, picture.tokens)
        return self.model.condition(features, question)

    def _prompted(
        self, slot: int, prompt: Prompt, start: int, features: list[Features], limit: int = 1
    ) -> Prompted:
        rows = self.model.rows(prompt, start, features)
        return Prompted(slot, start, rows, prompt.spans[0], prompt.delta, limit)

    def _region(self, maps: AttentionMaps, original: Size) -> Region:
        view = self.model.global_view
        return find_region(
            maps.question, maps.generic, original, self.region, target(view, original), view.fit
        )

    def _look(self, decoded: Decoded, prompt: Prompt, policy: Policy) -> Look:
        statistics = decoded.statistics
        if not all(math.isfinite(token.min_entropy) for token in statistics):
            raise NonFiniteError(
                f"the model {self.model.name!r} computed NaN or infinity in {self.model.dtype}; try dtype "
                "float32"
            )
        return Look(
            self.model.text(decoded.token_ids),
            decoded.token_ids,
            statistics,
            policy.uncertainty(statistics),
            len(prompt.ids),
            prompt.visual_tokens,
        )

    def _picture(self, image: Image.Image, view: View, shown: Size, what: str) -> Picture:
        most = place(shown, target(view, shown), view.fit)
        if image.width > most.width or image.height > most.height:
            raise PictureMismatchError(
                f"the {what} has {image.width}x{image.height} pixels, but of {shown} pixels the model sees "
                f"{most.size}: shrink it to that, without padding"
            )
        return self.model.picture(image, view, shown)


def check_room(rows: int, limit: int, room: int) -> None:
    """Raise QuestionTooLongError where rows of a prompt and `limit` tokens of an answer have no room."""
    if rows + limit > room:
        raise QuestionTooLongError(
            f"the prompt has {rows} tokens and the answer may have {limit}, but there is room for {room}; "
            "ask a shorter question, or for fewer tokens (max_new_tokens)"
        )


def _probe(model: VisionLanguageModel) -> Probe:
    """The attention that the model's localisation reads."""
    heads = model.localisation.heads
    if heads is None:
        return Probe(model.localisation.layer)
    weights = torch.zeros(model.decoder.heads)
    for head, weight in heads.items():
        weights[head] = weight
    return Probe(model.localisation.layer, weights.to(model.device))


def _seconds(spent: dict[str, float]) -> LookSeconds:
    return LookSeconds(**spent)
