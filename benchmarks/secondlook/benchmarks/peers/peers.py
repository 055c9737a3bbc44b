"""The peers benchmark: other projects' engines and ours, in turns on the same weights and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
from rich.console import Console

from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.latency.flow import synthetic_request
from secondlook.benchmarks.latency.subject import Preset
from secondlook.benchmarks.peers.folder import preset_folder
from secondlook.benchmarks.peers.options import Peer, PeersRun, Precision
from secondlook.benchmarks.peers.rows import Sample, ahead, peer_rows, same_tokens
from secondlook.benchmarks.peers.tasks import Engine, VllmEngine, busy_processes, engines, vllm_is_in

_TASKS: Final = ("look", "two_looks", "load")
_ALIKE: Final = (Peer.strong, Peer.encoding_once)
"""Many clients would get from them what the reference flow gives."""
_INSTALL: Final = "benchmarks/peers/install-vllm.sh FOLDER installs it, --vllm FOLDER says where it is"


def bench_peers(preset: Preset, run: PeersRun) -> dict[str, Any]:
    console = Console(stderr=True)
    peers, missing = _there(run)
    for peer, why in missing.items():
        console.print(f"{peer} is missing: {why}. The others are measured.", highlight=False)
    samples, versions, interrupted = list[Sample](), dict[str, str](), False
    size = len(_turn(peers, 0))
    console.print(f"making {preset.name} ...")
    with preset_folder(preset, run.seed) as folder:
        for precision in run.precisions:
            console.print(f"starting every engine in {precision.value} ...")
            with engines(peers, preset.shapes, folder, precision.value, run.vllm) as asked:
                for engine in asked.values():
                    versions |= engine.versions() if isinstance(engine, VllmEngine) else {}
                rounds = len(run.loads) * run.repeats
                asking = partial(_rounds, preset, run, asked, precision, np.random.default_rng(run.seed))
                with progress(console, precision.value, (run.warmups + rounds) * size) as go_on:
                    for _ in asking(0, run.warmups):
                        go_on()
                    found, interrupted = complete_rounds(_measured(run, asking), size, go_on)
            samples += found
            if interrupted:
                break
    rows = peer_rows(samples)
    return {
        "weights": "published" if preset.name == "demo" else "random",
        "inputs": "every request has a new picture; each engine in a process of its own",
        "interrupted": interrupted,
        "missing": missing,
        "versions": versions,
        "ahead": ahead(rows),
        "same_tokens": same_tokens(samples),
        "rows": rows,
    }


def _there(run: PeersRun) -> tuple[list[Peer], dict[str, str]]:
    """Who is measured, and why others are not.

    Raises:
        MeasurementError: one that was named is missing.
    """
    peers = list(dict.fromkeys(run.peer or Peer))
    if Peer.vllm not in peers or (run.vllm is not None and vllm_is_in(run.vllm)):
        return peers, {}
    why = _INSTALL if run.vllm is None else f"there is no vLLM in {run.vllm}; {_INSTALL}"
    if run.peer or run.vllm is not None:
        raise MeasurementError(f"vllm is missing: {why}")
    return [peer for peer in peers if peer is not Peer.vllm], {Peer.vllm.value: why}


def _measured(run: PeersRun, asking: Callable[[int, int], Iterator[Sample]]) -> Iterator[Sample]:
    """With nothing beside, and then with busy processes."""
    for busy in run.loads:
        with busy_processes(busy):
            yield from asking(busy, run.repeats)


def _rounds(
    preset: Preset,
    run: PeersRun,
    asked: Mapping[Peer, Engine],
    precision: Precision,
    generator: np.random.Generator,
    busy: int,
    count: int,
) -> Iterator[Sample]:
    """Every task, by every peer on the same requests, another one first each time.

    Args:
        generator: of the requests; never begun anew, for what was asked before is in the peers' caches.
    """
    view = preset.shapes.global_view
    for index in range(count):
        one, two, *many = (
            synthetic_request(generator, view, look_twice=twice, new_tokens=tokens)
            for twice, tokens in (
                (False, run.new_tokens),
                (True, run.load_tokens),
                *run.clients * [(False, run.load_tokens)],
            )
        )
        arguments: dict[str, tuple[Any, ...]] = {
            "look": (one,),
            "two_looks": (two,),
            "load": (many, run.clients),
        }
        for task, peer in _turn(list(asked), index):
            told = asked[peer].ask(task, *arguments[task])
            yield Sample(precision.value, busy, peer.value, index, told)


def _turn(peers: Sequence[Peer], index: int) -> list[tuple[str, Peer]]:
    first = index % len(peers)
    turn = [*peers[first:], *peers[:first]]
    return [(task, peer) for task, peer in product(_TASKS, turn) if task != "load" or peer not in _ALIKE]
