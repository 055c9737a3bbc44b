"""The edge benchmark: both ways make the same pictures, processes are measured alone, and what is told."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from secondlook.benchmarks import benches
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.edge import edge, measure
from secondlook.benchmarks.edge.edge import edge_rows, headline
from secondlook.benchmarks.edge.measure import (
    Case,
    ProcessCost,
    Round,
    Sample,
    camera_jpeg,
    command_cost,
    cost,
    draw,
    picture_size,
    region_at,
    rounds,
)
from secondlook.benchmarks.edge.ways import WAYS, Task, Wanted, make
from secondlook.benchmarks.options import EdgeRun
from secondlook.edge import Region, Size, decode_jpeg
from secondlook.edge.validation import from_json
from secondlook.engine.cli import command_line

FRAME = draw(Size(400, 300), np.random.default_rng(1))
JPEG = camera_jpeg(FRAME)


def pixels(jpeg: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(decode_jpeg(jpeg), np.float64)


@pytest.mark.parametrize("mode", ["squash", "pad"])
@pytest.mark.parametrize("source", [FRAME, JPEG])
def test_both_ways_make_the_same_pictures(source: Any, mode: Any) -> None:
    wanted = Wanted(EdgeRun(image_size=96, resize_mode=mode).view, Region(100, 50, 300, 200))
    ours, plain = (make(way, "both", source, wanted) for way in WAYS)
    assert [decode_jpeg(each).size for each in ours] == [(96, 72) if mode == "pad" else (96, 96)] * 2
    for one, other in zip(ours, plain, strict=True):
        assert pixels(one).shape == pixels(other).shape
        assert np.square(pixels(one) - pixels(other)).mean() < 255**2 / 10**3.5  # 35 dB
    for way, both in zip(WAYS, (ours, plain), strict=True):
        assert make(way, "global", source, wanted) + make(way, "local", source, wanted) == both


def test_pictures_are_cameras_and_regions_lie_inside() -> None:
    assert [str(picture_size(each)) for each in (2, 8, 12)] == ["1633x1225", "3266x2450", "4000x3000"]
    assert draw(Size(40, 30), np.random.default_rng(5)) == draw(Size(40, 30), np.random.default_rng(5))
    assert region_at(Size(400, 300), 100, 1, 1) == Region(250, 150, 400, 300)
    assert region_at(Size(400, 100), 100, 0, 0.5) == Region(0, 0, 150, 100)
    generator = np.random.default_rng(0)
    regions = {region_at(Size(4000, 3000), 336, *generator.random(2)) for _ in range(50)}
    assert len(regions) == 50
    assert all(each.within(Size(4000, 3000)) and each.size == Size(504, 504) for each in regions)


def test_every_round_has_new_pictures_and_both_ways_the_same() -> None:
    run = EdgeRun(megapixels=[0.02, 0.05], image_size=32, rounds=2, warmups=1)
    done = list(rounds(run))
    assert len(done) == 3
    for each in done:
        assert len(each) == 2 * 2 * 3 * 2
        for case, sample in each.items():
            assert sample.original_bytes == each[case._replace(way="plain")].original_bytes
            assert sample.seconds > 0
            if case.kind == "raw":
                assert sample.original_bytes == picture_size(case.megapixels).pixels * 3
    case = Case("jpeg", 0.05, "both", "edge")
    assert len({each[case].original_bytes for each in done}) == 3
    first = [next(iter(each)).way for each in done]
    assert first == ["plain", "edge", "plain"]
    assert [each[case].sent_bytes for each in rounds(run)] == [each[case].sent_bytes for each in done]


def test_a_picture_of_no_use_is_refused() -> None:
    done = CliRunner().invoke(command_line(), ["bench", "edge", "--megapixels", "2", "--megapixels", "100"])
    assert done.exit_code == 2


def test_the_peak_is_the_processs_own() -> None:
    held = bytearray(300_000_000)  # by this process, not by those
    small, large = (cost([sys.executable, "-c", f"b'x' * {size}"]) for size in (1, 100_000_000))
    assert small.peak_bytes < 50_000_000 < len(held)
    assert large.peak_bytes - small.peak_bytes == pytest.approx(100_000_000, rel=0.05)


def test_a_process_that_fails_is_not_measured() -> None:
    with pytest.raises(MeasurementError, match="ended with 3: no such luck"):
        cost([sys.executable, "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"])


def test_a_task_survives_json() -> None:
    task = Task(
        "plain",
        "both",
        "a.rgb",
        None,
        Wanted(EdgeRun(image_size=96, resize_mode="pad").view, Region(1, 2, 3, 4)),
    )
    assert from_json(Task, task.to_json()) == task


def test_an_edge_stays_small_with_a_large_picture(tmp_path: Path) -> None:
    """In portrait, and with the region where all of the picture must be decoded."""
    exif = Image.Exif()
    exif[0x0112] = 6
    size = picture_size(12)
    picture = tmp_path / "portrait.jpg"
    picture.write_bytes(camera_jpeg(draw(size, np.random.default_rng(0)), exif=exif))
    assert Image.open(io.BytesIO(picture.read_bytes())).size == (4000, 3000)
    region = region_at(Size(size.height, size.width), 336, 0, 0.5)
    assert command_cost(picture, Wanted(EdgeRun().view, region)).peak_bytes <= 120e6


def cases(edge_seconds: float, plain_seconds: float, megapixels: float = 12.0) -> Round:
    return {
        Case("jpeg", megapixels, "global", "edge"): Sample(edge_seconds, 0.5, 100, 4000),
        Case("jpeg", megapixels, "global", "plain"): Sample(plain_seconds, 1.5, 110, 4000),
    }


def test_rows_compare_medians() -> None:
    measured = [cases(0.1, 0.5), cases(0.2, 0.6), cases(0.3, 0.7)]
    peaks = {
        case: ProcessCost(90_000_000 if case.way == "edge" else 130_000_000, 9.0) for case in measured[0]
    }
    (row,) = edge_rows(measured, peaks)
    assert row["speedup"] == pytest.approx(3.0)
    assert (row["edge"]["p50_ms"], row["plain"]["p50_ms"]) == pytest.approx((200, 600))
    assert row["edge"]["p90_ms"] == pytest.approx(280)
    assert (row["edge"]["cpu_seconds"], row["plain"]["cpu_seconds"]) == (0.5, 1.5)
    assert (row["edge"]["peak_mb"], row["plain"]["peak_mb"]) == (90, 130)
    sent = (row["edge"]["sent_bytes"], row["plain"]["sent_bytes"], row["original_bytes"])
    assert sent == (100, 110, 4000)


def test_the_headline_is_of_the_largest_jpeg() -> None:
    measured = [cases(0.1, 0.5) | cases(0.1, 0.2, megapixels=2.0)]
    peaks = dict.fromkeys(measured[0], ProcessCost(1, 1.0))
    assert headline(edge_rows(measured, peaks)) == pytest.approx(5)


def test_the_command_ends_with_one_json_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = measure.task_cost

    def task_cost(task: Task) -> ProcessCost:  # a process takes its time, and these are many
        return real(task) if task.sent == "both" else ProcessCost(50_000_000, 0.5)

    monkeypatch.setattr(measure, "task_cost", task_cost)
    monkeypatch.setattr(benches, "configure_logging", lambda _verbose: None)
    output = tmp_path / "edge.json"
    done = CliRunner().invoke(
        command_line(),
        [
            *("bench", "edge", "--megapixels", "0.1", "--image-size", "48", "--resize-mode", "pad"),
            *("--rounds", "2", "--warmups", "1", "--output", str(output)),
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert list(report)[:2] == ["speedup_global_jpeg", "command_peak_mb"]
    assert report["rounds"] == 2
    assert "times as fast as plainly (aim: 3)" in " ".join(done.output.split())
    kinds = [(row["kind"], row["sent"]) for row in report["rows"]]
    assert kinds == [(kind, sent) for kind in ("jpeg", "raw") for sent in ("global", "local", "both")]
    peaks = [row[way]["peak_mb"] for row in report["rows"] for way in WAYS]
    peaks += [row["peak_mb"] for row in report["commands"]]
    assert all(10 < peak < 120 for peak in peaks)
    assert report["command_peak_mb"] == max(row["peak_mb"] for row in report["commands"][:3])
    assert [row["progressive"] for row in report["commands"]] == [False, False, False, True]


def test_an_interruption_keeps_the_complete_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: EdgeRun) -> Iterator[Round]:
        yield cases(9.0, 9.0)  # the warm-up
        yield cases(0.1, 0.5)
        yield cases(0.3, 0.5)
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "rounds", interrupted)
    monkeypatch.setattr(measure, "command_rows", lambda *_: [{"progressive": False, "peak_mb": 99.0}])
    costs = dict.fromkeys(cases(1, 1), ProcessCost(1, 1.0)).items()
    monkeypatch.setattr(measure, "way_costs", lambda *_: costs)
    report = edge.bench_edge(EdgeRun(warmups=1))
    assert (report["interrupted"], report["rounds"]) == (True, 2)
    assert report["rows"][0]["edge"]["p50_ms"] == pytest.approx(200)
