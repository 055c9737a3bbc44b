"""Which TensorRT is loaded, and what is said where none serves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from secondlook.engine.encoders.tensorrt_api import cuda_device, load_tensorrt, this_machine
from secondlook.engine.errors import DeviceError, RuntimeMissingError


def test_without_tensorrt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    for library, told in (
        (
            "auto",
            (
                "TensorRT is not installed: pip install 'secondlook[tensorrt]'; where plans are only run, "
                "'secondlook[tensorrt-lean]' is smaller"
            ),
        ),
        ("tensorrt", "tensorrt is not installed: pip install 'secondlook[tensorrt]'"),
        ("tensorrt_lean", "tensorrt_lean is not installed: pip install 'secondlook[tensorrt-lean]'"),
    ):
        with pytest.raises(RuntimeMissingError) as caught:
            load_tensorrt(library)  # type: ignore[arg-type]
        assert str(caught.value) == told


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("__version__ = '9.3.0'", "tensorrt is of version 9.3.0; 10 or 11 is needed"),
        ("", "tensorrt is of version none; 10 or 11 is needed"),
        ("import tensorrt_bindings_of_nobody", "installed, but cannot be loaded: No module named"),
        ("raise OSError('libnvinfer.so.11: cannot open')", "cannot be loaded: libnvinfer"),
    ],
)
def test_a_tensorrt_that_cannot_serve_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(RuntimeMissingError, match=said):
        load_tensorrt("tensorrt")
    sys.modules.pop("tensorrt", None)


def test_a_cpu_is_no_place_for_tensorrt() -> None:
    assert cuda_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="no device 'gpu'; use cuda or cuda:N"):
        cuda_device("gpu")
    with pytest.raises(DeviceError, match="needs a CUDA GPU, and the device is cpu"):
        this_machine(torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="torch sees 0; there is no cuda"):
            this_machine(torch.device("cuda"))
