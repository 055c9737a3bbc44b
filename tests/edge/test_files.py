"""Files are there whole, or as they were before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from limits import files_of_at_most
from secondlook.edge.errors import WriteError
from secondlook.edge.files import check_writable, write_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_with_their_folders(tmp_path: Path) -> None:
    write_files({tmp_path / "a" / "text": "fünf Grüße\n", tmp_path / "b" / "c" / "bytes": b"\0\1"})
    assert (tmp_path / "a" / "text").read_bytes() == "fünf Grüße\n".encode()
    assert (tmp_path / "b" / "c" / "bytes").read_bytes() == b"\0\1"
    assert names(tmp_path / "a") == ["text"]


def test_without_room_all_stay_as_they_were(tmp_path: Path) -> None:
    files = {tmp_path / "small": "new", tmp_path / "large": 5000 * "x"}
    (tmp_path / "small").write_text("old")
    with files_of_at_most(4096), pytest.raises(WriteError) as caught:
        write_files(files)
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'large'}: File too large; make room, or choose another place"
    )
    assert (tmp_path / "small").read_text() == "old"
    assert names(tmp_path) == ["small"]


def test_a_disk_that_fails_late_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(WriteError, match=r"cannot write .*file: No space left on device; make room"):
        write_files({tmp_path / "file": "new"})
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    write_files({tmp_path / "link": "new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read:
        write_files({Path(f"/dev/fd/{writer}"): "through", Path("/dev/null"): "gone"})
        os.close(writer)
        assert read.read() == b"through"
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o400)
    with pytest.raises(WriteError, match="Permission denied"):
        write_files({tmp_path / "file": "new"})
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("name", "why"), [("folder", "Is a directory"), ("file/inner", "File exists")])
def test_places_are_checked_before_the_work(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(WriteError, match=rf"cannot write .*{name}: {why}; "):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path / "new") == []
