"""`SECONDLOOK_BUILD_KERNELS=cpu`: a wheel for one platform, whose library serves without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from repository import build, copy_sources
from secondlook.kernels.build import build_parameters
from secondlook.kernels.errors import CompilerMissingError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    copy_sources(folder)
    return folder


def built(source: Path, backends: str) -> subprocess.CompletedProcess[str]:
    return build(source, "--wheel", SECONDLOOK_BUILD_KERNELS=backends)


@pytest.mark.slow
def test_the_wheels_library_serves_without_a_compiler(source: Path, tmp_path: Path) -> None:
    try:
        build_parameters("cpu")
    except CompilerMissingError as error:
        pytest.skip(str(error))
    stale = source / "build" / "lib" / "secondlook" / "edge" / "wire.py"
    stale.parent.mkdir(parents=True)
    stale.touch()  # an earlier build's
    done = built(source, "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (source / "dist").iterdir()
    assert not wheel.name.endswith("-none-any.whl")
    with ZipFile(wheel) as opened:
        assert "secondlook/kernels/lib/secondlook_cpu.so" in opened.namelist()
        assert "secondlook/edge/wire.py" not in opened.namelist()
        opened.extractall(tmp_path)
    code = (
        "import torch\n"
        "from secondlook.kernels import status, token_statistics\n"
        "print(status('cpu').source, token_statistics(torch.tensor([[0.0, 2.0]])).token.item())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CXX": "no-such-compiler"}
    environment.pop("SECONDLOOK_KERNELS", None)
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["wheel", "1"], run.stderr


def test_an_unknown_backend_is_named(source: Path) -> None:
    done = built(source, "tpu")
    assert done.returncode != 0
    assert "SECONDLOOK_BUILD_KERNELS: 'tpu' is none of cpu, cuda" in done.stdout + done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch is for CUDA")
def test_cuda_is_refused_where_pytorch_is_for_cpus(source: Path) -> None:
    done = built(source, "cuda")
    assert done.returncode != 0
    assert "'cuda' needs a PyTorch for CUDA" in done.stdout + done.stderr
