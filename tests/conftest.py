"""What every test relies on: connections to this machine go to this machine, and GPU tests need a GPU."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import settings

from edge.rtsp import PACKAGES, rtsp_python
from properties import QUICK
from secondlook.engine.threads import configure_threads


def pytest_configure(config: pytest.Config) -> None:
    """Forget the proxies of the user's network: the tests' servers are on the loopback interface.

    And have threads not spin for each other while other tests' servers compute; and where slow tests are left
    out, properties be tried on fewer examples.
    """
    if "not slow" in config.option.markexpr:
        settings.load_profile(QUICK)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    configure_threads()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU where there is none, unless SECONDLOOK_REQUIRE_CUDA=1: then they fail.

    Likewise those that need TensorRT and a GPU for it, unless SECONDLOOK_REQUIRE_TENSORRT=1; and those that
    need GStreamer's RTSP server, nginx, a Chromium or vLLM, unless SECONDLOOK_REQUIRE_RTSP=1, _NGINX=1,
    _CHROMIUM=1 or _VLLM=1; or litellm, which has an environment of its own (its Python:
    SECONDLOOK_LITELLM_PYTHON), unless SECONDLOOK_REQUIRE_LITELLM=1.
    """
    if item.get_closest_marker("needs_cuda") is not None:
        _need("a CUDA GPU", _has_gpu(), "SECONDLOOK_REQUIRE_CUDA")
    if item.get_closest_marker("needs_tensorrt") is not None:
        there = find_spec("tensorrt") is not None and _has_gpu()
        _need("TensorRT and a CUDA GPU", there, "SECONDLOOK_REQUIRE_TENSORRT")
    if item.get_closest_marker("needs_vllm") is not None:
        _need(
            "vLLM in this environment (make test-vllm)",
            find_spec("vllm") is not None,
            "SECONDLOOK_REQUIRE_VLLM",
        )
    if item.get_closest_marker("needs_litellm") is not None:
        _need(
            "litellm in an environment of its own, and SECONDLOOK_LITELLM_PYTHON, its Python",
            "SECONDLOOK_LITELLM_PYTHON" in os.environ,
            "SECONDLOOK_REQUIRE_LITELLM",
        )
    if item.get_closest_marker("needs_rtsp") is not None:
        _need(
            f"an RTSP server: apt-get install {PACKAGES}",
            rtsp_python() is not None,
            "SECONDLOOK_REQUIRE_RTSP",
        )
    if item.get_closest_marker("needs_nginx") is not None:
        there = shutil.which("nginx") is not None
        _need("nginx: apt-get install nginx-light", there, "SECONDLOOK_REQUIRE_NGINX")
    if item.get_closest_marker("needs_chromium") is not None:
        from secondlook.benchmarks.browser import chromium_path

        there = chromium_path() is not None
        _need("a browser: apt-get install chromium", there, "SECONDLOOK_REQUIRE_CHROMIUM")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _need(what: str, there: bool, demanding: str) -> None:
    if not there:
        if os.environ.get(demanding) == "1":
            pytest.fail(f"this test needs {what}, and {demanding}=1 demands it")
        pytest.skip(f"needs {what}")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command sets for its process."""
    root, library = logging.getLogger(), logging.getLogger("httpx")
    waiting = [logging.getLogger(f"secondlook.edge.{name}") for name in ("exchange", "frames")]
    before = root.handlers[:], root.level, library.level
    yield
    for one in waiting:
        one.setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    library.setLevel(before[2])


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
