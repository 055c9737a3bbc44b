"""Other projects' benchmarks of OpenAI's interface, AIPerf and GuideLLM, on drawn signs and the demo model.

Each is a program in an environment of its own, for its dependencies contradict ours. Both ask the same
questions about the same pictures, streamed, over the loopback interface of this machine:

    python3 -m venv /tmp/aiperf && /tmp/aiperf/bin/pip install aiperf==0.13.0
    python3 -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm[vision]==0.8.1
    python -m secondlook.benchmarks.chat_clients \\
        --aiperf /tmp/aiperf/bin/aiperf --guidellm /tmp/guidellm/bin/guidellm
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import all_questions
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.opening import EngineOptions, load_engine

__all__ = ["main"]

_SEED: Final = 4242
_AIPERF: Final = (
    "request_throughput",
    "time_to_first_token",
    "request_latency",
    "inter_token_latency",
    "output_sequence_length",
    "input_sequence_length",
    "request_count",
    "error_request_count",
)
_GUIDELLM: Final = ("time_to_first_token_ms", "request_latency", "output_token_count")


def main() -> None:
    """Run what was named, and print a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--aiperf", help="AIPerf's program")
    parser.add_argument("--guidellm", help="GuideLLM's program")
    parser.add_argument("--pictures", type=int, default=40, help="drawn pictures, with a question each")
    parser.add_argument("--requests", type=int, default=80, help="questions asked in a run")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4], help="questions at one time")
    options = parser.parse_args()
    ran_on = environment("cpu", "float32")
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, loopback_server(load_engine(EngineOptions())) as url:
        asked = _draw(Path(folder), options.pictures)
        runs = [
            run(program, url, asked, options.requests, count)
            for program, run in ((options.aiperf, _aiperf), (options.guidellm, _guidellm))
            for count in options.concurrency
            if program is not None
        ]
    result = {
        "environment": ran_on,
        "load_average_before": round(load[0], 2),
        "inputs": f"{options.pictures} drawn pictures of the test split, seed {_SEED}; streamed",
        "runs": runs,
    }
    sys.stdout.write(json.dumps(result, indent=4) + "\n")


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


def _aiperf(program: str, url: str, asked: Path, requests: int, concurrency: int) -> dict[str, Any]:
    out = asked.parent / f"aiperf-{concurrency}"
    command = [program, "profile", "--model", "demo", "--url", url, "--endpoint-type", "chat", "--streaming"]
    command += ["--input-file", str(asked), "--custom-dataset-type", "single_turn"]
    command += ["--request-count", str(requests), "--concurrency", str(concurrency), "--random-seed", "1"]
    command += ["--warmup-request-count", "4", "--use-server-token-count", "--ui", "none"]
    command += ["--tokenizer", str(EMBEDDED["demo"]), "--artifact-dir", str(out)]
    _run(command)
    told = json.loads((out / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    kept = {name: _rounded(told[name]) for name in _AIPERF if told.get(name)}
    return {"program": "aiperf", "concurrency": concurrency, **kept}


def _rounded(metric: dict[str, Any]) -> dict[str, Any]:
    names = ("unit", "avg", "p50", "p90", "p99")
    values = {name: metric[name] for name in names if metric.get(name) is not None}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def _guidellm(program: str, url: str, asked: Path, requests: int, concurrency: int) -> dict[str, Any]:
    out = asked.parent / f"guidellm-{concurrency}.json"
    command = [program, "run", "--backend", f"kind=openai_http,target={url},model=demo"]
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
    (told,) = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    metrics = {name: told["metrics"][name]["successful"] for name in _GUIDELLM}
    kept = {name: _rounded({"avg": found["mean"], **found["percentiles"]}) for name, found in metrics.items()}
    # Its own mean of rates counts the time before the first answer and behind the last.
    totals = told["metrics"]["request_totals"]
    rate = round(totals["successful"] / told["duration"], 3)
    counts = {"requests_per_second": rate, "requests": totals["total"], "errors": totals["errored"]}
    return {"program": "guidellm", "concurrency": concurrency, **counts, **kept}


if __name__ == "__main__":
    main()
