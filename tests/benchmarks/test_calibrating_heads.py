"""`calibrate heads`: what is found, written and told, and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.official_files import WRITERS
from engine.checkpoints import Variant, write_checkpoint
from engine.planted import PLANTED, PlantedModel, painted
from engine.planted import QUESTION as WHERE_IS_RED
from secondlook.benchmarks.calibration import heads as calibrating
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.datasets.question import (
    SHORT_ANSWER,
    AskedPicture,
    DataSet,
    MalformedDataError,
    MissingDataError,
    Question,
)
from secondlook.benchmarks.evaluation.options import Served
from secondlook.benchmarks.report.tables import measured
from secondlook.edge.errors import SettingsError, WriteError
from secondlook.engine.cli import command_line, run
from secondlook.engine.errors import EmptyQuestionError
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.models.settings import Layers, Localisation, read_file

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Painted:
    seed: int
    name: str = ""

    def read(self) -> bytes:
        buffer = io.BytesIO()
        painted(self.seed)[0].save(buffer, "PNG")
        return buffer.getvalue()


class Broken(Painted):
    def read(self) -> bytes:
        return b"no picture"


class Missing(Painted):
    def read(self) -> bytes:
        raise MissingDataError("cannot read the picture away.png: No such file or directory")


def question(boxed: bool, seed: int, text: str = WHERE_IS_RED) -> Question:
    boxes = (painted(seed)[1],) if boxed else ()
    return Question("", "read", text, "", ("red",), "red", lambda *_: 1.0, boxes=boxes)


def pictures(count: int) -> DataSet:
    """Of each one question with a box, and one without."""
    asked = [AskedPicture(n, Painted(n), (question(True, n), question(False, n))) for n in range(count)]
    return DataSet("painted", {}, asked)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> PlantedModel:
    model = PlantedModel()
    monkeypatch.setattr(calibrating, "load_run_model", lambda *_, **__: model)
    return model


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), list(map(str, arguments)))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_planted_head_is_chosen_verified_and_written(planted: PlantedModel, tmp_path: Path) -> None:
    planted.localisation = own = replace(planted.localisation, layers={0: None}, min_cells=1)
    output = tmp_path / "deep" / "localisation.json"
    report = calibrating.calibrate_heads(pictures(30), Served(), output)
    layer, head = PLANTED
    expected = replace(own, layers={layer: {head: 1.0}})
    assert read_file(output, Localisation({9: None}, 1)) == expected
    assert report["found"]
    assert (report["chosen_on"], report["verified_on"], report["pictures"]) == (15, 15, 30)
    assert report["best"]["layers"] == report["ranked"][0]["layers"] == expected.layers
    assert (report["best"]["held"], report["best"]["verified"]["value"]) == (15, 1.0)
    assert report["own"]["layers"] == own.layers
    assert report["better"]["low"] > 0.5


def test_what_was_read_until_ctrl_c_is_used(
    planted: PlantedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.localisation = replace(planted.localisation, layers={0: None})
    read = calibrating._read

    def interrupted(after: int) -> Any:
        left = iter(range(after))

        def one(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return read(*arguments)

        return one

    output = tmp_path / "found.json"
    monkeypatch.setattr(calibrating, "_read", interrupted(19))
    with pytest.raises(MeasurementError, match="only 19 pictures were read, but 20 are needed"):
        calibrating.calibrate_heads(pictures(40), Served(), output)
    assert not output.exists()
    monkeypatch.setattr(calibrating, "_read", interrupted(25))
    report = calibrating.calibrate_heads(pictures(40), Served(), output)
    assert (report["interrupted"], report["pictures"], report["found"]) == (True, 25, True)
    assert output.exists()


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (pictures(19), MalformedDataError, "19 of 19 pictures of painted have a box, but 20 are needed"),
        (
            DataSet("painted", {}, [AskedPicture(n, Painted(n), (question(False, n),)) for n in range(30)]),
            MalformedDataError,
            "0 of 30 pictures",
        ),
        (
            DataSet("painted", {}, [AskedPicture(n, Broken(n), (question(True, n),)) for n in range(30)]),
            MalformedDataError,
            "Broken.*; leave it out with --skip-damaged",
        ),
        (
            DataSet("painted", {}, [AskedPicture(n, Missing(n), (question(True, n),)) for n in range(30)]),
            MissingDataError,
            "^cannot read the picture away.png: No such file or directory$",
        ),
        (
            DataSet(
                "painted", {}, [AskedPicture(n, Painted(n), (question(True, n, " "),)) for n in range(30)]
            ),
            EmptyQuestionError,
            r"question ' ' about Painted\(seed=0, name=''\): the question is empty",
        ),
    ],
)
def test_data_that_cannot_be_used_are_told(
    planted: PlantedModel, tmp_path: Path, data: DataSet, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        calibrating.calibrate_heads(data, Served(), tmp_path / "found.json")
    assert "\n" not in str(raised.value)


def test_damaged_pictures_are_left_out_if_told(planted: PlantedModel, tmp_path: Path) -> None:
    planted.localisation = replace(planted.localisation, layers={0: None})
    data = pictures(25)
    damaged = list(data.pictures)
    for index, kind in ((7, Broken), (9, Missing)):
        damaged[index] = replace(damaged[index], source=kind(index))
    report = calibrating.calibrate_heads(
        replace(data, pictures=damaged), Served(skip_damaged=True), tmp_path / "found.json"
    )
    assert (report["pictures"], report["left_out"], report["found"]) == (23, 2, True)
    told = "2 layers of 2 heads); {}chosen on"
    assert told.format("2 more cannot be read and are left out; ") in measured("heads", report)
    assert told.format("") in measured("heads", report | {"left_out": 0})


def test_questions_are_asked_as_an_evaluation_asks_them(
    planted: PlantedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an instruction that the prompt has anyway."""
    asked, tokens = set[str](), planted.tokens
    monkeypatch.setattr(planted, "tokens", lambda text: asked.add(text) or tokens(text))
    monkeypatch.setattr(planted, "brief", True)
    told = [replace(question(True, n), instruction=SHORT_ANSWER) for n in range(20)]
    data = DataSet("painted", {}, [AskedPicture(n, Painted(n), (one,)) for n, one in enumerate(told)])
    calibrating.calibrate_heads(data, Served(), tmp_path / "found.json")
    assert asked - {GENERIC_QUESTION} == {WHERE_IS_RED}


@pytest.mark.parametrize(
    ("better", "told"),
    [
        ((0.004, 0.0, 0.011), "the best is better by 0.4 (0.0 to 1.1) points, and so not for certain."),
        ((0.0, -0.01, 0.01), "on the other half the best is no better: 0.0 (-1.0 to 1.0) points."),
        ((-0.02, -0.03, 0.01), "on the other half the best is worse: -2.0 (-3.0 to 1.0) points."),
    ],
)
def test_a_best_that_is_not_better_is_not_called_so(
    better: tuple[float, ...], told: str, planted: PlantedModel, tmp_path: Path
) -> None:
    planted.localisation = replace(planted.localisation, layers={0: None})
    report = calibrating.calibrate_heads(pictures(20), Served(), tmp_path / "found.json")
    report |= {"found": False, "better": dict(zip(("value", "low", "high"), better, strict=True))}
    assert f"**None found:** {told}" in measured("heads", report)


def test_a_profile_of_the_answers_rows_is_not_compared(planted: PlantedModel, tmp_path: Path) -> None:
    planted.localisation = replace(planted.localisation, generated_rows=3)
    with pytest.raises(SettingsError, match=r"a\.json reads 3 rows of the answer"):
        calibrating.calibrate_heads(pictures(20), Served(profile="a.json"), tmp_path / "found.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model"), Variant(seed=5)))


@pytest.mark.parametrize(
    ("own", "told", "table"),
    [
        ({0: None}, "wrote {}", "Found: it is better"),
        (
            {PLANTED[0]: {PLANTED[1]: 1.0}},
            "none found: {} is not written",
            "None found:",
        ),
    ],
)
def test_the_command_tells_what_is_found(
    own: Layers,
    told: str,
    table: str,
    planted: PlantedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted.localisation = replace(planted.localisation, layers=own)
    monkeypatch.setattr("secondlook.benchmarks.calibration.cli._boxed", lambda *_: pictures(20))
    output = tmp_path / "found.json"
    assert status("calibrate", "heads", "--output", output) == 0
    said = capsys.readouterr().out
    assert told.format(output) in said
    assert table in said
    report = json.loads(said.splitlines()[-1])
    assert (report["weights"], report["decoder"]) == (planted.digest(), {"layers": 2, "heads": 2})
    assert report["found"] == output.exists() == told.startswith("wrote")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--data-set", "vstar"), 2, "vstar needs --data, the folder of its official files"),
        (("--data", "d", "--boxes", "b"), 2, "--data-set signs takes no --data and no --boxes"),
        (("--images", "i"), 2, "--data-set signs takes no --images"),
        (("--data-set", "vstar", "--data", "d", "--boxes", "b"), 2, "--data-set vstar takes no --boxes"),
        (("--data-set", "textvqa", "--data", "d", "--seed", 1), 2, "--data-set textvqa takes no --seed"),
        (("--data-set", "pope"), 2, "'pope' is not one of 'signs', 'vstar', 'textvqa'"),
        (("--count", 3), 1, "3 of 3 pictures of signs have a box, but 20 are needed"),
        (("--data-set", "textvqa", "--data", "nowhere"), 1, "nowhere"),
        (("--model", "nowhere/at/all"), 1, "nowhere/at/all"),
    ],
)
def test_wrong_options_are_told(
    options: tuple[object, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.json"
    assert status("calibrate", "heads", "--output", output, "--count", 20, *options) == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not output.exists()


@pytest.mark.parametrize("name", ["vstar", "textvqa"])
def test_official_data_sets_are_asked(
    name: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as their few pictures go here."""
    WRITERS[name](tmp_path)
    options = ("--data-set", name, "--data", tmp_path, "--output", tmp_path / "found.json")
    assert status("calibrate", "heads", "--model", folder, *options) == 1
    assert f"pictures of {name} have a box, but 20 are needed" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    planted: PlantedModel, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        calibrating.calibrate_heads(pictures(20), Served(), tmp_path / "file" / "found.json")
