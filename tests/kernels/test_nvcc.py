"""Which nvcc compiles, and for which GPUs: with stand-ins for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from secondlook.kernels import build, library
from secondlook.kernels.errors import CompilerMissingError


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a CUDA toolkit, 13.1, whose nvcc knows two of our architectures; torch is for no GPU."""
    write_nvcc(tmp_path, "--list*) echo compute_75 compute_80 compute_90;; *) echo release 13.1, V13.1.88;;")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    return tmp_path


def write_nvcc(folder: Path, cases: str) -> None:
    """A shell's script, with these cases of its first argument."""
    script = folder / "bin" / "nvcc"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\ncase "$1" in {cases} esac\n')
    script.chmod(0o755)


@pytest.mark.parametrize("listed", ["compute_75", ""])
def test_an_nvcc_that_knows_none_of_the_architectures_is_named(listed: str, toolkit: Path) -> None:
    write_nvcc(toolkit, f"--list*) echo {listed};;")
    with pytest.raises(CompilerMissingError, match=r"nvcc compiles for none of 8\.0, "):
        build.build_parameters("cuda")


def test_known_architectures_become_machine_code_and_the_last_one_ptx(toolkit: Path) -> None:
    targets = [text for text in build.build_parameters("cuda").arguments if text.startswith("arch=")]
    assert targets == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90,code=sm_90",
        "arch=compute_90,code=compute_90",
    ]
    chosen = build.build_parameters("cuda", ["9.0"]).arguments
    assert "arch=compute_80,code=sm_80" not in chosen


def test_the_key_follows_the_compiler_that_nvcc_calls(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for version in ("12.2.0", "13.1.0"):
        folder = toolkit / version
        host = f"-E) cat > /dev/null; echo '\"{version}\"';;"
        write_nvcc(folder, f"--list*) echo compute_90;; {host} *) echo nvcc 13;;")
        monkeypatch.setenv("CUDA_HOME", str(folder))
        parameters = build.build_parameters("cuda")
        keys.add(dataclasses.replace(parameters, compiler=("nvcc",)).key())
    assert len(keys) == 2


def test_without_nvcc_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_USUAL_NVCC", tmp_path / "nvcc")
    with pytest.raises(CompilerMissingError, match="install the CUDA toolkit"):
        build.build_parameters("cuda")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("7.5", False),  # older than all
        ("8.0", True),
        ("8.6", True),  # machine code of 8.0
        ("8.7", False),  # a Jetson
        ("10.0", False),
        ("11.0", True),
        ("11.1", True),  # PTX of 11.0
        ("12.1", True),
    ],
)
def test_which_gpus_a_library_has_code_for(gpu: str, expected: bool) -> None:
    assert build.serves(["8.0", "9.0", "11.0"], gpu) is expected
    assert not build.serves([], gpu)


def test_an_nvcc_of_another_cuda_than_torchs_is_not_used_and_one_warning_names_both(
    toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(library, "_state", library._State())
    monkeypatch.setattr(library, "_present", lambda: ["9.0"])
    monkeypatch.setattr(library, "_WHEEL", toolkit)
    monkeypatch.delenv("SECONDLOOK_KERNELS", raising=False)
    both = r"nvcc is of CUDA 13\.1, but this PyTorch is for CUDA 12\.8"
    with pytest.warns(RuntimeWarning, match=both) as said:
        assert library.status("cuda") is library.status("cuda")
    assert len(said) == 1
    assert library.status("cuda").source == "reference"


@pytest.mark.parametrize("cuda", ["13.0", None])
def test_an_nvcc_of_the_same_major_version_is_used_and_any_for_a_torch_for_cpus(
    cuda: str | None, toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert build.build_parameters("cuda").compiler == (str(toolkit / "bin" / "nvcc"),)
