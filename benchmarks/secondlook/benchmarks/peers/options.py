"""What `bench peers` measures: a dataclass, whose fields are the command's options."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from secondlook.benchmarks.commands import SeedOption
from secondlook.benchmarks.options import RepeatsOption
from secondlook.edge.validation import validated

__all__ = ["Peer", "PeersRun", "Precision"]


class Peer(Enum):
    """Engines that are measured beside each other: ours, vLLM, and transformers' flows of `bench latency`."""

    ours = "ours"
    vllm = "vllm"
    reference = "reference"
    strong = "strong"
    encoding_once = "encoding_once"


class Precision(Enum):
    """What all of them compute in on CPUs."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@validated(frozen=True)
class PeersRun:
    """Other engines beside ours, in turns on the same weights: one look, two looks, many clients."""

    preset: Annotated[
        Literal["small", "llava-1.5-7b", "llava-1.5-13b", "demo"],
        typer.Option(help="A LLaVA-1.5's sizes, with random weights; demo is the embedded model."),
    ] = "small"
    vllm: Annotated[
        Path | None,
        typer.Option(help="The folder of vLLM's environment, of benchmarks/peers/install-vllm.sh."),
    ] = None
    peer: Annotated[
        list[Peer] | None, typer.Option(help="One of them; may be repeated; all that are there unless told.")
    ] = None
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="Of weights and activations; again for another. [default: both]"),
    ] = None
    busy: Annotated[
        int, typer.Option(min=0, max=64, help="Measure again beside so many processes that compute.")
    ] = 0
    new_tokens: Annotated[int, typer.Option(min=2, max=1024, help="Tokens of an answer in one look.")] = 20
    load_tokens: Annotated[
        int, typer.Option(min=2, max=1024, help="Tokens of each answer of two looks, and of many clients.")
    ] = 4
    clients: Annotated[int, typer.Option(min=1, max=64, help="That ask at a time.")] = 16
    repeats: RepeatsOption = 5
    warmups: Annotated[int, typer.Option(min=0, help="Rounds that do not count.")] = 1
    seed: SeedOption = 0

    @property
    def precisions(self) -> list[Precision]:
        return self.precision or list(Precision)

    @property
    def loads(self) -> list[int]:
        """Numbers of busy processes."""
        return [0, self.busy] if self.busy else [0]
