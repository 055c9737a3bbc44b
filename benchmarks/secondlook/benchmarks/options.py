"""What `secondlook bench` and `plan` measure: dataclasses, whose fields are the commands' options."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from secondlook.benchmarks.commands import SeedOption
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fit, Fixed, View
from secondlook.engine.cli.options import DeviceOption as ServedDeviceOption
from secondlook.engine.cli.options import DTypeOption as ServedDTypeOption
from secondlook.engine.cli.options import ModelOption

_Clip: TypeAlias = Literal["small", "llava-1.5-7b", "llava-1.5-13b"]
_Tiles: TypeAlias = Literal["small-llava-next", "llava-next-7b"]
_QFormer: TypeAlias = Literal["small-instructblip", "instructblip-7b"]
_Qwen25: TypeAlias = Literal["small-qwen2.5-vl", "qwen2.5-vl-3b", "qwen2.5-vl-7b"]
_Qwen3: TypeAlias = Literal["small-qwen3-vl", "qwen3-vl-2b", "qwen3-vl-4b"]
_SIZES = "A model's sizes, with random weights; demo is the embedded model."
PresetOption = Annotated[
    Literal[_Clip, _Tiles, _Qwen25, _Qwen3, _QFormer, "smolvlm2-500m", "demo"],
    typer.Option(help=_SIZES),
]
DTypeOption = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Of weights and activations.")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to measure.")]
NewTokensOption = Annotated[int, typer.Option(min=1, max=1024, help="Tokens of each answer.")]
NEVER: Final = 1e9
"""A threshold in nats that no uncertainty reaches."""
RateOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of questions that are looked at twice.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Of each, or requests of each kind.")]


@validated(frozen=True)
class LatencyRun:
    """Two looks beside the published way on the same weights, and beside a stronger version of it."""

    preset: PresetOption = "small"
    dtype: DTypeOption = "float32"
    device: DeviceOption = "auto"
    new_tokens: NewTokensOption = 4
    repeats: RepeatsOption = 20
    warmups: Annotated[int, typer.Option(min=0, help="Requests of each kind that do not count.")] = 2
    seed: SeedOption = 0


@validated(frozen=True)
class FlopsRun:
    """What two looks compute beside the published way, from the model's sizes alone; no weights are made."""

    preset: PresetOption = "small"
    new_tokens: NewTokensOption = 4
    retransmission_rate: RateOption = 0.4


@validated(frozen=True)
class PrefillRun:
    """Both questions in one prefill, beside the generic one in a short pass of its own."""

    preset: Annotated[Literal[_Clip, _Qwen25, _Qwen3, "demo"], typer.Option(help=_SIZES)] = "small"
    dtype: DTypeOption = "float32"
    device: DeviceOption = "auto"
    repeats: RepeatsOption = 20
    seed: SeedOption = 0


@validated(frozen=True)
class AccountRun:
    """Where an answer's time goes: the engine's passes beside their floors, operator by operator."""

    preset: Annotated[Literal[_Clip, _Qwen25, _Qwen3, "demo"], typer.Option(help=_SIZES)] = "small"
    dtype: DTypeOption = "float32"
    device: DeviceOption = "auto"
    repeats: RepeatsOption = 10
    sequences: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, help="Of a decode step; may be repeated; 1 and 16 unless told."),
    ] = None
    few_bits: Annotated[
        bool, typer.Option("--few-bits", help="With weights of 8 and of 4 bits, too, and int8-dynamic.")
    ] = False
    seed: SeedOption = 0


@validated(frozen=True)
class LoadRun:
    """Answers a second of a server over HTTP, many edges beside one at a time; 16 unless told."""

    server: Annotated[
        str | None,
        typer.Option(help="Address of a server, or of several behind one; by default one is started here."),
    ] = None
    rate: Annotated[
        float, typer.Option(min=0.0, help="Questions a second of each edge, at random times; 0: no pauses.")
    ] = 0.0
    preset: PresetOption = "demo"
    dtype: DTypeOption = "float32"
    device: DeviceOption = "auto"
    edges: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Edges at the same time; may be repeated.")
    ] = None
    retransmission_rate: RateOption = 0.4
    delay_ms: Annotated[float, typer.Option(min=0.0, max=10_000.0, help="Of the network, each way.")] = 0.0
    new_tokens: NewTokensOption = 4
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each phase.")] = 15.0
    warmup_seconds: Annotated[float, typer.Option(min=0.0, help="Of load before each phase.")] = 2.0
    rounds: Annotated[int, typer.Option(min=1, help="Phases for each number of edges.")] = 3
    seed: SeedOption = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of edges; one first, unless a server is named."""
        asked = self.edges or (16,)
        return tuple(sorted({*asked} if self.server else {1, *asked}))


@validated(frozen=True)
class ReplicasRun:
    """Servers behind one address, beside what the simulation of `plan` makes of each one's load curve."""

    server: Annotated[str, typer.Option(help="Address of all together.")]
    replica: Annotated[list[str], typer.Option(help="Address of one; once for each of them.")]
    edges: Annotated[int, typer.Option(min=2, max=64, help="That ask all together.")] = 16
    rate: Annotated[
        float, typer.Option(min=0.0, help="Questions a second of each edge, at random times; 0: no pauses.")
    ] = 0.0
    retransmission_rate: RateOption = 0.4
    new_tokens: NewTokensOption = 4
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each phase.")] = 6.0
    warmup_seconds: Annotated[float, typer.Option(min=0.0, help="Of load before each phase.")] = 1.0
    rounds: Annotated[int, typer.Option(min=1, help="Of all phases.")] = 5
    seed: SeedOption = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Edges of each replica by itself: powers of two, and all."""
        return tuple(sorted({self.edges, *(2**power for power in range(self.edges.bit_length()))}))

    @property
    def load(self) -> LoadRun:
        """What each edge does, without pauses."""
        return LoadRun(
            retransmission_rate=self.retransmission_rate,
            new_tokens=self.new_tokens,
            seconds=self.seconds,
            warmup_seconds=self.warmup_seconds,
        )


@validated(frozen=True)
class PlanRun:
    """How many replicas so many edges need, how long answers take and what is sent, by a simulation."""

    log: Annotated[Path, typer.Argument(help="A log of secondlook eval, for the questions.")]
    latency: Annotated[Path, typer.Option(help="JSON file of secondlook bench load, of one replica.")]
    edges: Annotated[int, typer.Option(min=1, max=100_000, help="Each asks one question at a time.")]
    rate: Annotated[
        float, typer.Option(min=0.0, help="Questions a second of each edge, at random times; 0: no pauses.")
    ] = 1.0
    percentile: Annotated[float, typer.Option(min=1.0, max=99.9, help="Of the seconds to an answer.")] = 95.0
    target: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that this percentile may take.")
    ] = None
    replicas: Annotated[
        int | None, typer.Option(min=1, help="So many; by default up to some more than are needed.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="For second looks; by default that of the log.")
    ] = None
    delay_ms: Annotated[float, typer.Option(min=0.0, max=10_000.0, help="Of the network, each way.")] = 0.0
    questions: Annotated[int, typer.Option(min=100, help="That are simulated.")] = 10_000
    seed: SeedOption = 0


@validated(frozen=True)
class EdgeRun:
    """Time, memory and bytes of the pictures an edge sends, beside decoding and resizing them plainly."""

    megapixels: Annotated[
        list[float] | None,
        typer.Option(min=0.01, max=64, help="Of the pictures; may be repeated; 2, 8 and 12 unless told."),
    ] = None
    image_size: Annotated[
        int, typer.Option(min=16, max=4096, help="Side of the encoder's square, in pixels.")
    ] = 336
    resize_mode: Annotated[Fit, typer.Option(help="How pictures are fitted to it.")] = "squash"
    rounds: Annotated[int, typer.Option(min=1, help="Of new pictures, that each way prepares.")] = 20
    warmups: Annotated[int, typer.Option(min=0, help="Rounds before them that do not count.")] = 2
    seed: SeedOption = 0

    @property
    def sizes(self) -> list[float]:
        return self.megapixels or [2.0, 8.0, 12.0]

    @property
    def view(self) -> View:
        return View(size=Fixed(width=self.image_size, height=self.image_size), fit=self.resize_mode)


@validated(frozen=True)
class LosslessRun:
    """Crops cut out of a camera's JPEG on its own grid of blocks, beside the edge's, compressed anew."""

    model: ModelOption = "demo"
    count: Annotated[int, typer.Option(min=1, help="Pictures of signs, with a question each.")] = 300
    seed: SeedOption = 7


class Graph(Enum):
    """Not bfloat16, of which ONNX Runtime has no products on CPUs."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@validated(frozen=True)
class VisionRun:
    """The vision encoder in torch, ONNX Runtime and OpenVINO, one picture and two at a time, on the CPU."""

    preset: Annotated[_Clip, typer.Option(help="Whose vision encoder, with random weights.")] = "small"
    graph: Annotated[
        list[Graph] | None,
        typer.Option(help="Precision of an exported graph; again for another. [default: float32 and int8]"),
    ] = None
    repeats: RepeatsOption = 20
    seed: SeedOption = 0


@validated(frozen=True)
class KernelsRun:
    """Each operator, the PyTorch composition it replaces, and the floor, in one run."""

    device: DeviceOption = "auto"


@validated(frozen=True)
class ReplayRun:
    """How long reading a long log takes, and every curve that a report draws from it."""

    log: Annotated[Path, typer.Argument(help="A log, whose pictures are repeated.")]
    rows: Annotated[int, typer.Option(min=1, help="Records of the log that is timed.")] = 100_000


@validated(frozen=True)
class BudgetRun:
    """How well a budget is kept while difficulty shifts, on streams drawn from a log, and what it costs."""

    log: Annotated[Path, typer.Argument(help="A log of secondlook eval.")]
    retransmission_rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of questions looked at twice; may be repeated. 0.2, 0.3, 0.4 and 0.5 unless told."
        ),
    ] = None
    phase: Annotated[int, typer.Option(min=140, help="Questions from one shift to the next.")] = 1000
    repeats: Annotated[int, typer.Option(min=1, help="Streams of each kind.")] = 5
    seed: SeedOption = 0


@validated(frozen=True)
class GateRun:
    """What gates on gain give beside doubt, at equal accuracy and at equal bytes, on a log new to them."""

    log: Annotated[Path, typer.Argument(help="A log of secondlook eval.")]
    policy: Annotated[
        list[Path], typer.Option(help="Of calibrate threshold --gate, on another log; may be repeated.")
    ]


@validated(frozen=True)
class StreamRun:
    """Every way of answering a stream of frames in time, over the delay of the cloud, on drawn streams."""

    streams: Annotated[int, typer.Option(min=1, help="Of 20 seconds, at 5 frames a second.")] = 6
    delays: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            help="Seconds to the cloud's answer; may be repeated; 0.2, 0.5, 1, 2, 4 and 9 unless told.",
        ),
    ] = None
    network: Annotated[
        Literal["constant", "lognormal", "trace"],
        typer.Option(help="How delays vary around that; a trace loses 30 % of messages, too, unless told."),
    ] = "constant"
    methods: Annotated[
        list[str] | None, typer.Option(help="One of them; may be repeated; all unless told.")
    ] = None
    loss: Annotated[
        float | None, typer.Option(min=0.0, max=0.99, help="Share of messages that are lost.")
    ] = None
    in_flight: Annotated[int, typer.Option(min=1, help="Frames that the cloud is asked about at once.")] = 1
    history_seconds: Annotated[float, typer.Option(min=0.1, help="How long an answer is of use.")] = 10.0
    small: Annotated[str, typer.Option(help="The site's model, as --model of serve.")] = "demo"
    large: Annotated[str, typer.Option(help="The cloud's.")] = "demo"
    recording: Annotated[
        Path | None, typer.Option(help="What the models said: read from there, and what is new kept there.")
    ] = None
    dtype: ServedDTypeOption = "auto"
    device: ServedDeviceOption = "auto"
    seed: SeedOption = 0

    @property
    def each_delay(self) -> list[float]:
        return self.delays or [0.2, 0.5, 1.0, 2.0, 4.0, 9.0]

    @property
    def lost(self) -> float:
        """Share of messages."""
        return (0.3 if self.network == "trace" else 0.0) if self.loss is None else self.loss


@validated(frozen=True)
class SiteRun:
    """A site's frames in real time: how late they are answered, whatever becomes of the cloud."""

    model: ModelOption = "demo"
    cloud: Annotated[str, typer.Option(help="The model of the cloud that is well.")] = "demo"
    well: Annotated[
        bool, typer.Option("--well", help="Have a cloud that answers, too: on this machine, beside the site.")
    ] = False
    focus: Annotated[Literal["off", "crop"], typer.Option(help="As for secondlook site.")] = "off"
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="Frames a second.")] = 5.0
    fast_fps: Annotated[
        float, typer.Option(min=0.1, max=1000, help="The same, more than can be kept up.")
    ] = 30.0
    deadline: Annotated[float, typer.Option(min=0.001, max=60, help="Seconds to the answer.")] = 0.2
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each phase.")] = 20.0
    rounds: Annotated[int, typer.Option(min=1, help="Phases of each cloud, in turns.")] = 5
    memory_frames: Annotated[
        int, typer.Option(min=0, help="Frames, one after the other, while memory is watched; 0: none.")
    ] = 10_000
    seed: SeedOption = 0


@validated(frozen=True)
class BrowserRun:
    """Pictures that the server's page makes in a browser, beside the edge's: answers, doubts and bytes."""

    model: ModelOption = "demo"
    count: Annotated[int, typer.Option(min=2, help="Pictures, with one question each.")] = 500
    resized: Annotated[int, typer.Option(min=1, help="Of them, that are resized in other ways too.")] = 20
    seed: SeedOption = 5151
