"""`secondlook bench stream`: every way of answering a stream, over the cloud's delay."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from secondlook.benchmarks.analysis.statistics import Bootstrap
from secondlook.benchmarks.commands import progress
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.options import StreamRun
from secondlook.benchmarks.run_log import LogError, differences
from secondlook.benchmarks.streams.asking import Asker
from secondlook.benchmarks.streams.metrics import COMPARED, Outcome, boots, difference, outcome
from secondlook.benchmarks.streams.network import Network
from secondlook.benchmarks.streams.partition import measure_partition
from secondlook.benchmarks.streams.recording import Key, Recording, read_recording
from secondlook.benchmarks.streams.replay import Replayed, Run, Way
from secondlook.benchmarks.streams.scenes import SECONDS, sample_stream
from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import View
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.rules import Newest
from secondlook.engine.stream.state import Method

_SAVE_SECONDS: Final = 30.0
"""Of looks, at most, that an interruption loses."""

_SPLIT_FRAMES: Final = range(0, 100, 3)
"""That the split of the large model is measured on."""

_TEMPLATE: Final = "{question} ({age:.1f} s ago: {answer})"
"""Of context replacement, for a small model that names none."""


def _ways(run: StreamRun, context: str) -> tuple[Way, ...]:
    """Every way that is compared. Key frames are sent when there is room, unless its name says otherwise."""
    busy = Method(key_frames=KeyFrames("busy"), in_flight=run.in_flight, history_seconds=run.history_seconds)
    plain, ungated = replace(busy, rule=Newest()), Newest(cloud=None)
    every = (
        Way("small", replace(plain, memory=False, in_flight=0)),
        Way("large", replace(plain, own=False, rule=ungated), kind="cloud"),
        Way("large_gated", replace(plain, own=False), kind="cloud"),
        Way("offload", plain, kind="offload"),
        Way("partition", replace(plain, own=False, rule=ungated), kind="partition"),
        Way("switch", replace(plain, memory=False)),
        Way("switch_ungated", replace(plain, memory=False, rule=ungated)),
        Way("switch_memory", plain),
        Way("belief", busy),
        Way("belief_doubt", replace(busy, key_frames=KeyFrames("doubt"))),
        Way("replace", replace(busy, context=context)),
        Way("focus_own", replace(busy, focus="crop")),
        Way("focus_known", replace(busy, focus="crop"), windows=True),
        Way("focus_still", replace(busy, focus="still")),
        Way("memory", replace(busy, in_flight=0)),
    )
    wanted = run.methods or [way.name for way in every]
    if unknown := [name for name in wanted if name not in {way.name for way in every}]:
        names = ", ".join(way.name for way in every)
        raise SettingsError(f"there is no method {unknown[0]!r}; there are {names}")
    return tuple(way for way in every if way.name in wanted)


class Recorder:
    """A recording that grows as replays need it, and the models, loaded when they are first asked.

    Attributes:
        recording: what is there so far.
        seconds: that asking took.

    Raises:
        LogError: the run's recording cannot be read, or is of other streams or models.
    """

    def __init__(self, run: StreamRun) -> None:
        self._run = run
        self._saved: float | None = None
        self.seconds = 0.0
        self.recording = self._opened()

    def _opened(self) -> Recording:
        run = self._run
        wanted = {
            "split": "test",
            "seed": run.seed,
            "seconds": SECONDS,
            "small": run.small,
            "large": run.large,
        }
        if run.recording is None or not run.recording.exists():
            models = self.asker.described
            on = environment(str(self.asker.small.model.device), models["small"]["dtype"])
            split = measure_partition(run.large, sample_stream("test", run.seed, 0), _SPLIT_FRAMES)
            return Recording({**wanted, "models": models}, on, split)
        found = read_recording(run.recording)
        settings = {name: found.settings.get(name) for name in wanted}
        _check(run.recording, settings, wanted)
        return found

    @cached_property
    def asker(self) -> Asker:
        run = self._run
        asker = Asker(run.small, run.large, run.dtype, run.device)
        if "recording" in self.__dict__:
            assert run.recording is not None, "it was read from there"
            _check(run.recording, self.recording.settings["models"], asker.described)
        return asker

    def replayed(self, index: int) -> Replayed:
        """A stream to replay, looked at now if it is not recorded."""
        recording = self.recording
        drawn = recording.stream(index)
        if index not in recording.looks:
            with self._asking():
                recording.looks[index] = self.asker.looks(drawn)
        models = recording.settings["models"]
        view = View.model_validate(models["small"]["view"])
        split = recording.partition
        return Replayed(
            drawn,
            recording.looks[index],
            view,
            shared=models["small"]["view"] == models["large"]["view"],
            features=(split["bytes_whole"], split["bytes_region"]),
        )

    def ask(self, one: Replayed, keys: Sequence[Key]) -> None:
        """Record what else is asked about a stream."""
        with self._asking():
            for key, look in self.asker.further(one.drawn, keys).items():
                one.looks.keep(key, look)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.save(soon=True)
        self.seconds += time.perf_counter() - begun

    def save(self, *, soon: bool = False) -> None:
        """Write what was recorded since the last time; `soon`: if that is long ago."""
        now = time.monotonic()
        if self._run.recording is None or not self.seconds:
            return
        if self._saved is None:
            self._saved = now
        if soon and now - self._saved < _SAVE_SECONDS:
            return
        self.recording.save(self._run.recording)
        self._saved = now


def _check(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if other := differences(found, wanted):
        raise LogError(f"{path} records something else: {'; '.join(other)}; choose another file")


def replay_all(
    one: Replayed,
    jobs: Sequence[tuple[Way, Sequence[float]]],
    timeout: float,
    ask: Callable[[list[Key]], None],
) -> list[Run]:
    """A stream's run in every way.

    Args:
        jobs: ways, and the delays of the cloud's answer about each frame.
        ask: records what the runs lack; all of one frame together, so that its picture is seen once.
    """
    found: dict[int, Run] = {}
    going = {number: one.run(way, delays, timeout) for number, (way, delays) in enumerate(jobs)}
    lacking: dict[int, Key] = {}
    ready = list(going)
    while going:
        for number in ready:
            reached = _advanced(going[number])
            if isinstance(reached, Run):
                found[number] = reached
                del going[number]
            else:
                lacking[number] = reached
        if not going:
            break
        frame = min(key.frame for key in lacking.values())
        ready = [number for number, key in lacking.items() if key.frame == frame]
        ask(list(dict.fromkeys(lacking.pop(number) for number in ready)))
    return [found[number] for number in range(len(jobs))]


def _advanced(run: Generator[Key, None, Run]) -> Key | Run:
    """What a run lacks, or what it came to."""
    try:
        return next(run)
    except StopIteration as end:
        done: Run = end.value
        return done


def bench_stream(run: StreamRun) -> dict[str, Any]:
    recorder = Recorder(run)
    named = _ways(run, recorder.recording.settings["models"]["small"]["context"] or _TEMPLATE)
    networks = [Network(run.network, delay, run.lost, run.seed) for delay in run.each_delay]
    jobs = [(way, network) for network in networks for way in named]
    runs: list[list[Run]] = [[] for _ in jobs]
    truths, times = list[Sequence[str]](), list[Sequence[float]]()
    begun = time.perf_counter()
    try:
        with progress(Console(stderr=True), "streams", run.streams) as go_on:
            for index in range(run.streams):
                one = recorder.replayed(index)
                delays = {network: network.delays(index, one.times) for network in networks}
                each = [(way, delays[network]) for way, network in jobs]
                ask = partial(recorder.ask, one)
                for kept, new in zip(runs, replay_all(one, each, run.history_seconds, ask), strict=True):
                    kept.append(new)
                truths.append(one.drawn.truths)
                times.append(one.times)
                go_on()
    finally:
        recorder.save()
    rows, outcomes = [], {}
    for (way, network), its in zip(jobs, runs, strict=True):
        found = outcomes[way.name, network.delay] = outcome(its, truths, times)
        rows.append({"method": way.name, "delay": network.delay, **found.row})
    replayed = time.perf_counter()
    return {
        "streams": run.streams,
        "frames": sum(map(len, times)),
        "seconds_asking": recorder.seconds,
        "seconds_replaying": replayed - begun - recorder.seconds,
        "network": run.network,
        "loss": run.lost,
        "rows": rows,
        "differences": _differences(outcomes, boots(truths)),
        "partition": recorder.recording.partition,
        "recorded": {**recorder.recording.settings, "environment": recorder.recording.made},
    }


def _differences(outcomes: Mapping[tuple[str, float], Outcome], boot: Bootstrap) -> list[dict[str, Any]]:
    """Of accuracies on the same frames, with intervals."""
    names = list(dict.fromkeys(name for name, _ in outcomes))
    pairs = [*COMPARED, *((name, "small") for name in names if name != "small")]
    pairs = [pair for pair in pairs if set(pair) <= set(names)]
    rows = []
    for one, other in pairs:
        for delay in dict.fromkeys(delay for _, delay in outcomes):
            found = difference(outcomes[one, delay], outcomes[other, delay], boot)
            told = {"difference": found.value, "low": found.low, "high": found.high}
            rows.append({"method": one, "over": other, "delay": delay, **told})
    return rows
