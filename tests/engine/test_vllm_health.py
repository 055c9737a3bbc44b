"""What comes of a server, or a replica of Ray's, whose vLLM has died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from engine.demo_server import client_of, signs
from engine.serving_harness import listening
from engine.test_ray import SECONDS, running
from secondlook.edge import EdgeClient
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.on_vllm import opening
from secondlook.engine.opening import EngineOptions
from secondlook.engine.serve.app import create_app

pytestmark = [
    pytest.mark.needs_vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of what vLLM imports
]

PROBES = ("/health", "/readyz", "/healthz")
ALWAYS = AnswerOptions(second_look="always", arbitration=False)
OPTIONS = EngineOptions("demo", "float32", kv_cache_gb=0.25, backend="vllm")


def test_health_tells_that_its_processes_have_died() -> None:
    engine = opening.load_vllm_engine(OPTIONS, compiled=False)
    with listening(create_app(engine)) as url, client_of(url) as client:
        assert [client.get(path).status_code for path in PROBES] == [200, 200, 200]
        for process in engine._llm.engine_core.resources.engine_manager.processes:
            process.kill()
        until = time.monotonic() + 60
        while client.get("/health").status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert [client.get(path).status_code for path in PROBES] == [503, 503, 200]
        assert "died" in client.get("/readyz").text


def test_ray_replaces_a_replica_whose_vllm_died(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray beside vLLM: pip install 'ray[serve]>=2.60'")
    monkeypatch.setenv("VLLM_CPU_CI_ENV", "1")  # traced as in earnest, but not compiled
    image, question = signs(1)[0]
    with running(1, "--engine", "vllm", "--dtype", "float32") as cluster, EdgeClient(cluster.url) as edge:
        assert edge.ask(image, question, ALWAYS).looked_twice
        before = cluster.replicas()
        assert len(before) == 1
        for process in children(before[0]):
            os.kill(process, signal.SIGKILL)
        until_gone = time.monotonic() + SECONDS
        while before[0] in cluster.replicas():
            assert time.monotonic() < until_gone
            time.sleep(0.1)
        assert httpx.get(f"{cluster.url}/readyz", timeout=SECONDS).status_code == 200
        assert edge.ask(image, question, ALWAYS).looked_twice


def children(process: int) -> list[int]:
    """Of all its threads."""
    listed = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in listed for child in file.read_text().split()]
