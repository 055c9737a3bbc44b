"""Relative computation of a run, from its log alone: token counts, and the sizes that its header states."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from transformers import AutoConfig

from secondlook.benchmarks.analysis.columns import Columns, FloatArray
from secondlook.benchmarks.analysis.curves import Cost
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.work import FlowName, Lengths, flow_work
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.results import Look

_PLAIN: Final[FlowName] = "reference"
"""The flow whose first answer is a plain one: image and question through all of the model, then decoding."""


_TEXT: Final = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
}
_VISION: Final = {
    "vision_layers": "num_hidden_layers",
    "vision_width": "hidden_size",
    "vision_intermediate": "intermediate_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "channels": "num_channels",
}
"""Our names of sizes → transformers'."""


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class ModelSizes:
    """A model's sizes, as a log states them: of the decoder, of the vision tower, and of prompts.

    Attributes:
        feature_layer: the vision tower's layer that features are taken from, as transformers counts.
        prefix, generic: tokens of a prompt through the end of the global image, and of the generic question's
            whole prompt.
    """

    layers: int
    width: int
    intermediate: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    vision_layers: int
    vision_width: int
    vision_intermediate: int
    image_size: int
    patch_size: int
    channels: int
    feature_layer: int
    prefix: int
    generic: int

    @classmethod
    def of(cls, model: VisionLanguageModel) -> ModelSizes:
        config: Any = model.module.config
        text, vision = config.text_config, config.vision_config
        generic = model.prompt(model.tokens(GENERIC_QUESTION), ((model.most_visual_tokens[0], 1),))
        named: dict[str, int] = {name: getattr(text, key) for name, key in _TEXT.items()}
        named |= {name: getattr(vision, key) for name, key in _VISION.items()}
        return cls(
            **named,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            feature_layer=config.vision_feature_layer,
            prefix=generic.shared,
            generic=len(generic.ids),
        )

    @cache  # noqa: B019  # half a second's work, for the few models that logs are of
    def passes(self) -> PassFlops:
        """FLOPs of the model's passes."""
        text: dict[str, Any] = {key: getattr(self, name) for name, key in _TEXT.items()}
        vision: dict[str, Any] = {key: getattr(self, name) for name, key in _VISION.items()}
        config = AutoConfig.for_model(
            "llava",
            text_config={"model_type": "llama", "head_dim": self.head_width, **text},
            # With one head: as many products as with any.
            vision_config={"model_type": "clip_vision_model", "num_attention_heads": 1, **vision},
            vision_feature_layer=self.feature_layer,
        )
        return PassFlops(config)


def look_flops(model: VisionLanguageModel, first: Look, second: Look | None) -> tuple[int, int]:
    """FLOPs of the engine's work for a first look, and what a second look of the same question adds."""
    sizes = ModelSizes.of(model)
    both, again = (first.prompt_tokens, 1) if second is None else (second.prompt_tokens, len(second.tokens))
    new = len(first.tokens)
    decided = min(new, Policy.decide_after)
    lengths = Lengths(sizes.prefix, first.prompt_tokens, sizes.generic, both, new, decided, again)
    sure, unsure = (
        flow_work("ours", sizes.passes(), lengths, model.localisation.layer, unsure=twice)
        for twice in (False, True)
    )
    once = sure["final_answer"].flops
    return once, 0 if second is None else unsure["final_answer"].flops - once


def relative_computation(
    columns: Columns, made: dict[str, Any], settings: dict[str, Any], flow: FlowName = "ours"
) -> Cost | None:
    """The server's work over that of answering every question once from the global image.

    Song & Kim, arXiv 2512.16349; counted as `secondlook bench flops` counts. None where the log does not
    state the model's sizes or the prompts' lengths, as those of earlier versions do not.

    Args:
        made, settings: the log's header.
    """
    looked, first, second = columns.possible, columns.first, columns.second
    unknown = (first.prompt_tokens < 0).any() or (second.prompt_tokens[looked] < 0).any()
    if "sizes" not in made or unknown:
        return None
    sizes, layer = ModelSizes(**made["sizes"]), int(settings["model"]["localisation"]["layer"])
    passes = sizes.passes()

    def work(question: int, both: int, new: int, again: int) -> list[int]:
        """FLOPs of a plain answer, of one that stands, and of one with a second look."""
        decided = min(new, Policy.decide_after)
        lengths = Lengths(sizes.prefix, question, sizes.generic, both, new, decided, again)
        ways: tuple[tuple[FlowName, bool], ...] = ((_PLAIN, False), (flow, False), (flow, True))
        done = (flow_work(name, passes, lengths, layer, unsure=unsure) for name, unsure in ways)
        return [each["final_answer"].flops for each in done]

    both = np.where(looked, second.prompt_tokens, first.prompt_tokens)
    again = np.where(looked, second.lengths, 1)
    lengths = np.stack([first.prompt_tokens, both, first.lengths, again], axis=1)
    distinct, place = np.unique(lengths, axis=0, return_inverse=True)
    counted: FloatArray = np.array([work(*row) for row in distinct.tolist()], np.float64)
    plain, sure, unsure = counted[place.ravel()].T
    return Cost(base=sure, extra=np.where(looked, unsure - sure, 0.0), unit=plain)
