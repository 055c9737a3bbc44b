"""First stage: teach the vision tower to read, from close-ups, with a linear head on every patch.

Trained end to end from scratch, a model of this size keeps guessing digits; a tower that can already read
changes that. Close-ups of 4 by 4 patches take a random part of that size of the 12 by 12 position table, so
every position is trained.

    python -m training.pretrain --out OUT
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import CLIPVisionModel

from training.closeups import IGNORED, CloseUps
from training.lessons import Lesson, Lessons
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
from training.model import GRID, build_model, build_tokenizer

__all__ = ["PatchHead", "patch_loss", "pixels_to_float", "pretrain", "tower_features"]

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation."""


LESSONS: Final = 8
"""Lessons a step, two whole pictures each, beside the close-ups."""


class PatchHead(nn.Module):
    """Linear read-out of a patch feature: colour (7, 0 is none), tens, units (10 each), sign's centre (2)."""

    SIZES: Final = [7, 10, 10, 2]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(self.SIZES))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        logits: Tensor = self.linear(features)
        return torch.split(logits.float(), self.SIZES, dim=-1)


def pixels_to_float(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] → normalised float32."""
    mean, std = (torch.tensor(of, device=pixels.device).view(3, 1, 1) for of in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def tower_features(tower: CLIPVisionModel, pixels: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """Patch features [B, n², D] of pictures of n² patches, as the grid's part that starts at (top, left)."""
    embeddings = tower.embeddings
    patches = embeddings.patch_embedding(pixels)
    cells = patches.shape[-1]
    patches = patches.flatten(2).transpose(1, 2)
    table = embeddings.position_embedding.weight
    grid = table[1:].view(GRID, GRID, -1)[top : top + cells, left : left + cells].reshape(cells * cells, -1)
    first = (embeddings.class_embedding + table[0]).expand(len(pixels), 1, -1)
    hidden = tower.pre_layrnorm(torch.cat([first, patches + grid], dim=1))
    features: Tensor = tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]
    return features


def patch_loss(head: PatchHead, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Summed cross-entropy of the four read-outs and the share of labelled digits that are read right.

    features [B, N, D]; labels int64 [B, 4, n, n].
    """
    outputs = head(features)
    targets = labels.flatten(2)
    loss = features.new_zeros((), dtype=torch.float32)
    for kind, logits in enumerate(outputs):
        target = targets[:, kind]
        count = (target != IGNORED).sum().clamp(min=1)
        total = functional.cross_entropy(
            logits.transpose(1, 2), target, ignore_index=IGNORED, reduction="sum", label_smoothing=0.0
        )
        loss = loss + total / count
    labelled = targets[:, 1:3] != IGNORED
    right = torch.stack([outputs[1].argmax(-1), outputs[2].argmax(-1)], dim=1) == targets[:, 1:3]
    return loss, float(right[labelled].float().mean()) if labelled.any() else 0.0


def _pictures(lessons: list[Lesson]) -> tuple[Tensor, Tensor]:
    """Global and local images [2B, 3, S, S] and their patch labels [2B, 4, n, n]."""
    return torch.cat([lesson.pixels for lesson in lessons]), torch.cat([lesson.patches for lesson in lessons])


def pretrain(
    out: Path,
    steps: int,
    batch: int,
    seed: int,
    peak: float,
    device: torch.device,
    workers: int = 1,
    lessons: int = LESSONS,
    every: int = 250,
) -> None:
    """Train tower and head; write `out/tower.pt` at intervals, and go on from it if it is there."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    model.set_attn_implementation("eager")
    tower = model.model.vision_tower.to(device)
    head = PatchHead(tower.config.hidden_size).to(device)
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = adamw(parameters, peak)
    path, start = out / "tower.pt", 0
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
        state = load_state(path, device)
        tower.load_state_dict(state["tower"])
        head.load_state_dict(state["head"])
        start = restored(optimiser, state)
    whole_pictures = Lessons(tokenizer, model.config.image_token_id, seed + start)
    pictures = iter(
        DataLoader(whole_pictures, lessons, num_workers=workers, prefetch_factor=4, collate_fn=_pictures)
    )
    loader = iter(
        DataLoader(CloseUps(seed + start), batch_size=batch, num_workers=workers, prefetch_factor=4)
    )
    generator = torch.Generator().manual_seed(seed + start)
    meter = Meter(start, steps, batch, every=50)
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak, 200)
        pixels, labels = (part.to(device) for part in next(loader))
        top, left = torch.randint(0, GRID - labels.shape[-1] + 1, (2,), generator=generator).tolist()
        with autocast(device):
            features = tower_features(tower, pixels_to_float(pixels), top, left)
            loss, read = patch_loss(head, features, labels)
            pixels, labels = (part.to(device) for part in next(pictures))
            whole, read_whole = patch_loss(head, tower_features(tower, pixels_to_float(pixels)), labels)
            loss = loss + whole
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        meter.add(step, loss=loss, digits_in_close_ups=read, in_pictures=read_whole)
        if (step + 1) % every == 0 or step + 1 == steps:
            save_state(path, optimiser, step + 1, tower=tower, head=head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for tower.pt; an interrupted run goes on"
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--peak", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw, of each kind")
    parser.add_argument("--device", type=device, default=DEVICE)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = (arguments.steps, arguments.batch, arguments.seed, arguments.peak, arguments.device)
    pretrain(arguments.out, *settings, arguments.workers)


if __name__ == "__main__":
    main()
