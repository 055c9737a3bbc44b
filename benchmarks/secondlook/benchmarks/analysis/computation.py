"""Relative computation of a run, from its log alone: token counts, and the sizes that its header states."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import Columns, FloatArray
from secondlook.benchmarks.analysis.curves import Cost
from secondlook.benchmarks.evaluation.sizes import ModelSizes
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.work import FlowName, Lengths, flow_work
from secondlook.engine.method.policy import Policy

__all__ = ["relative_computation"]

_PLAIN: Final[FlowName] = "reference"
"""The flow whose first answer is a plain one: image and question through all of the model, then decoding."""


def relative_computation(
    columns: Columns, made: dict[str, Any], settings: dict[str, Any], flow: FlowName = "ours"
) -> Cost | None:
    """The server's work over that of answering every question once from the global image.

    Song & Kim, arXiv 2512.16349; counted as `secondlook bench flops` counts. None where the log does not
    state the model's sizes or the prompts' lengths, as those of earlier versions do not.

    Args:
        made, settings: the log's header.
    """
    looked = columns.possible
    unknown = (columns.first.prompt_tokens < 0).any() or (columns.second.prompt_tokens[looked] < 0).any()
    if "sizes" not in made or unknown:
        return None
    sizes, layer = ModelSizes(**made["sizes"]), int(settings["model"]["probe_layer"])
    both = np.where(looked, columns.second.prompt_tokens, columns.first.prompt_tokens)
    again = np.where(looked, columns.second.lengths, 1)
    lengths = np.stack([columns.first.prompt_tokens, both, columns.first.lengths, again], axis=1)
    distinct, place = np.unique(lengths, axis=0, return_inverse=True)
    passes = sizes.passes()
    work = np.array([_work(passes, sizes, layer, flow, *map(int, row)) for row in distinct])[place.ravel()]
    plain, sure, unsure = work.T
    return Cost(base=sure, extra=np.where(looked, unsure - sure, 0.0), unit=plain)


def _work(
    passes: PassFlops,
    sizes: ModelSizes,
    layer: int,
    flow: FlowName,
    question: int,
    both: int,
    new: int,
    again: int,
) -> FloatArray:
    """FLOPs of a plain answer, of one that stands, and of one with a second look."""
    decided = min(new, Policy.decide_after)
    lengths = Lengths(sizes.prefix, question, sizes.generic, both, new, decided, again)
    plain = flow_work(_PLAIN, passes, lengths, layer, unsure=False)
    alone, twice = (flow_work(flow, passes, lengths, layer, unsure=unsure) for unsure in (False, True))
    return np.array([done["final_answer"].flops for done in (plain, alone, twice)], np.float64)
