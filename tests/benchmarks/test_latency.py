"""The latency benchmark: turns, percentiles, ceilings, and one JSON object as the last line."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.small_llava import VIEW, measure_rates_at_once, tiny_preset, tiny_subject
from engine.packing import can_pack
from secondlook.benchmarks import benches, environment, timing
from secondlook.benchmarks.benches import reported, tell
from secondlook.benchmarks.latency import account, device, latency, subject
from secondlook.benchmarks.latency.device import ExtraMemory, Rates
from secondlook.benchmarks.latency.flow import (
    Metric,
    Outcome,
    Request,
    Sample,
    answer_in_turns,
    fresh_requests,
)
from secondlook.benchmarks.latency.latency import agreement, latency_rows, memory_in_turns, speedup
from secondlook.benchmarks.latency.prefill import Ways
from secondlook.benchmarks.latency.work import FlowName, Work
from secondlook.benchmarks.options import LatencyRun
from secondlook.edge.geometry import Region
from secondlook.engine.cli import command_line, run
from secondlook.kernels import multiplies_bytes

CPU = torch.device("cpu")
OFFERED = ["reference", "strong", "encoding_once", "ours"]
ROW = {"request", "metric", "flow", "p50_ms", "p90_ms", "p99_ms", "max_ms", "ceiling_ms", "count"}
SURE: dict[Metric, Work] = {
    "first_token": Work(1000, 0, 0),
    "first_answer": Work(1000, 300, 3),
    "final_answer": Work(1000, 300, 3),
}
UNSURE: dict[Metric, Work] = {**SURE, "region": Work(3000, 300, 3), "final_answer": Work(7000, 600, 6)}
WORK: dict[bool, dict[FlowName, dict[Metric, Work]]] = {True: {"ours": UNSURE}, False: {"ours": SURE}}
RATES = Rates(bytes_per_second=100, flops_per_second=1000)


class FakeFlow:
    """Answers at once, and notes who was asked what."""

    def __init__(self, name: str, asked: list[tuple[str, bool]]) -> None:
        self.name = name
        self._asked = asked

    def answer(self, request: Request) -> Outcome:
        self._asked.append((self.name, request.look_twice))
        return Outcome((1,), None, None, 0.0, {"final_answer": 1.0})


def sample(flow: str, index: int, seconds: float, *, unsure: bool = True, first: int = 1) -> Sample:
    region = Region(0, 0, 10, 10) if unsure else None
    times: dict[Metric, float] = {"per_token": seconds / 10, "final_answer": seconds}
    outcome = Outcome((first,), region, (2,) if unsure else None, 0.0, times)
    return Sample(flow, index, unsure, outcome)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands on the tiny model, with the device's rates measured in a moment."""
    measure_rates_at_once(monkeypatch)
    monkeypatch.setattr(subject, "preset", lambda _name: tiny_preset())
    monkeypatch.setattr(benches, "configure_logging", lambda _verbose: None)


def bench(*arguments: str) -> Any:
    done = CliRunner().invoke(command_line(), ["bench", *arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.output.splitlines()[-1])


def test_flows_take_turns_on_the_same_requests() -> None:
    asked: list[tuple[str, bool]] = []
    flows = [FakeFlow(name, asked) for name in "abc"]
    samples = list(answer_in_turns(flows, fresh_requests(VIEW, 2, 2, seed=0)))
    assert [name for name, _ in asked] == list("abc" + "bca" + "cab" + "abc")
    assert [unsure for _, unsure in asked] == 3 * [True] + 3 * [False] + 3 * [True] + 3 * [False]
    assert [(s.flow, s.index, s.unsure) for s in samples[2:5]] == [
        ("c", 0, True),
        ("b", 1, False),
        ("c", 1, False),
    ]


def test_rows_are_percentiles_beside_their_ceilings() -> None:
    samples = [sample("ours", index, float(index)) for index in range(101)]
    samples += [sample("ours", 200, 5.0, unsure=False)]
    rows = latency_rows(samples, WORK, RATES, 50)
    final, per_token = (
        next(row for row in rows if (row["request"], row["metric"]) == ("unsure", metric))
        for metric in ("final_answer", "per_token")
    )
    assert (final["p50_ms"], final["p90_ms"], final["p99_ms"]) == pytest.approx((50e3, 90e3, 99e3))
    assert final["max_ms"] == pytest.approx(100e3)
    assert final["count"] == 101
    assert final["ceiling_ms"] == pytest.approx(1e3 * (7 + 6 * 50 / 100))
    assert per_token["ceiling_ms"] == pytest.approx(1e3 * 50 / 100)
    sure = next(row for row in rows if (row["request"], row["metric"]) == ("sure", "final_answer"))
    assert sure["ceiling_ms"] == pytest.approx(1e3 * (1 + 3 * 50 / 100))
    assert {row["metric"] for row in rows} == {"final_answer", "per_token"}


def test_decoding_that_computes_more_than_it_reads_is_bound_by_that() -> None:
    assert Rates(bytes_per_second=1e9, flops_per_second=100).ceiling(Work(0, 300, 3), 50) == 3


def test_speedups_are_ratios_of_medians_of_unsure_requests() -> None:
    samples = [sample("reference", index, value) for index, value in enumerate((6.0, 9.0, 90.0))]
    samples += [sample("ours", index, value) for index, value in enumerate((1.0, 3.0, 4.0))]
    samples += [sample("ours", 9, 100.0, unsure=False), sample("reference", 9, 1.0, unsure=False)]
    assert speedup(samples, "reference") == 3


def test_agreement_is_with_the_reference_flow() -> None:
    samples = [sample("reference", index, 1.0) for index in range(4)]
    samples += [sample("ours", index, 1.0, first=2 if index == 3 else 1) for index in range(4)]
    assert agreement(samples, "ours") == {"first_tokens": 0.75, "region": 1.0, "second_tokens": 1.0}


def test_memory_is_that_of_each_flow() -> None:
    class Hungry(FakeFlow):
        def answer(self, request: Request) -> Outcome:
            torch.ones(2**24)
            return super().answer(request)

    flows = [Hungry("hungry", []), FakeFlow("frugal", []), Hungry("hungry too", [])]
    rows = list(memory_in_turns(flows, fresh_requests(VIEW, 2, 1, seed=0), ExtraMemory(CPU)))
    kinds = [(request, flow.name) for request in ("unsure", "sure") for flow in flows]
    assert [(row["request"], row["flow"]) for row in rows] == kinds
    if sys.platform == "linux":
        assert [row["extra_bytes"] > 2**25 for row in rows] == 2 * [True, False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot forget a process's peak")
def test_memory_is_what_is_taken_after_the_reset() -> None:
    memory = ExtraMemory(CPU)
    assert memory.measure.startswith("peak resident size of the process during each request")
    memory.reset()
    before = memory.read()
    held = torch.ones(2**25)
    assert before < held.nbytes / 4
    assert memory.read() - before > 0.9 * held.nbytes
    memory.reset()
    assert memory.read() < held.nbytes / 4  # held already
    size = held.nbytes
    del held
    memory.reset()
    assert memory.read() < size / 4  # and forgotten


@pytest.mark.usefixtures("quick", "one_thread")
def test_latency_ends_with_one_json_object(tmp_path: Path) -> None:
    output = tmp_path / "latency.json"
    report = bench(
        *("latency", "--device", "cpu", "--repeats", "2", "--warmups", "1", "--new-tokens", "3"),
        *("--output", str(output)),
    )
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert list(report)[:3] == ["speedup_reference", "speedup_strong", "speedup_encoding_once"]
    assert (report["compiled"], report["slots"]) == (False, 2)
    assert report["inputs"] == "every request has a new picture"
    assert {"commit", "torch", "dtype", "device"} <= set(report["environment"])
    assert report["agreement"]["ours"] == {"first_tokens": 1.0, "region": 1.0, "second_tokens": 1.0}
    for row in report["rows"]:
        assert set(row) == ROW
        assert row["count"] == 2
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        # Of two looks the longer may be faster on a machine that does other things, too.
        assert row["metric"] == "per_token" or row["p50_ms"] > 0
        assert row["ceiling_ms"] > 0
    finals = {
        row["flow"]: row["p50_ms"]
        for row in report["rows"]
        if (row["request"], row["metric"]) == ("unsure", "final_answer")
    }
    assert list(finals) == OFFERED
    for flow in OFFERED[:-1]:
        assert report[f"speedup_{flow}"] == pytest.approx(finals[flow] / finals["ours"])
    assert [row["flow"] for row in report["memory"]] == 2 * OFFERED
    # Four layers' keys and values: two slots and the one for padding, two heads 16 wide, room for 256 tokens.
    assert report["slots_bytes"] == 4 * 2 * 3 * 2 * 16 * 256 * 4


@pytest.mark.usefixtures("quick")
def test_flops_end_with_one_json_object(tmp_path: Path) -> None:
    output = tmp_path / "flops.json"
    report = bench("flops", "--new-tokens", "5", "--retransmission-rate", "1", "--output", str(output))
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert list(report)[:2] == ["flops_ratio", "relative_computation"]
    assert report["relative_computation"] == report["rows"][-1]["relative_computation_unsure"]


@pytest.mark.usefixtures("quick", "one_thread")
def test_prefill_ends_with_one_json_object(tmp_path: Path) -> None:
    output = tmp_path / "prefill.json"
    report = bench("prefill", "--device", "cpu", "--repeats", "3", "--output", str(output))
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert [row["request"] for row in report["rows"]] == ["sure", "unsure"]
    for row in report["rows"]:
        assert row["speedup"] == pytest.approx(row["one_pass_ms"] / row["two_passes_ms"])
    ceilings = [row["ceiling_ms"] for row in report["rows"]]
    assert 0 < ceilings[0] < ceilings[1]


@pytest.mark.usefixtures("quick", "one_thread")
def test_an_account_ends_with_one_json_object(tmp_path: Path) -> None:
    output = tmp_path / "account.json"
    asked = ("--device", "cpu", "--repeats", "2", "--sequences", "1", "--sequences", "3", "--few-bits")
    report = bench("account", *asked, "--output", str(output))
    assert report == json.loads(output.read_text(encoding="utf-8"))
    dynamic = ["prefill, int8-dynamic"] if multiplies_bytes() else []
    steps = [f"step of {n}{bits}" for n in (1, 3) for bits in ("", ", int8 weights", ", int4 weights")]
    assert [row["pass"] for row in report["rows"]] == ["encode", "prefill", *dynamic, *steps]
    reads = {row["pass"]: row["reads_mb"] for row in report["rows"]}
    assert 0.25 < reads["step of 1, int8 weights"] / reads["step of 1"] < 0.9
    assert reads["step of 1, int4 weights"] < reads["step of 1, int8 weights"]
    shapes = tiny_subject().preset.shapes  # the engine's own layers may be packed
    encoder = 4 * sum(one.numel() for one in shapes.vision_module().parameters())
    assert report["rows"][0]["reads_mb"] == pytest.approx(encoder / 1e6)
    for row in report["rows"]:
        rates = report["rates"]
        floor = max(
            1e9 * row["gflop"] / rates["flops_per_second"], 1e6 * row["reads_mb"] / rates["bytes_per_second"]
        )
        assert row["floor_ms"] == pytest.approx(1e3 * floor)
        assert row["ratio"] == pytest.approx(row["ms"] / row["floor_ms"])
        assert row["operators"][-1]["name"] == "between operators"
        assert all(each["ms"] >= 0 for each in row["operators"])


@pytest.mark.usefixtures("quick", "one_thread")
def test_an_account_tells_one_of_the_steps_that_are_measured_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account, "Stopwatch", lambda _: SimpleNamespace(read=lambda: 1.0))
    rows = bench("account", "--device", "cpu", "--repeats", "2", "--sequences", "1")["rows"]
    assert {row["pass"]: row["ms"] for row in rows} == {
        "encode": 1000,
        "prefill": 1000,
        "step of 1": 1000 / account._STEPS,
    }


@pytest.mark.usefixtures("one_thread")
def test_both_ways_to_the_rows_come_to_the_same() -> None:
    model = tiny_subject().engine.model
    ways = Ways(model)
    logits, rows = ways.one_pass()
    torch.testing.assert_close(ways.two_passes(), rows, rtol=1e-5, atol=1e-7)
    assert rows.shape == (2, model.most_visual_tokens[0])
    assert not rows[0].allclose(rows[1])
    token = ways._decoder.record.read(0).token_ids
    assert token == (int(logits.argmax()),)


def fails(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(command_line(), ["bench", *arguments])
    assert stopped.value.code == status
    return capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_file_that_cannot_be_written_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    missing = tmp_path / "file" / "report.json"
    assert fails(capsys, 1, "flops", "--output", str(missing)).startswith(f"error: cannot write {missing}")


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, 1, "latency", "--device", "cuda")
    assert error == "error: device 'cuda' is not available: torch sees no CUDA GPU; use cpu\n"


def test_an_unknown_preset_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "large" in fails(capsys, 2, "latency", "--preset", "large")


@pytest.mark.usefixtures("quick")
def test_an_interruption_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "measure_rates", interrupted)
    assert "Traceback" not in fails(capsys, 130, "latency", "--device", "cpu")


def test_a_table_that_fails_loses_no_measurement(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(KeyError):  # it lacks all that the table shows
        tell("load", {"a": 1}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == {"a": 1}
    assert capsys.readouterr().out == '{"a": 1}\n'


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("packed", [False, True])
def test_rates_are_of_the_best_round(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    if not packed:
        monkeypatch.setattr(device, "pack_linear_layers", lambda *_: None)
    elif not can_pack(torch.float32):
        pytest.skip("no layer is packed here")
    monkeypatch.setattr(device, "_VALUES", 1000)
    monkeypatch.setattr(device, "_SIDES", {"cpu": 10})
    monkeypatch.setattr(timing, "_ROUNDS", 3)
    # Of the sum and products: in turns, each after a first time that tells how many calls a round has.
    first, *rounds = [(9.0, 9.0, 9.0), (1.0, 5.0, 7.0), (4.0, 2.0, 3.0), (3.0, 4.0, 5.0)]
    times = iter([each for turn in (first, *rounds) for each in turn[: 2 + packed]])
    monkeypatch.setattr(timing, "_timed", lambda *_: next(times))
    rates = device.measure_rates(torch.float32, CPU)
    assert rates == Rates(bytes_per_second=4000, flops_per_second=2 * 10**3 / 2.0)


def test_rates_are_of_the_median_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pack_linear_layers", lambda *_: None)
    monkeypatch.setattr(device, "_VALUES", 1000)
    monkeypatch.setattr(device, "_SIDES", {"cpu": 10})
    times = iter([1.0, 8.0, 9.0, 5.0, 4.0, 2.0])  # of the sum and the product, in turns
    monkeypatch.setattr(device, "Stopwatch", lambda _: SimpleNamespace(read=lambda: next(times)))
    meter = device.RateMeter(torch.float32, CPU)
    for _ in range(3):
        meter.turn()
    assert meter.median() == Rates(bytes_per_second=1000, flops_per_second=2 * 10**3 / 5.0)


def test_the_commit_is_asked_for_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def make(*_: object, **__: object) -> None:
        asked.append("model")
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "environment", lambda *_: asked.append("environment"))
    monkeypatch.setattr(latency, "build_subject", make)
    with pytest.raises(KeyboardInterrupt):
        reported(LatencyRun(device="cpu"), partial(latency.bench_latency, tiny_preset()))
    assert asked == ["environment", "model"]
