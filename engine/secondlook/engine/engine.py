"""The two looks on this package's decoder: its slots, and what of them is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from torch import Tensor

from secondlook.engine.asked import KeptPending, TokenisedImage, TokenisedQuestion, own_question
from secondlook.engine.decode.cache import CacheSettings, KeptPrefix, PrefixClaim, SlotPool
from secondlook.engine.decode.decoder import Decoder
from secondlook.engine.decode.flows import Flow
from secondlook.engine.decode.prefixes import PrefixIndex
from secondlook.engine.decode.scheduler import Encode, Prefill, Scheduler, Slot
from secondlook.engine.encoded import EncodedPictures
from secondlook.engine.localising import Localiser, Sought, prompted
from secondlook.engine.method.budget import BudgetedThreshold
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.region import RegionSettings
from secondlook.engine.models.base import Features, VisionLanguageModel
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS
from secondlook.engine.progress import Stages
from secondlook.engine.results import Usage
from secondlook.engine.two_looks import TwoLooks

__all__ = ["Engine"]

_MOST_ROWS: Final = {"cpu": 1408, "cuda": 4096}
"""Rows of prompts, or tokens of pictures, in one pass: enough to keep the device busy, and no more, because
answers wait for it. On a CPU two of LLaVA-1.5's pictures with questions, which take less time together than
one after the other (the many clients of `bench peers`)."""


@dataclass
class _Looking:
    """A look in a slot; of a first one its prefix, and what was read of its prompt, too.

    Attributes:
        projection, row: see `Sought`.
    """

    pool: SlotPool
    localiser: Localiser
    slot: int
    cached: int
    asked: TokenisedQuestion
    kept: KeptPrefix | None = None
    projection: Tensor | None = None
    row: Tensor | None = None

    def maps(self, answer: tuple[int, ...], stages: Stages) -> Flow[AttentionMaps]:
        assert self.kept is not None, "a first look's"
        sought = Sought(self.slot, self.asked, self.kept, self.projection, self.row, answer)
        return self.localiser.maps(sought, stages)

    def keep(self) -> tuple[KeptPrefix, PrefixClaim]:
        assert self.kept is not None, "a first look's"
        claim = self.kept.claim()
        self.pool.hold(self.slot, self.kept)  # another slot may have had it, and given it up
        return self.kept, claim

    def close(self) -> None:
        if self.kept is not None and self.kept.claimed:
            self.pool.hold(self.slot, self.kept)  # again: where it was, it may have been given up
        self.pool.give_back(self.slot)


class Engine(TwoLooks):
    """Two looks with one model, on slots of this package's decoder.

    Args:
        model: the model.
        policy: defaults for what a request leaves out; by default the checkpoint's threshold.
        region: how a region is sought; by default the checkpoint's.
        cache: memory for keys and values.
        max_question_characters: longest question taken, also by a server of this engine.
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
        budget: BudgetedThreshold | None = None,
    ) -> None:
        cache = CacheSettings() if cache is None else cache
        capacity = min(model.context, sum(model.most_visual_tokens) + cache.text_tokens)
        slot_bytes = model.decoder.slot_bytes(capacity, model.dtype)
        self._pool = SlotPool(cache.slots(slot_bytes, model.device))
        self._decoder = Decoder(model, self._pool.count, capacity, capacity, model.probe())
        scheduler = Scheduler(
            self._decoder,
            self._pool,
            lambda pictures: model.encode(pictures),
            _MOST_ROWS[model.device.type],
        )
        super().__init__(model, scheduler, policy, region, capacity, max_question_characters, budget)
        self.prefixes = PrefixIndex(self._pool.count)
        self._encoded = EncodedPictures(model, self._preparer.generic, self._pool.count)
        self._localiser = Localiser(model, self._preparer.generic, self._encoded)
        # How a prefix's picture rows become cells.
        self._projections = WeakKeyDictionary[KeptPrefix, Tensor | None]()
        self.slots_bytes = self._decoder.cache.nbytes  # keys and values, used or not, padding included

    @property
    def slots(self) -> int:
        """Sequences that can be computed at once."""
        return self._pool.count

    @property
    def usage(self) -> Usage:
        """What the cache is used for. May be asked for on any thread."""
        pool, prefixes = self._pool, self.prefixes
        return Usage(pool.count, pool.used, pool.kept, prefixes.queries, prefixes.hits, prefixes.recomputed)

    def _begin_first(self, asked: TokenisedQuestion, stages: Stages, *, read: bool) -> Flow[_Looking]:
        key = self.model.prefix_key(asked.picture, asked.tokens)
        find = partial(self.prefixes.find, asked.client, key)
        slot, prefix = yield Slot(find)
        looking = _Looking(self._pool, self._localiser, slot, 0 if prefix is None else prefix.length, asked)
        try:
            self.prefixes.count(len(asked.prompt.ids), prefix)
            of_prompt = read and not self.model.localisation.generated_rows
            looking.row, looking.projection = yield from self._ask(
                slot, asked, asked.max_new_tokens, prefix, stages, probe=of_prompt
            )
            new = KeptPrefix(asked.prompt.shared, asked.prompt.shared_position)
            looking.kept = self._pool.hold(slot, find() or new)
            self._projections[looking.kept] = looking.projection
            self.prefixes.remember(looking.kept, asked.client, key)
        except BaseException:
            looking.close()
            raise
        return looking

    def _begin_second(self, pending: KeptPending, local: TokenisedImage, stages: Stages) -> Flow[_Looking]:
        asked, kept, prompt = own_question(pending.question), pending.prefix, local.prompt
        assert kept is not None, "a first look on slots keeps one"
        slot, prefix = yield Slot(lambda: kept)
        looking = _Looking(self._pool, self._localiser, slot, 0 if prefix is None else prefix.length, asked)
        try:
            self.prefixes.count(len(prompt.ids), prefix)
            if prefix is None:
                self.prefixes.recomputed += 1
                # It was given up: the first look's pass, alone, gives the same keys and values.
                yield from self._ask(slot, asked, 1, None, stages, probe=False)
                self._pool.hold(slot, kept)
            encoded = yield Encode(local.picture, local.picture.tokens)
            features, _ = self.model.condition(encoded, asked.tokens)
            stages.enter("prefill")
            limit = asked.max_new_tokens
            yield Prefill(prompted(self.model, slot, prompt, kept, [features], limit, asked.wanted))
        except BaseException:
            looking.close()
            raise
        return looking

    def _ask(
        self,
        slot: int,
        asked: TokenisedQuestion,
        limit: int,
        prefix: KeptPrefix | None,
        stages: Stages,
        *,
        probe: bool,
    ) -> Flow[tuple[Tensor | None, Tensor | None]]:
        """[global image | question], or the question alone where the slot holds a prefix; with `probe`, the
        attention row to the picture's rows; how that is projected to cells."""
        conditioned = list[Features]()
        if prefix is None:
            encoded = yield from self._encoded.of(asked)
            one, projection = self.model.condition(encoded, asked.tokens)
            conditioned = [one]
        else:
            projection = self._projections[prefix]
        stages.enter("prefill")
        prompt = prompted(self.model, slot, asked.prompt, prefix, conditioned, limit, asked.wanted)
        row = yield Prefill(prompt, probe)
        return row, projection
