"""A folder that is there whole or not at all."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.engine.encoders.manifest import MANIFEST_FILE
from secondlook.export.errors import OutputError
from secondlook.export.folder import check_output, whole_folder

SECONDS = 60


def write(output: Path, text: str = "whole", *, overwrite: bool = False) -> None:
    with whole_folder(output, overwrite=overwrite) as folder:
        (folder / MANIFEST_FILE).write_text(text)
        assert output.exists() == overwrite


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "encoder")
    assert left(tmp_path / "deep") == {"encoder"}
    assert (tmp_path / "deep" / "encoder" / MANIFEST_FILE).read_text() == "whole"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "encoder") as folder:
        (folder / "half").write_text(f"{1 / 0}")
    assert left(tmp_path) == set()


def test_what_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    write(output)
    with pytest.raises(OutputError, match="is there already; choose another --output, or add --overwrite"):
        write(output, "new")
    assert (output / MANIFEST_FILE).read_text() == "whole"
    write(output, "new", overwrite=True)
    assert (output / MANIFEST_FILE).read_text() == "new"
    assert left(tmp_path) == {"encoder"}


def test_an_error_while_replacing_keeps_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    write(output)
    with pytest.raises(ZeroDivisionError), whole_folder(output, overwrite=True):
        raise ZeroDivisionError
    assert (output / MANIFEST_FILE).read_text() == "whole"
    assert left(tmp_path) == {"encoder"}


def test_only_exports_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("photos", "file", "link"):
        with pytest.raises(OutputError, match=r"only .* replaced; choose another --output"):
            check_output(tmp_path / name, overwrite=True)


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "encoder"), pytest.raises(OutputError, match="another process is writing"):
        write(tmp_path / "encoder")
    assert left(tmp_path) == {"encoder"}


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*choose another --output"):
        write(tmp_path / "file" / "encoder")


def test_a_disk_without_room_leaves_nothing(tmp_path: Path) -> None:
    # In a process of its own: no file there may grow beyond 4 kB, as large ones on a full disk cannot; here
    # that would end the test run, whose output may be a file.
    code = f"""
import resource, sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from secondlook.export.errors import OutputError
from secondlook.export.folder import whole_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    with whole_folder(Path({str(tmp_path / "encoder")!r})) as folder:
        (folder / "large").write_text(5000 * "x")
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert "cannot write" in done.stdout, done.stderr
    assert "make room" in done.stdout
    assert left(tmp_path) == set()


def test_a_folder_that_cannot_take_its_place_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, rename = tmp_path / "encoder", Path.rename
    write(output)

    def fails(path: Path, target: Path) -> Path:
        if path.name == ".encoder.partial":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OutputError, match=r"cannot write .*: Input/output error; make room"):
        write(output, "new", overwrite=True)
    assert (output / MANIFEST_FILE).read_text() == "whole"
    assert left(tmp_path) == {"encoder"}


def test_a_process_killed_while_replacing_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    write(output)
    output.rename(tmp_path / ".encoder.old")  # the first of its two renames
    with pytest.raises(OutputError, match="is there already"):
        write(output, "new")
    assert (output / MANIFEST_FILE).read_text() == "whole"
    assert left(tmp_path) == {"encoder"}


def test_a_killed_process_leaves_no_half_folder(tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from secondlook.export.folder import whole_folder
with whole_folder(Path({str(output)!r})) as folder:
    (folder / "half").write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert not output.exists()
    write(output)  # and the next one neither waits for it nor keeps its rest
    assert left(tmp_path) == {"encoder"}
    assert left(output) == {MANIFEST_FILE}
