"""Other projects' benchmarks of OpenAI's interface, AIPerf and GuideLLM, on drawn signs and the demo model.

Each is a program in an environment of its own, for its dependencies contradict ours. Both ask the same
questions about the same pictures, streamed, over the loopback interface of this machine; of our server, of
the same with one look at each picture, and of `vllm serve` if it is there, one after the other:

    python3 -m venv /tmp/aiperf && /tmp/aiperf/bin/pip install aiperf==0.13.0
    python3 -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm[vision]==0.8.1
    benchmarks/peers/install-vllm.sh /tmp/vllm
    python -m secondlook.benchmarks.chat_clients --vllm /tmp/vllm \\
        --aiperf /tmp/aiperf/bin/aiperf --guidellm /tmp/guidellm/bin/guidellm
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.peers.tasks import vllm_is_in
from secondlook.benchmarks.peers.vllm_server import vllm_server, vllm_version
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import all_questions
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.opening import EngineOptions, load_engine

__all__ = ["main"]

_SEED: Final = 4242
_GREEDY: Final[dict[str, Any]] = {"temperature": 0}
_OURS: Final = "secondlook"
_ONE_LOOK: Final = "secondlook, one look"
_VLLM: Final = "vLLM"
_SERVERS: Final[dict[str, dict[str, Any]]] = {
    _OURS: _GREEDY,
    _ONE_LOOK: _GREEDY | {"secondlook": {"second_look": "never"}},
    # Else its prompts would begin without the token that the model's own begin with.
    _VLLM: _GREEDY | {"add_special_tokens": True},
}
"""With what requests to each have besides."""


def main() -> None:
    """Run what was named, and print a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--aiperf", help="AIPerf's program")
    parser.add_argument("--guidellm", help="GuideLLM's program")
    parser.add_argument("--vllm", type=Path, help="vLLM's environment, of benchmarks/peers/install-vllm.sh")
    parser.add_argument("--pictures", type=int, default=40, help="drawn pictures, with a question each")
    parser.add_argument("--requests", type=int, default=80, help="questions asked in a run")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4], help="questions at one time")
    options = parser.parse_args()
    programs = [(options.aiperf, _aiperf), (options.guidellm, _guidellm)]
    programs = [(program, run) for program, run in programs if program is not None]
    if not programs:
        parser.error("name --aiperf, --guidellm or both")
    for program, _ in programs:
        if shutil.which(program) is None:
            parser.error(f"there is no program {program}")
    if options.vllm is not None and not vllm_is_in(options.vllm):
        parser.error(f"there is no vLLM in {options.vllm}")
    ran_on = environment("cpu", "float32")
    load, rows = os.getloadavg(), []
    with tempfile.TemporaryDirectory() as folder:
        asked = _draw(Path(folder), options.pictures)
        for server, extra in _SERVERS.items():
            if server == _VLLM and options.vllm is None:
                continue
            with _served(server, options.vllm) as url:
                rows += [
                    {"server": server, **run(program, url, asked, options.requests, count, extra)}
                    for program, run in programs
                    for count in options.concurrency
                ]
    result = {
        "environment": ran_on,
        "load_average_before": round(load[0], 2),
        "inputs": f"{options.pictures} drawn pictures of the test split, seed {_SEED}; streamed",
        "vllm": None if options.vllm is None else vllm_version(options.vllm),
        "rows": rows,
    }
    sys.stdout.write(json.dumps(result, indent=4) + "\n")


@contextmanager
def _served(server: str, vllm: Path | None) -> Iterator[str]:
    if server == _VLLM:
        assert vllm is not None
        with vllm_server(vllm, EMBEDDED["demo"], "demo", "float32") as url:
            yield url
    else:
        with loopback_server(load_engine(EngineOptions())) as url:
            yield url


def _draw(folder: Path, count: int) -> Path:
    """Pictures and questions, as a file of JSON lines; its fields have names that both programs know."""
    lines = []
    for index in range(count):
        picture = SignsPicture("test", _SEED, index)
        question = all_questions(picture.scene)["read"][0].text
        url = f"data:image/jpeg;base64,{base64.b64encode(picture.read()).decode()}"
        lines.append(json.dumps({"text": question, "image": url}))
    asked = folder / "asked.jsonl"
    asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return asked


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode}):\n{done.stdout[-2000:]}")


def _aiperf(
    program: str, url: str, asked: Path, requests: int, concurrency: int, extra: dict[str, Any]
) -> dict[str, Any]:
    out = Path(tempfile.mkdtemp(prefix="aiperf-", dir=asked.parent))
    command = [program, "profile", "--model", "demo", "--url", url, "--endpoint-type", "chat", "--streaming"]
    command += ["--input-file", str(asked), "--custom-dataset-type", "single_turn"]
    command += ["--request-count", str(requests), "--concurrency", str(concurrency), "--random-seed", "1"]
    command += ["--warmup-request-count", "4", "--use-server-token-count", "--ui", "none"]
    command += ["--tokenizer", str(EMBEDDED["demo"]), "--artifact-dir", str(out)]
    command += ["--extra-inputs", json.dumps(extra)]
    _run(command)
    told = json.loads((out / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    first, whole = told["time_to_first_token"], told["request_latency"]
    return {
        "program": "AIPerf",
        "version": told.get("aiperf_version"),
        "concurrency": concurrency,
        "requests": round(told["request_count"]["avg"]),
        "errors": round((told.get("error_request_count") or {"avg": 0})["avg"]),
        "requests_per_second": told["request_throughput"]["avg"],
        "first_token_p50_ms": first["p50"],
        "first_token_p90_ms": first["p90"],
        "whole_p50_ms": whole["p50"],
        "whole_p90_ms": whole["p90"],
        "output_tokens": told["output_sequence_length"]["avg"],
    }


def _guidellm(
    program: str, url: str, asked: Path, requests: int, concurrency: int, extra: dict[str, Any]
) -> dict[str, Any]:
    out = Path(tempfile.mkdtemp(prefix="guidellm-", dir=asked.parent), "report.json")
    backend = {"kind": "openai_http", "target": url, "model": "demo", "extras": {"body": extra}}
    command = [program, "run", "--backend", json.dumps(backend)]
    command += ["--profile", f"kind=concurrent,streams={concurrency}"]
    command += [
        "--constraint",
        f"kind=max_requests,count={requests}",
        "--data",
        f"kind=json_file,path={asked}",
    ]
    command += ["--data-preprocessor", "kind=encode_media"]
    command += ["--tokenizer", f"kind=hf_auto,model={EMBEDDED['demo']}"]
    command += ["--output", f"kind=json,path={out}", "--disable-console"]
    _run(command)
    report = json.loads(out.read_text(encoding="utf-8"))
    (told,) = report["benchmarks"]
    totals, metrics = told["metrics"]["request_totals"], told["metrics"]
    first = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    whole = metrics["request_latency"]["successful"]["percentiles"]
    return {
        "program": "GuideLLM",
        "version": report["metadata"]["guidellm_version"],
        "concurrency": concurrency,
        "requests": totals["successful"],
        "errors": totals["errored"],
        # Its own rate is a mean over times in which nothing was asked yet.
        "requests_per_second": totals["successful"] / told["duration"],
        "first_token_p50_ms": first["p50"],
        "first_token_p90_ms": first["p90"],
        "whole_p50_ms": 1e3 * whole["p50"],
        "whole_p90_ms": 1e3 * whole["p90"],
        "output_tokens": metrics["output_token_count"]["successful"]["mean"],
    }


if __name__ == "__main__":
    main()
