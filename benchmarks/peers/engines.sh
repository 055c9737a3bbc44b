#!/bin/sh
# The engines of `--engine` beside each other, one after the other, as a table for docs/engines.md:
#
#     benchmarks/peers/engines.sh FOLDER [--model demo] [--dtype float32] [--count 20]
#
# FOLDER is an environment that has vLLM and this package, such as that of `make test-vllm`.
set -eu
python=${1:?the folder of the environment}/bin/python
shift
"$python" -m secondlook.benchmarks.peers.engines own "$@" >own.json
"$python" -m secondlook.benchmarks.peers.engines vllm "$@" >vllm.json
"$python" - <<'END'
import json

own, vllm = (json.load(open(f"{name}.json")) for name in ("own", "vllm"))
print("| | own | vllm |\n| --- | --- | --- |")
for name, text in {
    "load_s": "start, s",
    "one_look_ms": "one look, ms",
    "two_looks_ms": "two looks, ms",
    "by_entropy_ms": "one look by Shannon entropy, ms",
    "answers_per_second": "answers a second, many at a time",
}.items():
    print(f"| {text} | {own[name]:.3g} | {vllm[name]:.3g} |")
END
