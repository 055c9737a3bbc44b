"""The replicas benchmark: two real servers of a tiny model behind a balancer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.small_llava import tiny_subject
from engine.balancing import balanced
from secondlook.benchmarks.benches import reported
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.options import ReplicasRun
from secondlook.benchmarks.replicas import bench_replicas
from secondlook.benchmarks.report.tables import measured

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run() -> Iterator[ReplicasRun]:
    with (
        loopback_server(tiny_subject().engine) as first,
        loopback_server(tiny_subject().engine) as second,
        balanced(first.removeprefix("http://"), second.removeprefix("http://")) as (front, _),
    ):
        usual = {"retransmission_rate": 0.5, "seconds": 1.5, "warmup_seconds": 0.5, "rounds": 1, "edges": 4}
        yield ReplicasRun(server=front, replica=[first, second], **usual)


def test_servers_are_measured_one_by_one_and_together(run: ReplicasRun) -> None:
    found: dict[str, Any] = reported(run, bench_replicas, "float32")
    assert [row["edges"] for row in found["curve"]] == [1, 2, 4]
    assert (found["replicas"], found["rounds"], found["interrupted"]) == (2, 1, False)
    assert found["measured"]["failures"] == 0
    for name, off in found["off"].items():
        assert found["simulated"][name] / found["measured"][name] - 1 == pytest.approx(off)
    table = measured("replicas", found)
    assert "2 of `tiny` behind one address, 4 edges, without pauses" in table.replace(found["preset"], "tiny")


def test_a_server_that_is_none_is_named(run: ReplicasRun) -> None:
    with pytest.raises(MeasurementError, match=r"http://127\.0\.0\.1:1 is no server that is ready"):
        bench_replicas(replace(run, replica=["http://127.0.0.1:1"]))


@pytest.mark.parametrize(("edges", "counts"), [(16, (1, 2, 4, 8, 16)), (12, (1, 2, 4, 8, 12)), (2, (1, 2))])
def test_a_curve_goes_up_to_all_edges(edges: int, counts: tuple[int, ...]) -> None:
    assert ReplicasRun(server="http://a", replica=["http://b"], edges=edges).counts == counts
