"""Floating-point operations, counted by torch as they run: two for each multiply-add of a matrix product, a
convolution or an attention, nothing for all else.

A model's passes are counted on shapes alone (the meta device), of one token with one key and with two; longer
ones cost as much more as these tell, for every token alike, and for every pair of a query and a key.
Attention counts every query with every key it is given, masked ones too, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from secondlook.edge.geometry import Size, target
from secondlook.edge.wire import View
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.plans import PrefillPlan, Probe, ProbeReached, Rows, Segment
from secondlook.engine.models.base import Picture, QuestionTokens, VisionLanguageModel

__all__ = ["META", "PassFlops", "blank", "counted"]

META: Final = torch.device("meta")


def counted(work: Callable[[], object], formulas: Mapping[Any, Callable[..., int]] | None = None) -> int:
    """FLOPs that torch's counter sees in `work`.

    Args:
        formulas: of operators that it does not know, as `FlopCounterMode` takes them.
    """
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False, custom_mapping=dict(formulas or {})) as counter,
    ):
        work()
    total: int = counter.get_total_flops()
    return total


def blank(model: VisionLanguageModel, view: View, shown: Size) -> Picture:
    """What the model takes of an original (or region) of this size: nothing on it counts."""
    return model.picture(Image.new("RGB", (1, 1)), view, shown)


class PassFlops:
    """FLOPs of a model's passes, told from the shortest ones there are.

    Args:
        model: of shapes alone, on the meta device.
        masked: whether the decoder's attention counts keys that causality hides from a query, too.
    """

    def __init__(self, model: VisionLanguageModel, *, masked: bool = True) -> None:
        self.model, self._masked = model, masked
        probe = model.probe()
        one, two = self._rows(0), self._rows(1)
        self._pair = two - one
        self._token = one - self._pair
        self._row = self._rows(0, probe) - one
        one, two = (self._rows(start, probe, rows_only=True) for start in (0, 1))
        self._probe_pair = two - one - self._row
        self._probe_token = one - self._probe_pair - self._row
        self._logits = counted(lambda: model.logits(torch.empty(1, model.decoder.width, device=META)))
        self._encoded: dict[Size, int] = {}
        self._read: dict[int, int] = {}

    def _rows(self, start: int, probe: Probe | None = None, *, rows_only: bool = False) -> int:
        """Of one row at a place of a sequence, with all before it; `rows_only`: up to the attention row."""
        # Just as long as the sequence: references, which run on shapes, compute with all of a slot.
        cache = KVCache(self.model.decoder, 1, start + 1, torch.float32, META)
        segments = [Segment(0, start, 1, (0, 1), kept=not rows_only)]
        plan = PrefillPlan(cache, segments, probe, rows_only=rows_only)
        positions = self.model.prompt(self.model.tokens("?"), ((1, 1),)).positions[:, :1].to(META)
        rows = Rows(torch.empty(1, self.model.decoder.width, device=META), positions)

        def run() -> None:
            with suppress(ProbeReached):
                self.model.hidden(rows, plan)

        return counted(run)

    def encode(self, view: View, shown: Size) -> int:
        """One picture, of an original (or region) of this size."""
        size = target(view, shown)
        if size not in self._encoded:
            picture = blank(self.model, view, shown)
            self._encoded[size] = counted(lambda: self.model.encode([picture]))
        return self._encoded[size]

    def condition(self, question: QuestionTokens) -> int:
        """What an encoder that reads the question computes of one encoded picture; mostly nothing."""
        length = len(question.instruction)
        if length not in self._read:
            view, shown = self.model.global_view, Size(64, 64)
            (features,) = self.model.encode([blank(self.model, view, shown)])
            self._read[length] = counted(lambda: self.model.condition(features, question))
        return self._read[length]

    def decoder(self, tokens: int, keys: int) -> int:
        """`tokens` new tokens, the last with `keys` keys."""
        return tokens * self._token + self._pairs(tokens, keys) * self._pair

    def probe(self, tokens: int, keys: int) -> int:
        """`tokens` new tokens up to the attention row that is read, over `keys` keys."""
        return tokens * self._probe_token + self._pairs(tokens, keys) * self._probe_pair + self.row(keys)

    def _pairs(self, tokens: int, keys: int) -> int:
        hidden = 0 if self._masked else tokens * (tokens - 1) // 2  # from each the tokens behind it
        return tokens * keys - hidden

    def row(self, keys: int) -> int:
        """The attention row that is read, over `keys` keys."""
        return keys * self._row

    def logits(self, positions: int = 1) -> int:
        """The language model's head."""
        return positions * self._logits
