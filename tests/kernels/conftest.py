"""The devices that the operators' tests run on."""

from __future__ import annotations

import os

import pytest
import torch

from secondlook.kernels import library
from secondlook.kernels.build import build_parameters
from secondlook.kernels.errors import CompilerMissingError


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device whose compiled operators are loaded; skips where there is no compiler for it."""
    try:
        build_parameters(request.param)
    except CompilerMissingError as error:
        if request.param == "cuda" and os.environ.get("SECONDLOOK_REQUIRE_CUDA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    status = library.status(request.param)
    assert status.source != "reference", status.reason
    return torch.device(request.param)
