"""Engines in processes of their own, which are asked one task at a time over a pipe.

A task is a method's name and its arguments, pickled; what comes back is what the method returned. Nothing
else goes through the pipe: what a library prints goes where its errors go.
"""

from __future__ import annotations

import ctypes.util
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.latency.flow import Request
from secondlook.benchmarks.peers.options import Peer
from secondlook.edge.geometry import Region, target
from secondlook.engine.models.base import Prompt, VisionLanguageModel
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.threads import usable_cores

__all__ = ["Engine", "VllmEngine", "Worker", "busy_processes", "engines", "vllm_environment", "vllm_is_in"]

Asked = Request | Sequence[Request]
"""Of one task: a request, or many that are asked at a time."""

_SAID: Final = 2000
"""Characters of what a process wrote last, where it failed."""
_PATIENCE: Final = 30.0
"""Seconds for a process to end when nobody asks any more."""
_VLLM_WORKER: Final = Path(__file__).with_name("vllm_worker.py")
_NOT_VLLM: Final = ("PYTHONPATH", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


class Worker:
    """An engine in a process of its own, that is ready. It is stopped, with all processes that it has, but
    while it is asked: some wait by spinning, and would take a core from who is measured."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], errors: Path) -> None:
        """Start it, and wait until it says by anything at all that it is ready.

        Args:
            errors: the file for what it writes.

        Raises:
            MeasurementError: it ended before; with what it said last.
        """
        self._errors = errors
        with errors.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=dict(environment),
                start_new_session=True,
            )
        try:
            self._told()
        except BaseException:  # such as Ctrl-C while it loads a model: nobody else knows it yet
            self.close()
            raise

    def ask(self, task: str, *arguments: Any) -> Any:
        """Have a task done, and wait for what comes of it.

        Raises:
            MeasurementError: the process is gone; with what it said last.
        """
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with suppress(OSError):  # of one that is gone; it is told below
            pickle.dump((task, arguments), self._process.stdin)
            self._process.stdin.flush()
        return self._told()

    def _told(self) -> Any:
        assert self._process.stdout is not None
        try:
            told = pickle.load(self._process.stdout)
            self._signal(signal.SIGSTOP)
            return told
        except (EOFError, pickle.UnpicklingError) as error:
            self.close()
            said = self._errors.read_text(encoding="utf-8", errors="replace")[-_SAID:]
            raise MeasurementError(f"{self._errors.name} failed; the last it said: {said}") from error

    def close(self) -> None:
        """Ask no more; it ends."""
        self._signal(signal.SIGCONT)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To all processes of its session's group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def engines(
    peers: Sequence[Peer], model: VisionLanguageModel, folder: Path, precision: str, vllm: Path | None
) -> Iterator[dict[Peer, Engine]]:
    """A process for each peer, those of transformers' in one, while the block runs. One starts after the
    other, for ours measures something as it loads.

    Args:
        model: of the folder, without weights.
        vllm: the folder of its environment.
    """
    found = dict[Peer, Engine]()
    ours = [sys.executable, "-m", "secondlook.benchmarks.peers.worker"]
    with TemporaryDirectory() as logs, ExitStack() as stack:

        def started(name: str, command: list[str], environment: Mapping[str, str]) -> Worker:
            worker = Worker([*command, str(folder), precision], environment, Path(logs, name))
            stack.callback(worker.close)
            return worker

        for peer in peers:
            if peer is Peer.vllm:
                assert vllm is not None
                command = [str(_python(vllm)), str(_VLLM_WORKER)]
                found[peer] = VllmEngine(started("vLLM", command, vllm_environment(os.environ, vllm)), model)
            elif peer is Peer.ours:
                found[peer] = Engine(started("ours", [*ours, "ours"], os.environ), peer)
        flows = [peer for peer in peers if peer not in found]
        if flows:
            worker = started("transformers", [*ours, "transformers"], os.environ)
            found |= {peer: Engine(worker, peer) for peer in flows}
        yield found


class Engine:
    """A peer of those that a process has."""

    def __init__(self, worker: Worker, peer: Peer) -> None:
        self._worker = worker
        self._peer = peer

    def ask(self, task: str, asked: Asked, *more: Any) -> dict[str, Any]:
        """What came of a task, by `rows.METRICS`, and the `tokens` of one look."""
        told: dict[str, Any] = self._worker.ask(task, self._peer.value, asked, *more)
        return told


class VllmEngine(Engine):
    """vLLM, which is told tokens and pictures of the size that it takes, in plain values."""

    def __init__(self, worker: Worker, model: VisionLanguageModel) -> None:
        super().__init__(worker, Peer.vllm)
        self._model = model

    def ask(self, task: str, asked: Asked, *more: Any) -> dict[str, Any]:
        plain = self._plain(asked) if isinstance(asked, Request) else [self._plain(one) for one in asked]
        told: dict[str, Any] = self._worker.ask(task, plain, *more)
        return told

    def versions(self) -> dict[str, str]:
        told: dict[str, str] = self._worker.ask("versions")
        return told

    def _plain(self, request: Request) -> dict[str, Any]:
        """Prompts of the first look, the generic question and the second look; both pictures, the second one
        from the middle, for it gives out no attention to choose by."""
        model, size = self._model, target(self._model.local_view, request.size)
        left, top = (request.size.width - size.width) // 2, (request.size.height - size.height) // 2
        middle = Region(left, top, left + size.width, top + size.height)
        local = request.local_image(middle).resize((size.width, size.height))
        grid = model.picture(request.global_image, model.global_view, request.size).grid
        question, generic = model.tokens(request.question), model.tokens(GENERIC_QUESTION)
        return {
            "first": _one_a_picture(model.prompt(question, [grid])),
            "generic": _one_a_picture(model.prompt(generic, [grid])),
            "second": _one_a_picture(model.prompt(question, [grid, grid])),
            "pictures": [np.asarray(picture) for picture in (request.global_image, local)],
            "tokens": request.new_tokens,
        }


def _one_a_picture(prompt: Prompt) -> list[int]:
    """A prompt's tokens with one for each picture, for who puts in the others."""
    others = {place for start, stop in prompt.spans for place in range(start + 1, stop)}
    return [token for place, token in enumerate(prompt.ids) if place not in others]


def vllm_is_in(folder: Path) -> bool:
    """Whether a folder is an environment that has vLLM."""
    find = "import sys, importlib.util as found; sys.exit(found.find_spec('vllm') is None)"
    python = _python(folder)
    return python.is_file() and not subprocess.run([python, "-c", find], check=False).returncode


def vllm_environment(own: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What vLLM's documentation sets on CPUs: a thread on each core that may be used, tcmalloc if the system
    has it, Intel's OpenMP, and for keys and values what our engine takes by default. Nothing of our own."""
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    preloaded = [str(path) for path in folder.glob("lib/libiomp5.so")]
    if malloc := ctypes.util.find_library("tcmalloc_minimal"):
        preloaded.insert(0, malloc)
    return {name: value for name, value in own.items() if name not in _NOT_VLLM} | {
        "LD_PRELOAD": ":".join(preloaded),
        "VLLM_CPU_KVCACHE_SPACE": own.get("VLLM_CPU_KVCACHE_SPACE", "2"),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_NO_USAGE_STATS": "1",
    }


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute all the time, while the block runs."""
    # Each ends with this process, however that ends.
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n for _ in range(10**6): pass"
    beside = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()
