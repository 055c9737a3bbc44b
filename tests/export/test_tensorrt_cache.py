"""The cache of engines: one build for any number of builders, whole folders, no more bytes than allowed."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from export.tensorrt_stand_in import L4, write_graph
from secondlook.engine.encoders.engine_manifest import BuildOptions, EngineManifest
from secondlook.engine.encoders.engine_store import engines_in
from secondlook.engine.encoders.manifest import EncoderManifest
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.export.tensorrt.cache import EngineCache, engine_key
from secondlook.export.tensorrt.errors import EngineBuildError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderManifest:
    return write_graph(tmp_path_factory.mktemp("graph"))


Engine = Callable[..., Callable[[Path], None]]


@pytest.fixture
def engine(encoder: EncoderManifest) -> Engine:
    """Makes builds that take no time, of engines with so many bytes."""

    def made(size: int = 4000, calls: list[int] | None = None) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            profiles, options = (BatchProfile(1, 2, 8),), BuildOptions()
            files = {"encoder.engine": "0" * 64}
            manifest = EngineManifest(encoder, "11.4.0", L4, profiles, options, files)
            manifest.write(folder)
            plan = b"x" * (size - (folder / "engine.json").stat().st_size)
            (folder / "encoder.engine").write_bytes(plan)
            files["encoder.engine"] = hashlib.sha256(plan).hexdigest()
            manifest.write(folder)
            if calls is not None:
                calls.append(size)

        return build

    return made


def test_an_engine_is_built_once_and_then_found(tmp_path: Path, engine: Engine) -> None:
    cache, calls = EngineCache(tmp_path / "engines"), list[int]()
    first = cache.get_or_build("a", engine(calls=calls))
    assert first == cache.get_or_build("a", engine(calls=calls))
    assert len(calls) == 1
    assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o700


def test_builders_at_once_build_once(tmp_path: Path, engine: Engine) -> None:
    cache, calls, begun = EngineCache(tmp_path), list[int](), threading.Barrier(6)

    def run() -> None:
        begun.wait()
        cache.get_or_build("a", engine(calls=calls))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


PROCESS = """
import sys
from pathlib import Path
from secondlook.export.tensorrt.cache import EngineCache

def build(folder):
    (folder / "encoder.engine").write_text("half")
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "engine.json").write_text("{}")

print(EngineCache(Path(sys.argv[1])).get_or_build("a", build), flush=True)
"""


def test_another_process_that_builds_is_left_alone_and_does_not_stand_in_the_way_once_killed(
    tmp_path: Path, engine: Engine
) -> None:
    cache = EngineCache(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        cache.get_or_build("b", engine())
        assert (tmp_path / "a.partial" / "encoder.engine").read_text() == "half"
        assert [path.name for path in engines_in(tmp_path)] == ["b"]  # half of one is none
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "a.partial").is_dir()
    cache.get_or_build("c", engine())
    assert not (tmp_path / "a.partial").exists()  # removed by the next builder, of any engine
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "left").touch()
    assert sorted(path.name for path in cache.get_or_build("a", engine()).iterdir()) == [
        "encoder.engine",
        "engine.json",
    ]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "encoder.engine").write_text("half")
        raise EngineBuildError("no")

    with pytest.raises(EngineBuildError, match="no"):
        EngineCache(tmp_path).get_or_build("a", build)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_engines_not_opened_for_longest_go_first(tmp_path: Path, engine: Engine) -> None:
    cache = EngineCache(tmp_path, most_bytes=14_000)
    for age, key in enumerate(("a", "b", "c")):
        made = cache.get_or_build(key, engine())
        os.utime(made / "engine.json", (1000 + age, 1000 + age))
    os.utime(tmp_path / "a" / "engine.json", (2000, 2000))  # opened
    cache.get_or_build("d", engine())
    assert {path.name for path in engines_in(tmp_path)} == {"a", "c", "d"}
    cache.get_or_build("e", engine(12_000))
    assert {path.name for path in engines_in(tmp_path)} == {"e"}
    with pytest.raises(
        EngineBuildError, match=r"has 16000 bytes, .* may hold 14000; allow more with --cache-gb"
    ):
        cache.get_or_build("f", engine(16_000))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"e"}


@pytest.mark.parametrize("damage", ["truncated", "no plan", "no manifest"])
def test_an_engine_that_is_damaged_is_built_again(
    tmp_path: Path, engine: Engine, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, calls = EngineCache(tmp_path, most_bytes=7000), list[int]()  # there is no room for both
    found = cache.get_or_build("a", engine(calls=calls))
    if damage == "truncated":
        os.truncate(found / "encoder.engine", 100)
    else:
        (found / ("engine.json" if damage == "no manifest" else "encoder.engine")).unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_build("a", engine(calls=calls)) == found
    assert len(calls) == 2
    assert "built again: " in caplog.text
    assert sorted(path.name for path in found.iterdir()) == ["encoder.engine", "engine.json"]
    assert cache.get_or_build("a", engine(calls=calls)) == found
    assert len(calls) == 2


def test_what_a_process_killed_while_giving_up_an_engine_left_is_removed(
    tmp_path: Path, engine: Engine
) -> None:
    cache = EngineCache(tmp_path)
    cache.get_or_build("a", engine()).rename(tmp_path / "a.old")
    cache.get_or_build("b", engine())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"b"}


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineBuildError, match=r"cannot keep an engine in .*file"):
        EngineCache(tmp_path / "file").get_or_build("a", engine())
    with pytest.raises(EngineBuildError, match="at least 1 byte, not 0"):
        EngineCache(tmp_path, 0)


def test_the_key_follows_everything_that_decides_what_is_built(tmp_path: Path) -> None:
    encoder, other = write_graph(tmp_path / "a"), write_graph(tmp_path / "b", "float16")
    profiles, options = (BatchProfile(1, 2, 8),), BuildOptions()
    keys = {
        engine_key(encoder, "11.4.0", L4, profiles, options),
        engine_key(other, "11.4.0", L4, profiles, options),
        engine_key(encoder, "11.4.1", L4, profiles, options),
        engine_key(encoder, "11.4.0", L4, (BatchProfile(1, 2, 4),), options),
        *(
            engine_key(encoder, "11.4.0", dataclasses.replace(L4, **{name: "other"}), profiles, options)
            for name in ("gpu", "compute_capability", "driver")
        ),
        *(
            engine_key(encoder, "11.4.0", L4, profiles, BuildOptions(**changed))  # type: ignore[arg-type]
            for changed in (
                {"workspace_mb": 1},
                {"hardware_compatibility": "ampere_plus"},
                {"version_compatible": True},
                {"detailed": True},
                {"tf32": True},
            )
        ),
    }
    assert len(keys) == 12
    assert engine_key(encoder, "11.4.0", L4, profiles, options) in keys
