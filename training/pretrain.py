"""First stage: teach the vision tower to read, from close-ups, with a linear head on every patch.

Trained end to end from scratch, a model of this size keeps guessing digits; a tower that can already read
changes that.

    python -m training.pretrain --out OUT

A model that began as another (`training.inherit`) learns from that one as well: its features are drawn to the
other's rows of the decoder, for close-ups and for pictures that both see as the same square.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.architectures import add_model_option
from training.closeups import SIDE, CloseUps
from training.head import PatchHead, patch_loss
from training.inherit import Teacher
from training.lessons import Lesson, Lessons, flat_labels
from training.loop import (
    DEVICE,
    Meter,
    adamw,
    autocast,
    device,
    learning_rate,
    load_state,
    restored,
    save_state,
)
from training.model import IMAGE_SIZE, PATCH, Architecture

__all__ = ["gathered_close_ups", "pretrain", "some_corner"]

LESSONS: Final = 8
"""Lessons a step, two whole pictures each, beside the close-ups."""

TEACHER_WEIGHT: Final = 3.0


def _pictures(lessons: list[Lesson]) -> tuple[list[Tensor], Tensor]:
    """Global and local images uint8 [3, H, W], and the labels of their patches [4, R]."""
    patches = flat_labels([labels for lesson in lessons for labels in lesson.patches])
    return [pixels for lesson in lessons for pixels in lesson.pixels], patches


def gathered_close_ups(drawn: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The same of close-ups, which are of one size: uint8 [n, 3, S, S]."""
    pixels, labels = zip(*drawn, strict=True)
    return torch.stack(pixels), flat_labels(labels)


def some_corner(generator: torch.Generator) -> tuple[int, int]:
    """Of a close-up, anywhere in a square picture."""
    row, column = torch.randint(0, (IMAGE_SIZE - SIDE) // PATCH + 1, (2,), generator=generator).tolist()
    return row, column


def pretrain(
    architecture: Architecture,
    out: Path,
    steps: int,
    batch: int,
    seed: int,
    peak: float,
    device: torch.device,
    workers: int = 1,
    lessons: int = LESSONS,
    every: int = 100,
    teacher: Teacher | None = None,
) -> None:
    """Train tower and head; write `out/tower.pt` at intervals, and go on from it if it is there."""
    tokenizer = architecture.tokenizer()
    model = architecture.build(tokenizer, seed)
    model.set_attn_implementation("eager")
    tower = architecture.tower(model).to(device)
    head = PatchHead(architecture.width).to(device)
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = adamw(parameters, peak)
    path, start = out / "tower.pt", 0
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
        state = load_state(path, device)
        tower.load_state_dict(state["tower"])
        head.load_state_dict(state["head"])
        start = restored(optimiser, state)
    whole = Lessons(architecture, tokenizer, seed + start)
    near = CloseUps(architecture.squashes, seed + start)
    streams = [
        iter(DataLoader(data, count, num_workers=workers, prefetch_factor=4, collate_fn=gather))
        for data, count, gather in ((near, batch, gathered_close_ups), (whole, lessons, _pictures))
    ]
    generator = torch.Generator().manual_seed(seed + start)
    meter = Meter(start, steps, batch, every=10)
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak, min(200, steps // 20))
        loss, told = torch.zeros((), device=device), dict[str, float | Tensor]()
        with autocast(device):
            for kind, stream, corner in zip(
                ("close_ups", "pictures"), streams, (some_corner(generator), (0, 0)), strict=True
            ):
                pixels, labels = next(stream)
                pixels = [picture.to(device) for picture in pixels]
                features = architecture.features(tower, pixels, corner)
                read, right = patch_loss(head, features, labels.to(device))
                loss, told[f"digits_in_{kind}"] = loss + read, right
                if teacher is not None:
                    apart = teacher.apart(features, pixels, corner)
                    loss, told[f"apart_in_{kind}"] = loss + TEACHER_WEIGHT * apart, apart
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        meter.add(step, loss=loss, **told)
        if (step + 1) % every == 0 or step + 1 == steps:
            save_state(path, optimiser, step + 1, tower=tower, head=head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_model_option(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for tower.pt; an interrupted run goes on"
    )
    parser.add_argument("--teacher", action="store_true", help="learn from the first embedded model too")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--peak", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw, of each kind")
    parser.add_argument("--device", type=device, default=DEVICE)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = (arguments.steps, arguments.batch, arguments.seed, arguments.peak, arguments.device)
    teacher = Teacher.embedded(arguments.device) if arguments.teacher else None
    pretrain(arguments.model, arguments.out, *settings, arguments.workers, teacher=teacher)


if __name__ == "__main__":
    main()
