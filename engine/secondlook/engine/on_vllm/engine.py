"""The two looks, computed by vLLM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from vllm.v1.engine.llm_engine import LLMEngine

from secondlook.engine.asked import KeptPending, TokenisedImage, TokenisedQuestion, own_question
from secondlook.engine.decode.flows import Flow
from secondlook.engine.errors import ModelNotReadyError
from secondlook.engine.localising import rows_read, without_its_sinks
from secondlook.engine.method.budget import BudgetedThreshold
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import Prompt, QuestionTokens, VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS
from secondlook.engine.on_vllm.running import Answer, Answering, ReadRows, VllmFlows
from secondlook.engine.progress import Stages
from secondlook.engine.results import Usage
from secondlook.engine.two_looks import TwoLooks

__all__ = ["VllmEngine"]

_PATIENCE = 5.0
"""Seconds for the thread that hears of vLLM's processes to end with them."""


class VllmEngine(TwoLooks):
    """Two looks with one model, whose weights vLLM has.

    vLLM keeps the prefixes that were computed, in blocks, by their tokens, pictures and client: a second look
    finds the global image's among them, as long as no other wanted the room.

    Args:
        model: without weights, for prompts, pictures and what is read of attention.
        llm: with `rows.RowExtension` in its workers.
        capacity: rows that a sequence may have, its answer included.
        slots: sequences that it computes at once.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        llm: LLMEngine,
        capacity: int,
        slots: int,
        policy: Policy | None = None,
        budget: BudgetedThreshold | None = None,
    ) -> None:
        self.flows = VllmFlows(llm)
        super().__init__(model, self.flows, policy, None, capacity, DEFAULT_MAX_CHARACTERS, budget)
        self._llm = llm
        self._slots = slots
        # Maps that were read already, the last used last.
        self._generics = OrderedDict[tuple[str, bytes], Tensor]()
        self._queries = self._hits = self._recomputed = 0
        self._block: int = llm.vllm_config.cache_config.block_size

    @property
    def outside(self) -> VllmEngine:
        """vLLM's processes, as `secondlook.engine.serve.protocol.Outside`."""
        return self

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def usage(self) -> Usage:
        """Of vLLM's cache: a slot is a sequence. What it keeps, it does not say."""
        return Usage(self._slots, self.flows.running, 0, self._queries, self._hits, self._recomputed)

    def wake(self) -> None:
        """Nothing: a round is one step."""

    def check(self) -> None:
        """Raise ModelNotReadyError once vLLM's processes have died. On any thread."""
        if self._llm.engine_core.resources.engine_dead:
            raise ModelNotReadyError("vLLM's processes have died: the server must be started anew")

    def close(self) -> None:
        """End vLLM's processes, and the context of the sockets to them, which vLLM leaves open."""
        core = self._llm.engine_core
        core.shutdown()
        core.output_queue_thread.join(_PATIENCE)  # it closes its sockets itself, which no other thread may
        if not core.output_queue_thread.is_alive():
            core.ctx.destroy(linger=0)

    def _begin_first(self, asked: TokenisedQuestion, stages: Stages, *, read: bool) -> Flow[_Looking]:
        del stages
        rows = int(read and not self.model.localisation.generated_rows)
        gated = asked.policy.gate is not None
        one, pictures = asked.tokens.one, [asked.picture]
        return (yield from self._look(asked, one, pictures, asked.prompt, rows, gated=gated))

    def _begin_second(self, pending: KeptPending, local: TokenisedImage, stages: Stages) -> Flow[_Looking]:
        del stages
        asked, prompt = own_question(pending.question), local.prompt
        looking = yield from self._look(asked, asked.tokens.two, [asked.picture, local.picture], prompt)
        self._recomputed += looking.cached < prompt.shared // self._block * self._block
        return looking

    def _look(
        self,
        asked: TokenisedQuestion,
        ids: Sequence[int],
        pictures: Sequence[Picture],
        whole: Prompt,
        rows: int = 0,
        *,
        gated: bool = False,
    ) -> Flow[_Looking]:
        """
        Args:
            gated: whether a gate decides on it, which reads every measure.
        """
        entropy = gated or asked.policy.measure == "shannon_entropy"
        limit = asked.max_new_tokens
        named = {"shannon": entropy, "options": asked.wanted, "rows": rows}
        answer = self.flows.answer(ids, pictures, whole, limit, self.model.eos_ids, asked.client, **named)
        try:
            yield Answering(answer)
        except BaseException:
            self.flows.close(answer)
            raise
        self._queries += len(whole.ids)
        self._hits += answer.cached
        return _Looking(self, asked, answer)

    def maps(self, looking: _Looking, answer: tuple[int, ...]) -> Flow[AttentionMaps]:
        """See `Looking.maps`."""
        model, asked = self.model, looking.asked
        where, prompt = model.localisation, asked.prompt
        if where.generated_rows:
            rows = yield from self._behind(asked, rows_read(model, answer))
        else:
            rows = yield ReadRows(looking.answer)
        by_question = without_its_sinks(model, rows, None, prompt)
        by_generic = torch.ones_like(by_question)
        if where.generic:
            by_generic = yield from self._by_generic(asked)
        return AttentionMaps(by_question, by_generic)

    def _by_generic(self, asked: TokenisedQuestion) -> Flow[Tensor]:
        """The map that the question's is divided by, remembered for its client's picture."""
        name = asked.client, asked.picture.digest
        if name not in self._generics:
            ids = self._preparer.generic.one
            rows = yield from self._rows(asked, ids, asked.generic, 1)
            self._generics[name] = self.model.attention_map(rows[0], None, asked.generic)
            if len(self._generics) > self._slots:
                self._generics.popitem(last=False)
        self._generics.move_to_end(name)
        return self._generics[name]

    def _behind(self, asked: TokenisedQuestion, answer: list[int]) -> Flow[Tensor]:
        """The rows [M, N] of an answer's first tokens: the prompt with these once more, all of it, for of
        what vLLM keeps it computes no rows."""
        tokens, grid = asked.tokens, asked.picture.grid
        longer = QuestionTokens(tokens.text, (*tokens.one, *answer), tokens.two, tokens.instruction)
        whole = self.model.prompt(longer, (grid,))
        return (yield from self._rows(asked, longer.one, whole, len(answer), alone=True))

    def _rows(
        self, asked: TokenisedQuestion, ids: Sequence[int], whole: Prompt, rows: int, *, alone: bool = False
    ) -> Flow[Tensor]:
        ends, pictures = self.model.eos_ids, [asked.picture]
        answer = self.flows.answer(ids, pictures, whole, 1, ends, asked.client, rows=rows, alone=alone)
        try:
            yield Answering(answer)
            found: Tensor = yield ReadRows(answer)
        finally:
            self.flows.close(answer)
        return found


class _Looking:
    """A look that vLLM computes."""

    def __init__(self, engine: VllmEngine, asked: TokenisedQuestion, answer: Answer) -> None:
        self._engine = engine
        self.asked = asked
        self.answer = answer
        self.slot = answer.number

    @property
    def cached(self) -> int:
        return self.answer.cached

    def maps(self, answer: tuple[int, ...], stages: Stages) -> Flow[AttentionMaps]:
        del stages
        return self._engine.maps(self, answer)

    def keep(self) -> tuple[None, None]:
        return None, None

    def close(self) -> None:
        self._engine.flows.close(self.answer)
