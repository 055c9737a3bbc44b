"""Relative computation from a log against the FLOPs benchmark, and against a sum over questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.logs import SIZES, header, random_records
from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.analysis.computation import ModelSizes, relative_computation
from secondlook.benchmarks.latency.computation import flow_rows
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.subject import preset
from secondlook.benchmarks.latency.work import Lengths, flow_work
from secondlook.benchmarks.run_log import Record
from secondlook.engine.models.prompts import GENERIC_QUESTION

HEAD = header()


def test_the_sizes_of_a_log_count_as_the_model_does() -> None:
    demo = preset("demo")
    by_log, by_model = SIZES.passes(), PassFlops(demo.config)
    assert by_log.encode(2) == by_model.encode(2)
    assert by_log.encode(features_only=True) == by_model.encode(features_only=True)
    assert by_log.decoder(7, 90) == by_model.decoder(7, 90)
    assert by_log.probe(5, 40, 2) == by_model.probe(5, 40, 2)
    assert by_log.logits(3) == by_model.logits(3)
    assert (SIZES.prefix, SIZES.generic) == (
        demo.prompt(GENERIC_QUESTION, 1)[1][0][1],
        len(demo.prompt(GENERIC_QUESTION, 1)[0]),
    )


@pytest.mark.parametrize("flow", ["ours", "reference"])
def test_one_question_costs_what_the_flops_benchmark_counts(flow: str) -> None:
    demo = preset("demo")
    lengths = Lengths(SIZES.prefix, 158, SIZES.generic, 304, 4, 4)
    (row,) = (row for row in flow_rows(demo, lengths, 0.4) if row["flow"] == flow)
    answers = (a_look(doubts=[0.1] * 4), a_look(doubts=[0.1] * 4))
    first, second = (replace(one, prompt_tokens=n) for one, n in zip(answers, (158, 304), strict=True))
    settings = {"model": {"localisation": {"layers": demo.localisation.layers}}}
    cost = relative_computation(Columns.of([a_record(0, first, second)]), HEAD.made, settings, row["flow"])
    assert cost is not None
    assert cost.base / cost.unit == pytest.approx(row["relative_computation_sure"])
    assert (cost.base + cost.extra) / cost.unit == pytest.approx(row["relative_computation_unsure"])


def test_a_run_costs_the_sum_of_its_questions() -> None:
    records = random_records(8, seed=2)
    cost = relative_computation(Columns.of(records), HEAD.made, HEAD.settings)
    assert cost is not None
    alone = [relative_computation(Columns.of([record]), HEAD.made, HEAD.settings) for record in records]
    for name in ("base", "extra", "unit"):
        assert getattr(cost, name).tolist() == [getattr(one, name).item() for one in alone]
    assert cost.extra[-2:].tolist() == [0.0, 0.0]  # the last picture had no second look
    assert (cost.extra[:-2] > 0).all()


def test_the_second_answer_may_be_of_another_length() -> None:
    passes = SIZES.passes()
    short, long = (
        flow_work("ours", passes, Lengths(148, 160, 159, 304, 4, 4, again), 2, unsure=True)[
            "final_answer"
        ].flops
        for again in (4, 9)
    )
    same = flow_work("ours", passes, Lengths(148, 160, 159, 304, 4, 4), 2, unsure=True)["final_answer"].flops
    assert short == same
    assert long - short == sum(passes.decoder(1, 304 + step) + passes.logits() for step in range(4, 9))


def test_a_log_that_does_not_tell_gives_none() -> None:
    told = random_records(3)
    untold: list[Record] = [a_record(0)]
    assert relative_computation(Columns.of(told), {}, HEAD.settings) is None
    assert relative_computation(Columns.of(untold), HEAD.made, HEAD.settings) is None


def test_sizes_are_whole_numbers() -> None:
    with pytest.raises(ValueError, match=r"heads\n.*valid integer.*1\.5"):
        ModelSizes(**{**vars(SIZES), "heads": 1.5})
    assert np.isfinite(SIZES.passes().encode())
