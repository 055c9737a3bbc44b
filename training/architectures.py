"""The embedded models by the names that `--model` takes."""

from __future__ import annotations

import argparse
from typing import Final

from training.model import Architecture
from training.qwen import Qwen
from training.square import Square

__all__ = ["ARCHITECTURES", "add_model_option", "named"]

ARCHITECTURES: Final[dict[str, Architecture]] = {"demo": Square(), "demo-qwen": Qwen()}


def named(name: str) -> Architecture:
    """For argparse: an architecture by its model's name."""
    if name not in ARCHITECTURES:
        raise argparse.ArgumentTypeError(f"there is no model {name!r}; use {' or '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """`--model`, the first one by default."""
    parser.add_argument("--model", type=named, default="demo", help=" or ".join(ARCHITECTURES))
