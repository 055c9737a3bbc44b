"""Both looks as requests to an upstream, in the order that `secondlook.engine.two_looks` has them in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

from secondlook.edge.geometry import Region
from secondlook.edge.wire import LookSeconds
from secondlook.engine.method.decision import Decider
from secondlook.engine.method.policy import Policy
from secondlook.engine.progress import InProgress, Stages
from secondlook.engine.results import FinalAnswer, FirstLook, Look, Pending, RegionSource
from secondlook.engine.upstream.answers import Vocabulary, Written
from secondlook.engine.upstream.asked import AskedQuestion, Bodies, CloserImage
from secondlook.engine.upstream.chunks import Chunk
from secondlook.engine.upstream.client import UpstreamClient
from secondlook.engine.upstream.pointing import pointed

__all__ = ["Looks"]


class Looks:
    """Looks with one upstream's model. All calls belong to its client's event loop.

    Args:
        bodies: of the requests.
        decider: decides on first looks.

    Attributes:
        vocabulary: the tokens that were told.
        prompt_tokens, cached_tokens: of all looks so far, as the upstream told them.
    """

    def __init__(self, client: UpstreamClient, bodies: Bodies, decider: Decider) -> None:
        self._client, self._bodies, self._decider = client, bodies, decider
        self.vocabulary = Vocabulary()
        self.prompt_tokens = self.cached_tokens = 0

    async def first(
        self,
        asked: AskedQuestion,
        on_region: Callable[[FirstLook], None] | None,
        on_tokens: Callable[[Look], None] | None,
        stages: Stages,
    ) -> FirstLook:
        """Answer from the whole picture, and decide whether to look again."""
        policy, options, region = asked.policy, asked.options, asked.region
        source: RegionSource | None = None if region is None else "request"
        written = self._written(asked)
        async with aclosing(self._client.completion(self._bodies.first(asked))) as chunks:
            seen = on_tokens if options.second_look == "never" else None
            await self._read(chunks, written, policy, stages, seen, policy.decide_after)
            look = written.look(policy, policy.decide_after)
            need = (policy.need(look.tokens), asked.original, policy, options)
            if region is None and self._decider.seeks(*need):
                stages.enter("prefill")
                region = await self._pointed(asked)
                source = "not_found" if region is None else "pointing"
            # As things are by now, for others were decided on while its region was sought.
            decision = self._decider.decide(*need, region, found=source != "not_found")
            pending = None
            if decision == "unsure" and region is not None:
                counts = self._decider.counts(policy, options)
                pending = Pending(asked, look, region, counts, source)
            seconds = LookSeconds(**stages.seconds)
            found = FirstLook(look, decision, region, pending, None, seconds, source=source)
            if pending is not None and on_region is not None and not written.finished:
                on_region(found)
            stages.enter("decode")
            await self._read(chunks, written, policy, stages, None if pending else on_tokens)
        look = self._counted(written.look(policy))
        pending = None if pending is None else replace(pending, first=look)
        return replace(found, look=look, pending=pending, seconds=LookSeconds(**stages.seconds))

    async def second(
        self,
        pending: Pending,
        local: CloserImage,
        after: InProgress[FirstLook] | None,
        on_tokens: Callable[[Look], None] | None,
        stages: Stages,
    ) -> FinalAnswer:
        """Answer again from the picture and its part together, and keep one of the answers."""
        asked = pending.question
        assert isinstance(asked, AskedQuestion), "a second look is that of the engine that had the first"
        policy = asked.policy
        if after is not None and after.future.done():
            after.future.result()  # where that failed, nothing can be compared in the end
        written = self._written(asked)
        async with aclosing(self._client.completion(self._bodies.second(asked, local))) as chunks:
            await self._read(chunks, written, policy, stages, None if policy.arbitration else on_tokens)
        second, known = self._counted(written.look(policy)), pending.first
        if after is not None:
            stages.enter("queue")
            # Shielded: the first look is not this one's to cancel.
            known = (await asyncio.shield(asyncio.wrap_future(after.future))).look
        return FinalAnswer.kept(pending, known, second, LookSeconds(**stages.seconds))

    def _written(self, asked: AskedQuestion) -> Written:
        return Written(self.vocabulary, asked.wanted.likeliest, self._client.name)

    async def _read(
        self,
        chunks: AsyncIterator[Chunk],
        written: Written,
        policy: Policy,
        stages: Stages,
        seen: Callable[[Look], None] | None,
        most: int | None = None,
    ) -> None:
        """Read an answer on, to its end or until it has so many tokens."""
        if seen is not None and len(written):
            seen(written.look(policy))
        async for chunk in chunks:
            before = len(written)
            written.add(chunk)
            if len(written) > before:
                stages.enter("decode")
                if seen is not None:
                    seen(written.look(policy))
            if most is not None and len(written) >= most and not written.finished:
                return

    async def _pointed(self, asked: AskedQuestion) -> Region | None:
        """Where the model says that it must look."""
        text, settings = "", self._bodies.settings
        async with aclosing(self._client.completion(self._bodies.box(asked))) as chunks:
            async for chunk in chunks:
                text += "".join(choice.delta.content or "" for choice in chunk.choices[:1])
        return pointed(text, settings.box, asked.sent, asked.original, settings.crop_size)

    def _counted(self, look: Look) -> Look:
        self.prompt_tokens += look.prompt_tokens
        self.cached_tokens += look.cached_tokens
        return look
