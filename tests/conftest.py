"""What every test relies on: connections to this machine go to this machine, and GPU tests need a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """Forget the proxies of the user's network: the tests' servers are on the loopback interface."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU where there is none, unless SECONDLOOK_REQUIRE_CUDA=1: then they fail."""
    if item.get_closest_marker("needs_cuda") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("SECONDLOOK_REQUIRE_CUDA") == "1":
            pytest.fail("this test needs a CUDA GPU, and SECONDLOOK_REQUIRE_CUDA=1 demands one")
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch, so that results do not depend on the machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def any_mode() -> Iterator[None]:
    """For tests that choose the operators' mode: afterwards it is the environment's again."""
    from secondlook import kernels

    yield
    kernels.set_mode(None)
