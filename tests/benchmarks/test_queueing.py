"""The simulation of replicas, beside what queueing theory says, and beside the curve that it is made from."""

from __future__ import annotations

import heapq
import json
import math
import statistics
from typing import Any

import numpy as np
import pytest

from repository import ROOT
from secondlook.benchmarks.queueing import Demand, LoadCurve, simulate
from secondlook.edge.errors import SettingsError

RESULTS = ROOT / "benchmarks" / "results"
SURE, UNSURE = (False,), (True,)


def constant(speed: float = 10.0, second: float = 1.0, slots: float = math.inf) -> LoadCurve:
    return LoadCurve((1, 16), (speed, speed), second, slots)


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_many_edges_at_random_wait_as_long_as_processor_sharing_says(load: float) -> None:
    """By processor sharing the mean (M/G/1) is that of the service over 1 - load, whatever it varies like."""
    edges, speed = 2000, 10.0
    for unsure, second in ((SURE, 1.0), ((True, False, False), 0.5)):
        work = 1 + second * sum(unsure) / len(unsure)
        demand = Demand(edges, load * speed / work / edges, unsure)
        served = simulate(constant(speed, second), demand, 1, 40_000)
        assert served.busy == pytest.approx(load, rel=0.05)
        assert statistics.fmean(served.seconds) == pytest.approx(work / speed / (1 - load), rel=0.15)


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_replicas_share_the_questions_evenly(replicas: int) -> None:
    demand = Demand(3000, 0.5 * 10 * replicas / 3000, SURE)
    served = simulate(constant(), demand, replicas, 20_000)
    assert served.answers_per_second == pytest.approx(5 * replicas, rel=0.05)
    assert served.busy == pytest.approx(0.5, rel=0.07)
    assert statistics.fmean(served.seconds) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("edges", [1, 3, 16])
def test_edges_without_pauses_keep_one_replica_busy(edges: int) -> None:
    served = simulate(constant(), Demand(edges, 0.0, SURE), 1, 1000)
    assert served.answers_per_second == pytest.approx(10, rel=0.02)
    assert served.percentile_ms(50) == pytest.approx(100 * edges)
    assert (served.busy, served.looks) == (pytest.approx(1), pytest.approx(edges))


def test_the_network_is_waited_for_each_way_of_each_look() -> None:
    for unsure, seconds in ((SURE, 0.1 + 2 * 0.3), (UNSURE, 0.1 + 0.05 + 4 * 0.3)):
        served = simulate(constant(second=0.5), Demand(1, 0.0, unsure, delay=0.3), 1, 100)
        assert served.percentile_ms(50) == pytest.approx(1000 * seconds)


def test_looks_beyond_the_slots_wait_in_turn() -> None:
    """With one slot each is served alone; the first of three waits for none, the last for two."""
    served = simulate(constant(slots=1), Demand(3, 0.0, SURE), 1, 300)
    assert served.percentile_ms(50) == pytest.approx(300)
    assert served.looks == pytest.approx(3)


def test_more_at_once_go_faster_as_far_as_was_measured() -> None:
    curve = LoadCurve((1, 4), (10.0, 16.0), 1.0, 64)
    assert [curve.speed_of(looks) for looks in (1, 2, 4, 40)] == [10.0, 12.0, 16.0, 16.0]


def test_one_replica_gives_back_its_own_curve() -> None:
    """Throughput, and both kinds' medians: of many at once the engine's own are within a tenth."""
    found = report("load-demo-float32-cpu.json")
    curve = LoadCurve.of(found)
    for row in found["rows"]:
        share = (True,) * round(1000 * row["looked_twice"]) + (False,) * round(
            1000 * (1 - row["looked_twice"])
        )
        served = simulate(curve, Demand(row["edges"], 0.0, share), 1, 4000)
        assert served.answers_per_second == pytest.approx(row["answers_per_second"], rel=0.03)
        assert served.percentile_ms(50) == pytest.approx(row["p50_ms"], rel=0.1)
        assert served.percentile_ms(90) == pytest.approx(row["p90_ms"], rel=0.1)


def test_a_latency_measurement_is_of_one_look_at_a_time() -> None:
    curve = LoadCurve.of(report("latency-demo-4-cpu.json"))
    assert len(curve.edges) == 1
    assert curve.speed_of(1) == curve.speed_of(16)
    assert 0.3 < curve.second < 1.5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": []}, "it has no load curve"),
        ({"rows": [{"p50_ms": 1.0}]}, "it has no load curve"),
        ({"delay_ms": 20.0}, "without a delay"),
        ({"rate": 0.5}, "without pauses"),
    ],
)
def test_what_is_no_load_curve_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        LoadCurve.of(report("load-demo-float32-cpu.json") | changes)


def test_a_curve_has_one_edge_and_more_and_both_kinds() -> None:
    found = report("load-demo-float32-cpu.json")
    for rows in (found["rows"][:1], found["rows"][1:]):
        with pytest.raises(SettingsError, match="begins with one edge, has more"):
            LoadCurve.of(found | {"rows": rows})
    alone = [{**found["rows"][0], "unsure_p50_ms": None}, *found["rows"][1:]]
    with pytest.raises(SettingsError, match="questions of both kinds"):
        LoadCurve.of(found | {"rows": alone})


class Rounds:
    """Replicas that work in rounds, as the engine does: a round takes longer the more looks are in it, a look
    takes some rounds, and who comes meanwhile waits for the next one."""

    ROUNDS, FIXED, EACH = 7, 0.020, 0.004

    def __init__(self, replicas: int, edges: int, rate: float = 0.0, share: float = 0.4) -> None:
        self.chance = np.random.default_rng(3)
        self.rate, self.share = rate, share
        self.running: list[list[list[Any]]] = [
            [] for _ in range(replicas)
        ]  # rounds left, looks left, asked at
        self.waiting: list[list[list[Any]]] = [[] for _ in range(replicas)]
        self.arrivals = [(self.gap(), edge) for edge in range(edges)]
        self.ends = [math.inf] * replicas
        self.answers: list[tuple[float, float, bool]] = []

    def gap(self) -> float:
        return float(self.chance.exponential(1 / self.rate)) if self.rate else 0.0

    def begin(self, replica: int, now: float) -> None:
        self.running[replica] += self.waiting[replica]
        self.waiting[replica] = []
        looks = len(self.running[replica])
        self.ends[replica] = now + self.FIXED + self.EACH * looks if looks else math.inf

    def run(self, answers: int) -> list[tuple[float, float, bool]]:
        """Of each: when it came, after how long, and whether it took two looks."""
        heapq.heapify(self.arrivals)
        while len(self.answers) < answers:
            replica = int(np.argmin(self.ends))
            if self.arrivals and self.arrivals[0][0] <= self.ends[replica]:
                now, _ = heapq.heappop(self.arrivals)
                replica = int(self.chance.integers(len(self.ends)))
                unsure = bool(self.chance.random() < self.share)
                self.waiting[replica].append([self.ROUNDS, unsure, now, unsure, now + self.gap()])
                if self.ends[replica] == math.inf:
                    self.begin(replica, now)
                continue
            self.round_over(replica, self.ends[replica])
        return self.answers[answers // 10 :]

    def round_over(self, replica: int, now: float) -> None:
        for look in self.running[replica]:
            look[0] -= 1
        over = [look for look in self.running[replica] if not look[0]]
        self.running[replica] = [look for look in self.running[replica] if look[0]]
        for look in over:
            if look[1]:  # the second look
                self.waiting[replica].append([self.ROUNDS, False, *look[2:]])
            else:
                self.answers.append((now, now - look[2], look[3]))
                heapq.heappush(self.arrivals, (max(now, look[4]), 0))
        self.begin(replica, now)


def row(answers: list[tuple[float, float, bool]], edges: int = 0) -> dict[str, Any]:
    """As `bench load` has it."""
    kinds = [[1000 * each[1] for each in answers if each[2] == unsure] for unsure in (False, True)]
    return {
        "edges": edges,
        "answers_per_second": (len(answers) - 1) / (answers[-1][0] - answers[0][0]),
        "p50_ms": 1000 * float(np.percentile([each[1] for each in answers], 50)),
        "p90_ms": 1000 * float(np.percentile([each[1] for each in answers], 90)),
        "sure_p50_ms": float(np.median(kinds[0])),
        "unsure_p50_ms": float(np.median(kinds[1])),
        "looked_twice": statistics.fmean(each[2] for each in answers),
    }


@pytest.mark.parametrize("rate", [0.0, 4.0, 1.5])
@pytest.mark.parametrize(("replicas", "edges"), [(2, 16), (3, 24), (2, 6)])
def test_it_agrees_with_replicas_that_work_in_rounds(replicas: int, edges: int, rate: float) -> None:
    """An engine computes a round for all its looks at once, which is no even sharing. From the curve of one
    such replica, throughput, median and 90th percentile of several are within 15 %."""
    rows = [row(Rounds(1, count).run(2000), count) for count in (1, 2, 4, 8, 16, 24)]
    curve = LoadCurve.of({"rows": rows, "delay_ms": 0.0, "slots": None})
    found = row(Rounds(replicas, edges, rate).run(6000))
    served = simulate(curve, Demand(edges, rate, (True,) * 2 + (False,) * 3), replicas, 6000)
    assert served.answers_per_second == pytest.approx(found["answers_per_second"], rel=0.15)
    assert served.percentile_ms(50) == pytest.approx(found["p50_ms"], rel=0.15)
    assert served.percentile_ms(90) == pytest.approx(found["p90_ms"], rel=0.15)
