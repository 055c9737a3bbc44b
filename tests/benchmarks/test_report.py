"""`secondlook report` from the command line on, its one-line errors, and what is said of the claims."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from benchmarks.logs import header, random_records, write_run
from benchmarks.samples import a_look, a_record, drawn_scene, smallest
from secondlook.benchmarks import cli
from secondlook.benchmarks.analysis.curves import Line, envelope
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.runs import read_family
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, Separation
from secondlook.benchmarks.report.claims import arbitration, first_tokens, jpeg, nearly_full, ranking
from secondlook.benchmarks.report.content import describe
from secondlook.benchmarks.report.document import Example, Section, as_markdown, parted, percent
from secondlook.benchmarks.run_log import Record, Skipped, write_log
from secondlook.engine.cli import command_line, run
from secondlook.engine.method.policy import Policy

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)  # the root logger belongs to pytest


def report(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["report", "--resamples", "50", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def of_real_pictures(records: list[Record], seed: int = 3) -> list[Record]:
    """The same about the smallest pictures of a seed, so that they are quickly drawn."""
    indices = smallest("test", seed, range(60), 1 + records[-1].index)
    sizes = [drawn_scene("test", seed, index).size.pixels for index in indices]
    return [
        replace(record, index=indices[record.index], original_pixels=sizes[record.index])
        for record in records
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of three logs that differ in qualities."""
    folder = tmp_path_factory.mktemp("report")
    logs = [
        write_run(
            folder / f"{quality}.jsonl",
            of_real_pictures(random_records(25, seed=quality, quality=quality)),
            header(quality=quality),
        )
        for quality in (90, 95, 40)
    ]
    assert report(*logs, "--output", folder / "out", "--examples", 2) == 0
    return folder / "out"


class Tags(HTMLParser):
    """Everything a page has, as (tag, attributes)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "index.html").read_text(encoding="utf-8")
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "audio", "video"}
    for tag, attributes in tags:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:", "#")), (tag, link)
    assert not re.findall(r"url\((?!#)", page)
    assert "@import" not in page


def test_the_page_shows_every_plot_and_links_every_section(written: Path) -> None:
    page = (written / "index.html").read_text(encoding="utf-8")
    tags = Tags(page).found
    plots = {path.stem for path in (written / "plots").glob("*.svg")}
    assert sum(tag == "svg" for tag, _ in tags) == len(plots) == 11
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes["href"] or "")[1:] for tag, attributes in tags if tag == "a"}
    assert len(links) == 12
    assert links <= set(ids)
    assert sum(tag == "img" for tag, _ in tags) == 2 * 3
    assert "What number is on sign" in page
    assert "&lt;read&gt;" in page  # what a data set says is text


def test_plots_are_files_too_that_follow_the_readers_scheme(written: Path) -> None:
    for path in (written / "plots").glob("*.svg"):
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == f"{SVG}svg"
        styles = [style.text or "" for style in root.iter(f"{SVG}style")]
        assert any("prefers-color-scheme:dark" in style for style in styles)
        assert any(text.text for text in root.iter(f"{SVG}text"))


def test_every_colour_of_a_drawing_has_one_for_dark_paper(written: Path) -> None:
    for path in (written / "plots").glob("*.svg"):
        drawing = path.read_text(encoding="utf-8").partition("</style>")[2]
        colours = re.findall(r"(?<!, )#[0-9a-f]{6}\b", drawing)
        assert set(colours) <= {"#000000"}, path.name  # matplotlib's default style, overruled everywhere


def test_the_summary_has_the_same_sections_and_links_the_plots(written: Path) -> None:
    summary = (written / "summary.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", summary, re.MULTILINE)
    assert titles[:3] == ["What two looks give", "What holds here", "Accuracy against communication"]
    assert titles[-2:] == ["Examples", "Settings and environment"]
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", summary):
        assert (written / link).is_file()
    for line in summary.splitlines():
        if line.startswith("| --- "):
            assert set(line) <= set("|-: ")


def test_the_summary_says_what_the_logs_say(written: Path) -> None:
    summary = (written / "summary.md").read_text(encoding="utf-8")
    records = random_records(25, seed=90, quality=90)
    first = 100 * np.mean([record.first.score for record in records])
    always = 100 * np.mean([(record.second or record.first).score for record in records])
    cells = {
        line.split(" | ")[0][2:]: line.split(" | ")[1]
        for line in summary.splitlines()
        if line.startswith("| ")
    }
    assert cells["one look"].startswith(f"{first:.1f} % (")
    assert cells["always two looks"].startswith(f"{always:.1f} % (")
    assert "an earlier version" not in summary
    assert "50 bootstrap resamples" in summary


def test_examples_of_other_data_come_from_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images" / "deep"
    images.mkdir(parents=True)
    Image.effect_noise((800, 600), 60).convert("RGB").save(images / "street.jpg")
    records = [replace(record, file="street.jpg", original_pixels=480_000) for record in random_records(4)]
    log = write_run(tmp_path / "pope.jsonl", records, header(data={"name": "pope"}))
    assert report(log, "--output", tmp_path / "without") == 0
    assert "name their folder with --images" in (tmp_path / "without" / "summary.md").read_text(
        encoding="utf-8"
    )
    assert report(log, "--output", tmp_path / "with", "--examples", 1, "--images", images.parent) == 0
    assert "Original, 800 by 600" in (tmp_path / "with" / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    other = [replace(record, original_pixels=480_001) for record in records]
    log = write_run(tmp_path / "other.jsonl", other, header(data={"name": "pope"}))
    assert report(log, "--output", tmp_path / "with", "--examples", 1, "--images", images.parent) == 1
    assert "has 480000 pixels, and 480001 in the log" in capsys.readouterr().err
    assert report(log, "--output", tmp_path / "with", "--images", tmp_path / "without") == 1
    assert "has no picture street.jpg" in capsys.readouterr().err


def test_a_run_without_wrong_answers_is_reported(tmp_path: Path) -> None:
    records = [
        replace(record, first=replace(record.first, score=1.0), region_hit=None, boxes=(), relevance=None)
        for record in random_records(3)
    ]
    log = write_run(tmp_path / "dull.jsonl", records)
    assert report(log, "--output", tmp_path / "out") == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "Every first answer is right" in summary
    assert "no boxes that would say where to look" in summary
    assert "nan" not in summary.lower()


def test_a_run_without_second_looks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [replace(record, second=None, region=None, region_hit=None) for record in random_records(3)]
    assert report(write_run(tmp_path / "run.jsonl", records), "--output", tmp_path / "out") == 1
    assert "run.jsonl has no second look" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["missing", "damaged", "folder"])
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log, output = tmp_path / "run.jsonl", tmp_path / "out"
    if what == "damaged":
        log.write_text("{}\n", encoding="utf-8")
    elif what == "folder":
        write_run(log, random_records(2))
        output.write_text("in the way", encoding="utf-8")
    assert report(log, "--output", output) == 1
    out, err = capsys.readouterr()
    expected = {"missing": "cannot read the log", "damaged": "is not a log", "folder": "cannot write"}
    assert out == ""
    assert expected[what] in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_figures_are_written_with_their_intervals() -> None:
    assert percent(Estimate(0.5, 0.25, 0.75)) == "50.0 % (25.0 to 75.0)"
    assert percent(Estimate(np.nan, np.nan, np.nan)) == "-"
    assert parted("50.0 % (25.0 to 75.0)") == ("50.0 %", "25.0 to 75.0")
    assert parted("+1.0 (-5.7 to +7.1)") == ("+1.0", "-5.7 to +7.1")
    assert parted("share (here)") is None


def test_what_helps_beyond_the_interval_is_not_said_of_a_few_questions(tmp_path: Path) -> None:
    records = [replace(record, relevance=None) for record in random_records(40)]
    for pictures, said in ((40, True), (25, False)):  # a question of each kind about each
        log = write_run(tmp_path / f"{pictures}.jsonl", records[: 2 * pictures])
        assert report(log, "--output", tmp_path / "out") == 0
        summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
        assert ("It helps, beyond the interval, with: read." in summary) is said


def line(cost: list[float], accuracy: list[float]) -> Line:
    return Line(
        np.array([np.inf, *range(len(cost) - 1, 0, -1)], np.float64), np.array(cost), np.array(accuracy)
    )


@pytest.mark.parametrize("holds", [True, False])
def test_full_accuracy_at_half_the_communication(holds: bool) -> None:
    found = nearly_full(Estimate(0.5 if holds else 0.6, 0.4, 0.7), 1.0, 0.81, "pixels")
    assert found.holds is holds
    assert ("reached at 0.50 (0.40 to 0.70), 50 % less than always" in found.detail) is holds


def test_an_accuracy_that_arbitration_never_reaches_is_said_so() -> None:
    found = nearly_full(Estimate(np.nan, np.nan, np.nan), 1.0, 0.8, "bytes")
    assert (found.holds, found.detail[:13]) == (False, "never reached")


def area(value: float) -> Separation:
    none = Estimate(np.nan, np.nan, np.nan)
    return Separation(Estimate(value, value, value), none, none)


@pytest.mark.parametrize(("least", "holds"), [(0.92, True), (0.89, False), (np.nan, None)])
def test_the_ranking_of_measures(least: float, holds: bool | None) -> None:
    found = ranking({"min-entropy": area(least), "Shannon entropy": area(0.91), "margin": area(0.8)})
    assert found.holds is holds
    assert ("the paper's ranking of measures did not hold here" in found.detail) is (holds is False)


def test_arbitration_is_compared_at_every_threshold() -> None:
    surer_but_wrong = a_record(0, a_look(1.0, [2.0]), a_look(0.0, [0.1]))
    vaguer_but_right = a_record(1, a_look(0.0, [1.0]), a_look(1.0, [3.0]))
    for records, worst, best in (
        ([surer_but_wrong, vaguer_but_right], "-50.00", "+0.00"),
        ([a_record(0, a_look(1.0, [1.0]), a_look(0.0, [3.0]))], "+0.00", "+100.00"),
    ):
        replays = (Replay(records, Policy(0.0, arbitration=kept)) for kept in (True, False))
        found = arbitration(*replays, Bootstrap(np.arange(len(records))))
        assert found.holds is (worst == "+0.00")
        assert f"at worst {worst} (" in found.detail
        assert f"at best {best}" in found.detail


def test_the_first_tokens_decide_as_well_as_all_only_if_they_do() -> None:
    late = [0.1] * 5 + [9.0]  # all doubt is in the sixth token
    records = [
        a_record(0, a_look(0.0, late), a_look(1.0, [0.0])),
        a_record(1, a_look(1.0, [0.5]), a_look(1.0, [0.0])),
    ]
    every = Replay(records, Policy(0.0, decide_after=9))
    five = Replay(records, Policy(0.0, aggregation="first_k", first_k=5))
    found = first_tokens(every, five, Bootstrap(every.columns.picture))
    assert found.holds is False
    assert found.detail.startswith("at worst -50.0 (")
    assert found.detail.endswith(" points, at a rate of 50 %; 50 % of the first answers are longer")
    assert first_tokens(every, every, Bootstrap(every.columns.picture)).holds is True


def test_an_operating_point_that_beats_one_good_image() -> None:
    lines = [line([100.0, 200.0], [0.5, 0.9]), line([300.0, 500.0], [0.6, 0.95])]
    best = envelope(lines)
    pairs = [(50, 70), (95, 90)]
    assert jpeg(best, pairs, (300.0, 0.6), 7).detail.endswith(" (on the 7 questions that all logs have)")
    found = jpeg(best, pairs, (300.0, 0.6))
    assert found.holds is True
    assert found.detail.startswith(
        "0.2 kB, 90.0 % with qualities 50 and 70; one global image at quality 95: 0.3 kB"
    )
    assert jpeg(best, pairs, (100.0, 0.6)).holds is False
    assert jpeg(best, pairs, None).holds is None


def test_pictures_left_out_are_counted_and_named(tmp_path: Path) -> None:
    records = [replace(record, relevance=None) for record in random_records(6)]
    pictures = [list(group) for _, group in groupby(records, key=lambda record: record.index)]
    log = tmp_path / "run.jsonl"
    write_log(log, header(), [*pictures, Skipped(6, "night_1.jpg", "it stops too early")])
    assert report(log, "--output", tmp_path / "out") == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "| log | qualities | questions | pictures left out |" in summary
    assert "| run.jsonl | 90 and 90 | 12 | 1 |" in summary
    assert r"Left out: night\_1.jpg: it stops too early." in summary
    assert "night_1.jpg: it stops too early" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


HOSTILE = [
    "[here](javascript:alert%281%29)",
    "![seen](https://tracker.example/pixel.png)",
    "<javascript:alert(1)> <img src=https://tracker.example/a.png>",
    "&lt;script&gt; [&#106;avascript](&#106;avascript:x)",
    "[a]: https://tracker.example/b.png\r\n\r\n![a]\r# Title\u2028| cell | $x$ ~~gone~~",
    "\\[here](javascript:alert(1)) `code`",
]


def test_what_people_and_models_say_is_text_in_the_summary(tmp_path: Path) -> None:
    records = [
        replace(
            record,
            question=f"q {HOSTILE[record.index % 6]}",
            type=f"t {HOSTILE[record.index % 2]} $x_$",
            truth=HOSTILE[(record.index + 1) % 6],
            first=replace(record.first, text=HOSTILE[(record.index + 2) % 6]),
        )
        for record in random_records(12)
    ]
    data = {"name": "signs", "split": f"s {HOSTILE[1]}", "seed": 3}
    log = write_run(tmp_path / "run.jsonl", records, header(data=data))
    document = describe(read_family([log]), examples=0, resamples=50)
    example = Example("An example", HOSTILE[4], tuple(("said", text) for text in HOSTILE), ())
    sections = (*document.sections, Section("Hostile", tuple(HOSTILE), (example,)))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(
        as_markdown(replace(document, sections=sections), "plots")
    )
    inner = [part for token in tokens for part in token.children or ()]
    assert {token.type for token in tokens} & {"html_block", "code_block", "fence"} == set()
    assert {part.type for part in inner} <= {
        "text",
        "strong_open",
        "strong_close",
        "em_open",
        "em_close",
        "image",
    }
    links = [part.attrs["src"] for part in inner if part.type == "image"]
    assert all(re.fullmatch(r"plots/[\w-]+\.svg", str(link)) for link in links)
    texts = "".join(part.content for part in inner if part.type == "text")
    for text in HOSTILE:
        assert " ".join(text.splitlines()) in texts
