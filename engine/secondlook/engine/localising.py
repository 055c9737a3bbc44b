"""From a first look to the attention maps that a region is found in.

What `localisation` of a model says is read here: the rows, whether they are compared with those of a generic
question, and which cells are left out as sinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from secondlook.engine.asked import TokenisedQuestion
from secondlook.engine.decode.cache import KeptPrefix
from secondlook.engine.decode.decoder import Prompted
from secondlook.engine.decode.flows import Flow
from secondlook.engine.decode.plans import Rows
from secondlook.engine.decode.scheduler import AttentionRow
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.devices import to_device
from secondlook.engine.encoded import EncodedPictures
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.region import without_sinks
from secondlook.engine.models.base import Features, Prompt, QuestionTokens, VisionLanguageModel
from secondlook.engine.progress import Stages

__all__ = ["Localiser", "Sought", "prompted", "rows_read", "without_its_sinks"]


@dataclass(frozen=True, eq=False)
class Sought:
    """A first look whose region is sought.

    Attributes:
        slot: it holds the prompt's keys and values, and those of the answer so far.
        prefix: what of the prompt others about the picture share.
        projection: from the picture's rows to cells, see `VisionLanguageModel.condition`.
        row: what was read of the prompt's last row; None where the answer's rows are read instead.
        answer: its tokens so far, at least one.
    """

    slot: int
    asked: TokenisedQuestion
    prefix: KeptPrefix
    projection: Tensor | None
    row: Tensor | None
    answer: tuple[int, ...]


class Localiser:
    """Reads one model's maps.

    Args:
        generic: the generic question's tokens.
        encoded: the features of pictures.
    """

    def __init__(self, model: VisionLanguageModel, generic: QuestionTokens, encoded: EncodedPictures) -> None:
        self._model = model
        self._generic = generic
        self._encoded = encoded
        self._generics = WeakKeyDictionary[KeptPrefix, Tensor]()  # maps that were read already

    def maps(self, sought: Sought, stages: Stages) -> Flow[AttentionMaps]:
        """The question's map, without sinks, and the generic one."""
        where, prompt = self._model.localisation, sought.asked.prompt
        row = sought.row
        if row is None:
            row = yield AttentionRow(self._answered(sought))
        by_question = without_its_sinks(self._model, self._each(row), sought.projection, prompt)
        by_generic = torch.ones_like(by_question)
        if where.generic:
            by_generic = yield from self._by_generic(sought, stages)
        return AttentionMaps(by_question, by_generic)

    def _by_generic(self, sought: Sought, stages: Stages) -> Flow[Tensor]:
        """The map that the question's is divided by; remembered with the prefix."""
        model, asked = self._model, sought.asked
        if sought.prefix not in self._generics:
            prefix: KeptPrefix | None = sought.prefix
            conditioned, projection = list[Features](), sought.projection
            if not self._encoded.shared(asked):
                stages.enter("encode")
                encoded = yield from self._encoded.of(asked)
                one, projection = model.condition(encoded, self._generic)
                prefix, conditioned = None, [one]
                stages.enter("prefill")
            row = yield AttentionRow(prompted(model, sought.slot, asked.generic, prefix, conditioned))
            self._generics[sought.prefix] = model.attention_map(self._each(row)[0], projection, asked.generic)
        return self._generics[sought.prefix]

    def _each(self, row: Tensor) -> Tensor:
        """The question's row [1, N], or that and the sinks' [2, N]."""
        return row[None] if self._model.localisation.sink is None else row

    @torch.inference_mode()
    def _answered(self, sought: Sought) -> Prompted:
        """The answer's first tokens once more, behind the prompt; the slot stays as it is."""
        model, prompt = self._model, sought.asked.prompt
        ids = rows_read(model, sought.answer)
        start, delta = len(prompt.ids), prompt.delta
        places = to_device(torch.arange(start, start + len(ids)), model.device)
        positions = model.step_positions(places, torch.full_like(places, delta))
        rows = Rows(model.embed(to_device(torch.tensor(ids), model.device)), positions)
        return Prompted(sought.slot, start, rows, prompt.spans[0], delta, read=len(ids))


def without_its_sinks(
    model: VisionLanguageModel, rows: Tensor, projection: Tensor | None, prompt: Prompt
) -> Tensor:
    """The question's map, without the cells that are sinks, where the model's localisation has these.

    Args:
        rows: the question's attention row, and the sinks' behind it, [1 or 2, N].
        projection: see `Sought`.
    """
    by_question, sink = model.attention_map(rows[0], projection, prompt), model.localisation.sink
    if sink is None:
        return by_question
    return without_sinks(by_question, model.attention_map(rows[1], projection, prompt), sink.threshold)


def rows_read(model: VisionLanguageModel, answer: tuple[int, ...]) -> list[int]:
    """Of an answer, the tokens whose rows are read: its first, without ends unless there is nothing else."""
    first = answer[: model.localisation.generated_rows]
    return [token for token in first if token not in model.eos_ids] or list(first[:1])


def prompted(
    model: VisionLanguageModel,
    slot: int,
    prompt: Prompt,
    prefix: KeptPrefix | None,
    features: Sequence[Features],
    limit: int = 1,
    tokens: TokenOptions = ONLY_TOKENS,
) -> Prompted:
    """The prompt, or its rest behind the prefix that the slot holds."""
    start = 0
    if prefix is not None:
        start, begins = prefix.length, (prompt.shared, prompt.shared_position)
        assert begins == (start, prefix.next_position), "prompts of one prefix key begin alike"
    rows = model.rows(prompt, start, features)
    return Prompted(slot, start, rows, prompt.spans[0], prompt.delta, limit, tokens=tokens)
