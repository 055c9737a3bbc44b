"""The CUDA sources without a GPU: every architecture that nvcc knows, no warning, no register spilt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secondlook.kernels.build import ARCHITECTURES, build_parameters, compile_library, known_architectures
from secondlook.kernels.errors import CompilerMissingError


@pytest.fixture(scope="module")
def nvcc() -> str:
    try:
        return build_parameters("cuda").compiler[0]
    except CompilerMissingError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_every_architecture_compiles_without_warnings_or_spills(nvcc: str, tmp_path: Path) -> None:
    strict = ["-Werror", "all-warnings", "-Xptxas", "-v"]
    parameters = build_parameters("cuda", extra=strict)
    said = compile_library(parameters, tmp_path / parameters.library_name)
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", said)
    architectures = {f"{number[:-1]}.{number[-1]}" for _, number in kernels}
    assert architectures == set(known_architectures(nvcc, ARCHITECTURES))
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) >= len(kernels) > 0
    assert {int(count) for pair in spills for count in pair} == {0}
