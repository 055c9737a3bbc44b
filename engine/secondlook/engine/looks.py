"""Looking twice: from a global image and a question to an answer, or to a region worth a second look.

Song & Kim, arXiv 2512.16349, with the region of Zhang et al., arXiv 2502.17422. Nothing here knows of HTTP.
What waits for a local image is a value, `Pending`; whoever holds it decides how long. One thread calls an
engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image
from torch import Tensor

from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions, LookSeconds, ModelCard
from secondlook.engine.errors import PictureMismatchError
from secondlook.engine.llava import LlavaAdapter, Prefilled, Prefix
from secondlook.engine.policy import Policy, keep_second, no_detail_to_gain, wants_second_look
from secondlook.engine.prompts import DEFAULT_MAX_CHARACTERS, check_question
from secondlook.engine.region import RegionSettings, find_region
from secondlook.engine.results import (
    AttentionMaps,
    FinalAnswer,
    FinalDecision,
    FirstDecision,
    FirstLook,
    Look,
    Pending,
)

__all__ = ["AttentionMaps", "Engine", "FinalAnswer", "FirstLook", "Look", "Pending"]


class Engine:
    """Two looks with one model.

    Args:
        model: the model.
        policy: defaults for what a request leaves out; by default the checkpoint's threshold.
        region: windows tried; by default the checkpoint's.
        max_question_characters: longest question taken.
    """

    def __init__(
        self,
        model: LlavaAdapter,
        policy: Policy | None = None,
        region: RegionSettings | None = None,
        *,
        max_question_characters: int = DEFAULT_MAX_CHARACTERS,
    ) -> None:
        settings = model.settings
        self.model = model
        self.policy = Policy(threshold=settings.threshold) if policy is None else policy
        self.region = (
            RegionSettings(crop_size=settings.crop_size, min_cells=settings.min_cells)
            if region is None
            else region
        )
        self._max_question_characters = max_question_characters

    @property
    def card(self) -> ModelCard:
        """What an edge must know to prepare pictures."""
        return ModelCard(
            name=self.model.name,
            image_size=self.model.image_size,
            resize_mode=self.model.settings.resize_mode,
            threshold=self.policy.threshold,
        )

    def check(self, question: str, options: AnswerOptions | None = None) -> None:
        """Raise the QuestionError that `first_look` would raise, without answering."""
        options = AnswerOptions() if options is None else options
        check_question(question, self._max_question_characters)
        images = 1 if options.second_look == "never" else 2
        self.model.layout.build(question, images, self._max_new_tokens(options))

    def first_look(
        self,
        global_image: Image.Image,
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
        options = AnswerOptions() if options is None else options
        self.check(question, options)
        self._check_global(global_image)
        policy, limit = self.policy.with_options(options), self._max_new_tokens(options)
        stages = _Stages(self.model)
        with stages.time("encode"):
            feature = self.model.encode([global_image])[0]
        with stages.time("prefill"):
            prefix = self.model.prefix(feature)
            prefilled = self.model.extend(
                prefix, self.model.layout.build(question, 1, limit), probe=options.second_look != "never"
            )
        look = self._answer(prefilled, policy, limit, stages)
        decision = self._decide(look, original, policy, options)
        if decision != "unsure":
            return FirstLook(look, decision, None, None, None, stages.seconds)
        with stages.time("prefill"):
            maps = self._maps(prefix, prefilled)
        region = find_region(
            maps.question, maps.generic, original, self.region, self.model.settings.resize_mode
        )
        if no_detail_to_gain(original, self.model.image_size, region):
            return FirstLook(look, "no_detail_to_gain", region, None, maps, stages.seconds)
        pending = Pending(prefix, question, look, region, policy, limit)
        return FirstLook(look, "unsure", region, pending, maps, stages.seconds)

    def second_look(self, pending: Pending, local_image: Image.Image) -> FinalAnswer:
        """Answer again from global and local image together, and keep one of the answers.

        `pending` is not used up: the same look may be repeated.

        Raises:
            PictureMismatchError: the local image is larger than the region, or of another shape.
            NonFiniteError: the model computed NaN or infinity.
        """
        _check_local(local_image, pending.region)
        stages = _Stages(self.model)
        with stages.time("encode"):
            feature = self.model.encode([local_image])[0]
        with stages.time("prefill"):
            prompt = self.model.layout.build(pending.question, 2, pending.max_new_tokens)
            prefilled = self.model.extend(pending.prefix, prompt, feature)
        second = self._answer(prefilled, pending.policy, pending.max_new_tokens, stages)
        better = keep_second(pending.first.uncertainty, second.uncertainty, pending.policy)
        decision: FinalDecision = "took_second" if better else "kept_first"
        return FinalAnswer(pending.first, second, decision, pending.region, stages.seconds)

    def _answer(self, prefilled: Prefilled, policy: Policy, limit: int, stages: _Stages) -> Look:
        with stages.time("decode"):
            decoded = self.model.decode(prefilled, limit)
        text = self.model.text(decoded.token_ids)
        return Look(text, decoded.token_ids, decoded.statistics, policy.uncertainty(decoded.statistics))

    def _decide(self, look: Look, original: Size, policy: Policy, options: AnswerOptions) -> FirstDecision:
        if options.second_look == "never":
            return "disabled"
        if options.second_look == "auto" and not wants_second_look(look.uncertainty, policy):
            return "sure"
        if no_detail_to_gain(original, self.model.image_size):
            return "no_detail_to_gain"
        return "unsure"

    def _maps(self, prefix: Prefix, prefilled: Prefilled) -> AttentionMaps:
        generic = self.model.extend(prefix, self.model.layout.generic, probe=True)
        return AttentionMaps(self._grid(prefilled.attention), self._grid(generic.attention))

    def _grid(self, attention: Tensor | None) -> Tensor:
        assert attention is not None, "the forward pass was not asked for attention"
        return attention.reshape(self.model.grid)

    def _max_new_tokens(self, options: AnswerOptions) -> int:
        return options.max_new_tokens or self.model.settings.max_new_tokens

    def _check_global(self, image: Image.Image) -> None:
        side = self.model.image_size
        if image.size != (side, side):
            raise PictureMismatchError(
                f"the global image is {image.width}x{image.height} pixels, but the model takes {side}x{side}"
            )


def _check_local(image: Image.Image, region: Region) -> None:
    """The local image shows the region, shrunk or as it is, its shape kept to within a pixel of rounding."""
    deviation = abs(image.width * region.height - image.height * region.width)
    if (
        image.width > region.width
        or image.height > region.height
        or deviation > max(region.width, region.height)
    ):
        raise PictureMismatchError(
            f"the local image is {image.width}x{image.height} pixels, which does not show the region of "
            f"{region.width}x{region.height} pixels asked for"
        )


@dataclass
class _Stages:
    """A stopwatch for each stage; the device is waited for at the ends, so the numbers are honest on a
    GPU."""

    model: LlavaAdapter
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: Literal["encode", "prefill", "decode"]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.model.synchronise()
        self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> LookSeconds:
        return LookSeconds(**self.spent)
