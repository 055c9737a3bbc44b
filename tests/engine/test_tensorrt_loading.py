"""Which TensorRT is loaded, and what is said where none serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secondlook.engine.encoders.tensorrt_api import cuda_device, load_tensorrt, this_machine
from secondlook.engine.errors import DeviceError, RuntimeMissingError


def test_without_tensorrt_the_extra_is_named(tmp_path: Path) -> None:
    for name in ("tensorrt", "tensorrt_lean"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name='{name}')")
    code = (
        "from secondlook.engine.encoders.tensorrt_api import load_tensorrt\n"
        "from secondlook.engine.errors import RuntimeMissingError\n"
        "for library in ('auto', 'tensorrt', 'tensorrt_lean'):\n"
        "    try: load_tensorrt(library)\n"
        "    except RuntimeMissingError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        (
            "TensorRT is not installed: pip install 'secondlook[tensorrt]'; where plans are only run, "
            "'secondlook[tensorrt-lean]' is smaller"
        ),
        "tensorrt is not installed: pip install 'secondlook[tensorrt]'",
        "tensorrt_lean is not installed: pip install 'secondlook[tensorrt-lean]'",
    ]


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
