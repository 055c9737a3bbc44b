"""Building and choosing: one cache, one warning, any number of threads and processes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from secondlook.kernels import build, library, token_statistics
from secondlook.kernels.errors import BuildError, CompilerMissingError, KernelError

CPU = torch.device("cpu")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has loaded nothing yet, with an empty cache; returns the cache's folder."""
    monkeypatch.setattr(library, "_state", library._State())
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SECONDLOOK_KERNELS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A stand-in for a C++ compiler that takes a moment and notes each library in a file beside it."""
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version) echo a compiler 1.0; exit;; esac\n'
        f'case " $* " in *" -c "*) ;; *) echo called >> "{tmp_path}/calls";; esac\n'
        "sleep 0.1\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo a library > "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


def calls(compiler: Path) -> int:
    return (compiler.parent / "calls").read_text().count("called")


def test_nothing_is_built_or_loaded_at_import(tmp_path: Path) -> None:
    code = (
        "import secondlook.kernels, torch; print(sum('secondlook' in p for p in torch.ops.loaded_libraries))"
    )
    code += "; from secondlook.kernels import library; print(library._state.loaded)"
    environment = {**os.environ, "SECONDLOOK_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "{}"]
    assert list(tmp_path.iterdir()) == []


def test_a_library_is_built_once_and_then_found(fresh: Path, compiler: Path) -> None:
    parameters = build.build_parameters("cpu")
    first = library.build_library(parameters)
    assert first == library.build_library(parameters)
    assert first.read_text() == "a library\n"
    assert first.is_relative_to(fresh)
    assert calls(compiler) == 1


def test_every_source_is_in_the_library(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in concatenates what it is given."""
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version) exit;; esac\n'
        "said=$(for one; do\n"
        'case "$one" in *.cpp) echo "$one";; *.o) [ ! -e "$one" ] || cat "$one";; esac\n'
        "done)\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo "$said" > "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    parameters = build.build_parameters("cpu")
    made = library.build_library(parameters)
    assert made.read_text().split() == [str(source) for source in parameters.sources]
    assert {path.name for path in made.parent.iterdir()} == {made.name, "lock", library._MARKER}


def test_a_source_that_fails_ends_the_other_compilers(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version) exit;; *"/attention.cpp "*)\n'
        f'until [ -e "{tmp_path}/waits" ]; do sleep 0.01; done; echo wrong; exit 1;; esac\n'
        f'touch "{tmp_path}/waits"\n'
        "exec sleep 1000\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(build, "_at_once", lambda: 2)
    with pytest.raises(BuildError, match=r"failed \(1\):\nwrong"):
        library.build_library(build.build_parameters("cpu"))
    assert not list(fresh.rglob("*.o"))


def test_threads_that_build_at_once_build_once(fresh: Path, compiler: Path) -> None:
    parameters = build.build_parameters("cpu")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(library.build_library(parameters))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert calls(compiler) == 1


def test_processes_that_build_at_once_build_once(fresh: Path, compiler: Path) -> None:
    code = (
        "from secondlook.kernels import build, library\n"
        "print(library.build_library(build.build_parameters('cpu')).read_text())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in processes] == ["a library"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert calls(compiler) == 1


def test_a_build_that_was_killed_is_done_again(fresh: Path, compiler: Path) -> None:
    parameters = build.build_parameters("cpu")
    half = fresh / parameters.key() / parameters.library_name
    half.parent.mkdir(parents=True)
    half.write_text("half a lib")
    assert library.build_library(parameters).read_text() == "a library\n"


def test_a_cache_that_cannot_be_written_is_named(
    fresh: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot build in .*SECONDLOOK_CACHE"):
        library.build_library(build.build_parameters("cpu"))


def test_the_key_follows_everything_that_matters(
    fresh: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = build.build_parameters("cpu")
    keys = {parameters.key(), build.build_parameters("cpu", extra=["-O1"]).key()}
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.add(build.build_parameters("cpu").key())
    assert len(keys) == 3
    assert parameters.key() == parameters.key()


def test_without_a_compiler_the_references_serve_and_one_warning_says_so(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(
        RuntimeWarning, match=r"reference kernels serve on cpu: no C\+\+ compiler.*install"
    ) as said:
        assert library.uses_reference(CPU)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.uses_reference(CPU)
        assert library.status("cpu").source == "reference"


def test_what_the_compiler_said_is_the_reason(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "broken"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo no such header >&2; exit 3; }\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(BuildError, match=r"failed \(3\):\nno such header"):
        library.build_library(build.build_parameters("cpu"))
    assert not list(fresh.rglob("*.so"))
    with pytest.warns(RuntimeWarning, match="no such header"):
        assert library.status("cpu").reason.endswith("no such header")


def test_the_compilers_words_need_not_be_utf_8(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "francophone"
    script.write_text(
        "#!/bin/sh\n"
        "if [ \"$1\" = --version ]; then printf 'g++ (pr\\351version) 12.2\\n'; exit; fi\n"
        "printf 'pas trouv\\351\\n' >&2; exit 3\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert any("g++ (pr" in text for text in build.build_parameters("cpu").identity)
    with pytest.warns(RuntimeWarning, match=r"serve on cpu: .* failed \(3\): pas trouv"):
        assert library.status("cpu").source == "reference"


@pytest.mark.parametrize("asked", ["{} --quick -m64", "env '{}' --quick"])
def test_cxx_is_split_as_a_shell_would(
    asked: str, fresh: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = compiler.with_name("a compiler" if "'" in asked else "compiler")
    words = asked.format(place)
    compiler.rename(place)
    monkeypatch.setenv("CXX", words)
    parameters = build.build_parameters("cpu")
    assert parameters.compiler[1:] == tuple(shlex.split(words))[1:]
    assert "a compiler 1.0\n" in parameters.identity
    assert library.build_library(parameters).read_text() == "a library\n"
    assert calls(compiler) == 1


def test_a_cxx_that_no_shell_could_split_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ 'oops")
    with pytest.raises(CompilerMissingError, match=r"""CXX is "g\+\+ 'oops", .*No closing quotation"""):
        build.build_parameters("cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#!/bin/sh\n", r"wrote no file, though it did not fail: is .*/odd \(CXX=.*/odd\) a compiler"),
        ("echo 1.0\n", r"the compiler .*/odd \(CXX=.*/odd\) cannot be run: Exec format error"),
    ],
)
def test_a_cxx_that_is_no_compiler_is_named(
    content: str, message: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "odd"
    script.write_text(content)
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(KernelError, match=message) as caught:
        library.build_library(build.build_parameters("cpu"))
    assert "SECONDLOOK_CACHE" not in str(caught.value)


def test_the_references_can_be_asked_for(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.set_mode("reference")
    assert library.uses_reference(CPU)
    assert library.status("cpu").reason.startswith("asked for")
    library.set_mode(None)
    assert library.mode() == "auto"
    monkeypatch.setenv("SECONDLOOK_KERNELS", "reference")
    assert library.uses_reference(CPU)


def test_an_unknown_mode_is_an_error(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="must be one of auto, reference, not 'fast'"):
        library.set_mode("fast")  # type: ignore[arg-type]
    monkeypatch.setenv("SECONDLOOK_KERNELS", "no")
    with pytest.raises(KernelError, match="not 'no'"):
        library.mode()


@pytest.fixture
def wheel(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a wheel's libraries, with one that cannot be loaded for each backend."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("secondlook_cpu.so", "secondlook_cuda.so"):
        (folder / name).write_text("of another machine")
    (folder / "secondlook_cuda.architectures").write_text("8.0\n9.0\n")
    monkeypatch.setattr(library, "_WHEEL", folder)
    return folder


def test_where_the_wheels_library_cannot_be_loaded_one_is_built(
    wheel: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = library._register
    monkeypatch.setattr(library, "_register", lambda path: load(path) if path.parent == wheel else None)
    found = library.status("cpu")
    assert found.source == "cache"
    assert "it was built here; the one that came with the package: " in found.reason
    assert calls(compiler) == 1


def test_where_that_fails_too_both_reasons_are_given(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = r"no C\+\+ compiler .*; the one that came with the package: .*secondlook_cpu\.so"
    with pytest.warns(RuntimeWarning, match=said):
        assert library.status("cpu").source == "reference"


def test_a_wheel_without_code_for_the_gpu_does_not_serve(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_USUAL_NVCC", tmp_path / "nvcc")
    monkeypatch.setattr(library, "_present", lambda: ["8.9", "8.7"])
    monkeypatch.setattr(library, "_register", lambda path: None)
    with pytest.warns(RuntimeWarning, match=r"it has code for 8\.0, 9\.0, but the GPU is 8\.7"):
        assert library.status("cuda").source == "reference"
    monkeypatch.setattr(library, "_state", library._State())
    monkeypatch.setattr(library, "_present", lambda: ["8.9", "12.0"])
    assert library.status("cuda").source == "wheel"


def test_the_warning_points_at_the_users_code(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match="reference kernels serve") as said:
        token_statistics(torch.zeros(1, 2))
    assert said[0].filename == __file__


def test_a_child_forked_while_the_library_is_loaded_does_not_wait_for_ever() -> None:
    code = (
        "import os\n"
        "from secondlook.kernels import library\n"
        "with library._state.lock:\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(0 if library._state.lock.acquire(timeout=5) else 1)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0"]


def test_other_devices_use_the_references(fresh: Path) -> None:
    assert library.uses_reference(torch.device("meta"))
