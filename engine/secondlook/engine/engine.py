"""Looking twice: from a global image and a question to an answer, or to a region worth a second look.

Song & Kim, arXiv 2512.16349, with the region of Zhang et al., arXiv 2502.17422. Nothing here knows of HTTP.
Each look is a flow (`secondlook.engine.decode.scheduler`), so that many run at once on one model. What waits
for a local image is a value, `Pending`; whoever holds it decides how long. One thread calls an engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from PIL import Image
from torch import Tensor

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, LookSeconds, ModelCard
from secondlook.engine.decode.cache import CacheSettings, KVCache, SlotPool
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.prefixes import PrefixIndex
from secondlook.engine.decode.record import Decoded
from secondlook.engine.decode.scheduler import (
    Decode,
    Encode,
    Flow,
    Prefill,
    Request,
    Rows,
    Scheduler,
    Slot,
    Wait,
)
from secondlook.engine.errors import NonFiniteError, PictureMismatchError
from secondlook.engine.method.budget import Budget
from secondlook.engine.method.decision import Deciding
from secondlook.engine.method.policy import Policy, keep_second, no_detail_to_gain
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS, Prompt, check_question
from secondlook.engine.models.vision import Square
from secondlook.engine.results import (
    AttentionMaps,
    FinalAnswer,
    FinalDecision,
    FirstLook,
    Look,
    Pending,
)

__all__ = ["AttentionMaps", "Engine", "FinalAnswer", "FirstLook", "Look", "Pending"]


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
        model: LlavaAdapter,
        policy: Policy | None = None,
        region: RegionSettings | None = None,
        cache: CacheSettings | None = None,
        *,
        max_question_characters: int = DEFAULT_MAX_CHARACTERS,
        budget: Budget | None = None,
    ) -> None:
        settings, layout = model.settings, model.layout
        cache = CacheSettings() if cache is None else cache
        self.model = model
        self.policy = Policy(threshold=settings.threshold) if policy is None else policy
        self.region = (
            RegionSettings(crop_size=settings.crop_size, min_cells=settings.min_cells)
            if region is None
            else region
        )
        self.budget = budget
        self._deciding = Deciding(self.policy, model.image_size, budget)
        self._max_question_characters = max_question_characters
        self._capacity = min(layout.context, 2 * layout.tokens_per_image + cache.text_tokens)
        slot_bytes = KVCache.slot_bytes(model.decoder_config, self._capacity, model.dtype)
        self._pool = SlotPool(cache.slots(slot_bytes, model.device))
        self._decoder = Decoder(model, self._pool.count, self._capacity, self._capacity)
        most_rows = _MOST_ROWS[model.device.type]
        self._scheduler = Scheduler(
            self._decoder,
            self._pool,
            len(layout.prefix),
            most_images=max(1, most_rows // layout.tokens_per_image),
            most_rows=most_rows,
        )
        self.prefixes = PrefixIndex(self._pool.count)
        self._generic = layout.generic

    @property
    def card(self) -> ModelCard:
        """What an edge must know to prepare pictures; under a budget with the threshold that it tracks."""
        return ModelCard(
            name=self.model.name,
            image_size=self.model.image_size,
            resize_mode=self.model.settings.resize_mode,
            threshold=self._deciding.threshold,
        )

    @property
    def slots(self) -> int:
        """Sequences that can be computed at once."""
        return self._pool.count

    @property
    def waiting(self) -> int:
        """Looks that wait for a slot."""
        return self._scheduler.waiting

    def square(self, image: Image.Image) -> Square:
        """A picture as the looks take it. May be called on any thread, to keep work from the engine's."""
        return self.model.square(image)

    def check(self, question: str, options: AnswerOptions | None = None) -> None:
        """Raise the QuestionError that `first_look` would raise, without answering."""
        options = AnswerOptions() if options is None else options
        check_question(question, self._max_question_characters)
        self._prompt(question, 1 if options.second_look == "never" else 2, self._max_new_tokens(options))

    def first_look(
        self,
        global_image: Image.Image | Square,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
    ) -> FirstLook:
        """Answer from the global image, and decide whether to look again.

        Args:
            global_image: the whole picture, already fitted to the encoder's square by the model's resize
                mode.
            original: size of the original it was made from.

        Raises:
            QuestionError: the question is empty, too long, or contains reserved text.
            PictureMismatchError: the global image is not the encoder's square.
            NonFiniteError: the model computed NaN or infinity.
        """
        return self._scheduler.run(self.start_first_look(global_image, question, original, options))

    def second_look(self, pending: Pending, local_image: Image.Image | Square) -> FinalAnswer:
        """Answer again from global and local image together, and keep one of the answers.

        `pending` is not used up: the same look may be repeated.

        Raises:
            PictureMismatchError: the local image is larger than the region, or of another shape.
            NonFiniteError: the model computed NaN or infinity.
        """
        return self._scheduler.run(self.start_second_look(pending, local_image))

    def start_first_look(
        self,
        global_image: Image.Image | Square,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
        on_region: Callable[[FirstLook], None] | None = None,
    ) -> Request[FirstLook]:
        """Begin a first look; `round` goes on with it. Raises as `first_look`, of NaN later, in its future.

        Args:
            client: whose picture it is: what was computed for one client's picture is never another's.
            on_region: called with what is known so far if the region is known before the answer is complete.
        """
        options = AnswerOptions() if options is None else options
        self.check(question, options)
        picture = self._square(global_image)
        self._check_global(picture)
        policy, spent = self.policy.with_options(options), dict[str, float]()
        flow = self._first(picture, question, original, options, policy, client, on_region, spent)
        return self._scheduler.start(flow, spent)

    def start_second_look(
        self,
        pending: Pending,
        local_image: Image.Image | Square,
        *,
        after: Request[FirstLook] | None = None,
        sent_bytes: int = 0,
    ) -> Request[FinalAnswer]:
        """Begin a second look.

        Args:
            after: its first look, where that may still be going on.
            sent_bytes: of the local image as it was sent, for the budget; 0: not sent.
        """
        picture = self._square(local_image)
        _check_local(picture, pending)
        if self.budget is not None and pending.counted and sent_bytes:
            self.budget.received(sent_bytes)
        spent = dict[str, float]()
        return self._scheduler.start(self._second(pending, picture, after, spent), spent, urgent=True)

    def round(self) -> bool:
        """Compute a little of every look in progress; False when there is none."""
        return self._scheduler.round()

    def cancel(self, task: Request[FirstLook] | Request[FinalAnswer]) -> None:
        """End a look that nobody waits for; its slot is free at once."""
        self._scheduler.cancel(task)

    def _first(
        self,
        picture: Square,
        question: str,
        original: Size,
        options: AnswerOptions,
        policy: Policy,
        client: str,
        on_region: Callable[[FirstLook], None] | None,
        spent: dict[str, float],
    ) -> Flow[FirstLook]:
        limit = self._max_new_tokens(options)
        prompt = self._prompt(question, 1, limit)
        find = partial(self.prefixes.find, client, picture)
        slot, prefix = yield Slot(find)
        try:
            reused, probe = prefix is not None, options.second_look != "never"
            self.prefixes.count(hit=reused)
            row = yield from self._ask(slot, prompt, picture, limit, reused=reused, probe=probe)
            kept = self._pool.hold(slot, find())
            self.prefixes.remember(kept, client, picture)
            early = yield Decode(slot, min(limit, policy.decide_after))
            look = self._look(early, policy)
            counted = self._deciding.counts(policy, options)
            decision = self._deciding.decide(look.uncertainty, original, policy, options)
            region, pending, maps = None, None, None
            if decision == "unsure":
                assert row is not None, "the row is read unless no second look is wanted"
                if kept.generic is None:
                    start = len(self.model.layout.prefix)
                    rest = self.model.embed(self._generic.ids[start:])
                    kept.generic = yield Rows(Prompted(slot, start, rest))
                maps = AttentionMaps(row.reshape(self.model.grid), kept.generic.reshape(self.model.grid))
                mode = self.model.settings.resize_mode
                region = find_region(maps.question, maps.generic, original, self.region, mode)
                if no_detail_to_gain(original, self.model.image_size, region):
                    decision = "no_detail_to_gain"
                    if self.budget is not None and counted:
                        self.budget.take_back()
                else:
                    claim = kept.claim()
                    self._pool.hold(slot, kept)  # another slot may have had it, and given it up until now
                    pending = Pending(kept, picture, question, look, region, policy, limit, counted, claim)
            found = FirstLook(look, decision, region, pending, maps, _seconds(spent))
            if len(early.token_ids) < limit and not early.statistics[-1].is_eos:
                if pending is not None and on_region is not None:
                    on_region(found)
                look = self._look((yield Decode(slot, limit)), policy)
            pending = None if pending is None else replace(pending, first=look)
            if kept.claimed:
                self._pool.hold(slot, kept)  # again: it may have been given up meanwhile, where it was
            return replace(found, look=look, pending=pending, seconds=_seconds(spent))
        finally:
            self._pool.give_back(slot)

    def _second(
        self, pending: Pending, picture: Square, after: Request[FirstLook] | None, spent: dict[str, float]
    ) -> Flow[FinalAnswer]:
        limit, layout = pending.max_new_tokens, self.model.layout
        if after is not None and after.future.done():
            after.future.result()  # where that failed, nothing can be compared in the end
        slot, prefix = yield Slot(lambda: pending.prefix)
        try:
            if prefix is None:
                # It was given up: the first look's pass, alone, gives the same keys and values.
                first = self._prompt(pending.question, 1, limit)
                yield from self._ask(slot, first, pending.global_image, 1, reused=False, probe=False)
                self._pool.hold(slot, pending.prefix)
            feature = yield Encode(picture)
            prompt, start = self._prompt(pending.question, 2, limit), len(layout.prefix)
            span = (prompt.spans[1][0] - start, prompt.spans[1][1] - start)
            embeddings = self.model.embed(prompt.ids[start:], (span,), (feature,))
            yield Prefill(Prompted(slot, start, embeddings, limit))
            second = self._look((yield Decode(slot, limit)), pending.policy)
        finally:
            self._pool.give_back(slot)
        known = pending.first if after is None else (yield Wait(after)).look
        better = keep_second(known.uncertainty, second.uncertainty, pending.policy)
        decision: FinalDecision = "took_second" if better else "kept_first"
        return FinalAnswer(known, second, decision, pending.region, _seconds(spent))

    def _ask(
        self, slot: int, prompt: Prompt, picture: Square, limit: int, *, reused: bool, probe: bool
    ) -> Flow[Tensor | None]:
        """[global image | question], or the question alone where the slot holds the image already."""
        if reused:
            start = len(self.model.layout.prefix)
            embeddings = self.model.embed(prompt.ids[start:])
        else:
            start = 0
            embeddings = self.model.embed(prompt.ids, prompt.spans, ((yield Encode(picture)),))
        row: Tensor | None = yield Prefill(Prompted(slot, start, embeddings, limit), probe)
        return row

    def _look(self, decoded: Decoded, policy: Policy) -> Look:
        if not all(math.isfinite(token.min_entropy) for token in decoded.statistics):
            raise NonFiniteError(
                f"the model {self.model.name!r} computed NaN or infinity in {self.model.dtype}; try dtype "
                "float32"
            )
        text = self.model.text(decoded.token_ids)
        return Look(text, decoded.token_ids, decoded.statistics, policy.uncertainty(decoded.statistics))

    def _prompt(self, question: str, images: int, limit: int) -> Prompt:
        return self.model.layout.build(question, images, limit, self._capacity)

    def _max_new_tokens(self, options: AnswerOptions) -> int:
        return options.max_new_tokens or self.model.settings.max_new_tokens

    def _square(self, image: Image.Image | Square) -> Square:
        return image if isinstance(image, Square) else self.square(image)

    def _check_global(self, picture: Square) -> None:
        side = self.model.image_size
        if (picture.width, picture.height) != (side, side):
            raise PictureMismatchError(
                f"the global image is {picture.width}x{picture.height} pixels, but the model takes "
                f"{side}x{side}"
            )


def _check_local(picture: Square, pending: Pending) -> None:
    """The local image shows the region, shrunk or as it is, its shape kept to within a pixel of rounding."""
    region = pending.region
    deviation = abs(picture.width * region.height - picture.height * region.width)
    if (
        picture.width > region.width
        or picture.height > region.height
        or deviation > max(region.width, region.height)
    ):
        raise PictureMismatchError(
            f"the local image is {picture.width}x{picture.height} pixels, which does not show the region of "
            f"{region.width}x{region.height} pixels asked for"
        )


def _seconds(spent: dict[str, float]) -> LookSeconds:
    return LookSeconds(**spent)
