"""Where each head of a decoder looks, and which of them to read.

Two passes about a picture, with the question and with the generic one, give the attention of every layer and
head, without any attention matrix. What is best read is what most often finds a region that holds what is
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from secondlook.edge.geometry import Rectangle, Region, Size, target
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.region import find_region, without_sinks
from secondlook.engine.models.base import Features, Prompt, QuestionTokens, VisionLanguageModel
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS
from secondlook.engine.models.settings import Layers
from secondlook.engine.preparing import Preparer
from secondlook.kernels import attention_row

__all__ = ["Attended", "EveryHead", "Heads", "Ranked"]

Wanted: TypeAlias = Sequence[Rectangle]
"""Where what a question asks for is, in original pixels."""

_ONE_LOOK: Final = AnswerOptions(second_look="never")
_POOL: Final = 16
"""So many of the best heads may be read together."""
_MOST: Final = 6
"""And so many are."""


class EveryHead:
    """Attends by itself, without a cache: a plan of one prompt, from its first row to its last.

    Args:
        span: [start, stop), the places whose attention is read: the global image's.

    Attributes:
        rows: after the pass, of each layer [H, stop - start] float32: what each head's last row attends to.
    """

    def __init__(self, span: tuple[int, int]) -> None:
        self._span = span
        self.rows: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        heads, length = query.shape[1:3]
        # To the operator each head is a sequence of its own, with one head and the keys that it sees.
        keys = key[0].repeat_interleave(heads // key.shape[1], dim=0).unsqueeze(1)
        lengths = torch.full((heads,), length, device=query.device)
        self.rows[layer] = attention_row(query[0, :, -1:], keys, lengths, *self._span, scale)
        grouped = heads != key.shape[1]
        seen = scaled_dot_product_attention(
            query, key, value, is_causal=length > 1, scale=scale, enable_gqa=grouped
        )
        return seen.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Attended:
    """What every head looks at when it is asked one question.

    Attributes:
        question: [layers, heads, rows, columns] float32, on the CPU.
        generic: the same for the generic question; None where a map is not divided by that.
        original: the picture's size.
        wanted: where what is asked for is.
    """

    question: Tensor
    generic: Tensor | None
    original: Size
    wanted: Wanted


@dataclass(frozen=True)
class Ranked:
    """One way to look, and to how many of some questions its region holds what is asked for."""

    layers: Layers
    held: int


class Heads:
    """One model's heads. What its `localisation` says of anything but `layers` holds for all of them, but
    that the prompt's last row is read, and no row of the answer.

    Takes about 5 MB of memory a question where there are 32 layers of 32 heads and 24 by 24 cells.
    """

    def __init__(self, model: VisionLanguageModel, max_characters: int = DEFAULT_MAX_CHARACTERS) -> None:
        self._model = model
        self._preparer = Preparer(model, Policy(0.0), model.context, max_characters)

    @torch.inference_mode()
    def attended(
        self, image: Image.Image, original: Size, questions: Iterable[tuple[str, Wanted]]
    ) -> Iterator[Attended]:
        """What every head looks at, for each question about one picture, one after the other.

        Args:
            image: the global image, as an edge sends it.

        Raises as `secondlook.engine.engine.Engine.prepare`.
        """
        model, preparer = self._model, self._preparer
        features: Features | None = None
        generic: Tensor | None = None
        for text, wanted in questions:
            asked = preparer.question(image, text, original, _ONE_LOOK, "")
            if features is None:
                (features,) = model.encode([asked.picture])
                if model.localisation.generic:
                    generic = self._maps(features, preparer.generic, asked.generic)
            by_question = self._maps(features, asked.tokens, asked.prompt)
            yield Attended(by_question, generic, original, wanted)

    def region(self, seen: Attended, layers: Layers) -> Region:
        """Where the model would look closer if it read these layers and heads."""
        where, view = self._model.localisation, self._model.global_view
        by_question = _summed(seen.question, layers)
        if where.sink is not None:
            sinks = _summed(seen.question, where.sink.layers)
            by_question = without_sinks(by_question, sinks, where.sink.threshold)
        by_generic = torch.ones_like(by_question) if seen.generic is None else _summed(seen.generic, layers)
        covered = target(view, seen.original)
        return find_region(by_question, by_generic, seen.original, where.region, covered, view.fit)

    def held(self, seen: Sequence[Attended], layers: Layers) -> list[bool]:
        """Of each question, whether that region holds what is asked for."""
        return [self.region(one, layers).holds(one.wanted) for one in seen]

    def ranked(self, seen: Sequence[Attended]) -> list[Ranked]:
        """The mean of every layer, and every head, the best first; of equals whole layers, and shallow ones,
        come first."""
        shape = self._model.decoder
        each: list[Layers] = [{layer: None} for layer in range(shape.layers)]
        each += [{layer: {head: 1.0}} for layer in range(shape.layers) for head in range(shape.heads)]
        return sorted((self.rank(seen, layers) for layers in each), key=lambda one: -one.held)

    def best(self, seen: Sequence[Attended], ranked: Sequence[Ranked]) -> Ranked:
        """The best of what is ranked, or of its heads some together, if these hold more.

        To the best head is put the one of the others with which most is held, as long as it becomes more.
        Their weights are such that each attends to pictures as much as the first.
        """
        to_pictures = sum(one.question.sum(dim=(2, 3)) for one in seen)
        assert isinstance(to_pictures, Tensor), "there is a question"
        pool = [
            (layer, head)
            for one in ranked
            for layer, heads in one.layers.items()
            for head in heads or ()
            if to_pictures[layer, head] > 0
        ][:_POOL]
        chosen, together = list[tuple[int, int]](), Ranked({}, -1)
        while len(chosen) < _MOST:
            tried = [[*chosen, one] for one in pool if one not in chosen]
            found = [(self.rank(seen, _weighted(heads, to_pictures)), heads) for heads in tried]
            better, heads = max(found, key=lambda pair: pair[0].held, default=(together, chosen))
            if better.held <= together.held:
                break
            together, chosen = better, heads
        return max(ranked[0], together, key=lambda one: one.held)

    def rank(self, seen: Sequence[Attended], layers: Layers) -> Ranked:
        """Of one way to look."""
        return Ranked(layers, sum(self.held(seen, layers)))

    def _maps(self, features: Features, question: QuestionTokens, prompt: Prompt) -> Tensor:
        """[layers, heads, rows, columns] on the CPU."""
        model = self._model
        conditioned, projection = model.condition(features, question)
        plan = EveryHead(prompt.spans[0])
        model.hidden(model.rows(prompt, 0, [conditioned]), plan)
        rows = torch.stack([plan.rows[layer] for layer in sorted(plan.rows)])
        maps = torch.stack([model.attention_map(row, projection, prompt) for row in rows.flatten(0, 1)])
        return maps.reshape(*rows.shape[:2], *maps.shape[1:]).cpu()


def _summed(maps: Tensor, layers: Layers) -> Tensor:
    """What is read of maps [layers, heads, rows, columns]: the sum over layers and heads, with weights."""
    parts = [
        maps[layer].mean(dim=0)
        if heads is None
        else sum((weight * maps[layer, head] for head, weight in heads.items()), torch.zeros(maps.shape[2:]))
        for layer, heads in layers.items()
    ]
    return torch.stack(parts).sum(dim=0)


def _weighted(heads: Sequence[tuple[int, int]], to_pictures: Tensor) -> Layers:
    """Heads, by layer, each with a weight by which all attend to pictures as much as the first."""
    found: dict[int, dict[int, float] | None] = {}
    for layer, head in heads:
        weight = float(to_pictures[heads[0]] / to_pictures[layer, head])
        own = found.setdefault(layer, {})
        assert own is not None, "no layer's mean is among them"
        own[head] = float(f"{weight:.4g}")
    return found
