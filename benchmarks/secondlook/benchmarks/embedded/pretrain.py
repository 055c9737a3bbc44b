"""First stage: teach the vision tower to read, from close-ups, with a linear head on every patch.

Trained end to end from scratch, a model of this size keeps guessing digits; a tower that can already read
changes that. Close-ups of 4 by 4 patches take a random part of that size of the 12 by 12 position table, so
every position is trained.

    python -m secondlook.benchmarks.embedded.pretrain --out OUT
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import CLIPVisionModel

from secondlook.benchmarks.embedded.closeups import IGNORED, CloseUps
from secondlook.benchmarks.embedded.lessons import Lesson, Lessons
from secondlook.benchmarks.embedded.model import GRID, build_model, build_tokenizer

__all__ = ["PatchHead", "patch_loss", "pixels_to_float", "pretrain", "tower_features"]

logger = logging.getLogger(__name__)

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation."""


LESSONS: Final = 6
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
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
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


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(out: Path, steps: int, batch: int, seed: int, peak: float = 1.5e-3, every: int = 250) -> None:
    """Train tower and head; write `out/tower.pt` at intervals, and go on from it if it is there."""
    model = build_model(build_tokenizer(), seed)
    model.set_attn_implementation("eager")
    tower = model.model.vision_tower
    head = PatchHead(tower.config.hidden_size)
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    path, start = out / "tower.pt", 0
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
        state = torch.load(path, weights_only=True)
        tower.load_state_dict(state["tower"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    tokenizer = build_tokenizer()
    lessons = Lessons(tokenizer, model.config.image_token_id, seed + start)
    pictures = iter(DataLoader(lessons, LESSONS, num_workers=1, prefetch_factor=4, collate_fn=_pictures))
    loader = iter(DataLoader(CloseUps(seed + start), batch_size=batch, num_workers=1, prefetch_factor=4))
    generator = torch.Generator().manual_seed(seed + start)
    began, total, read, read_whole = time.perf_counter(), 0.0, 0.0, 0.0
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak, 200)
        pixels, labels = next(loader)
        top, left = torch.randint(0, GRID - labels.shape[-1] + 1, (2,), generator=generator).tolist()
        with torch.autocast("cpu", torch.bfloat16):
            features = tower_features(tower, pixels_to_float(pixels), top, left)
            loss, right = patch_loss(head, features, labels)
            pixels, labels = next(pictures)
            whole, right_whole = patch_loss(head, tower_features(tower, pixels_to_float(pixels)), labels)
            loss = loss + whole
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        total, read, read_whole = total + loss.item(), read + right, read_whole + right_whole
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * batch / (time.perf_counter() - began)
            logger.info(
                "step %d/%d  loss %.3f  digits %.3f in close-ups %.3f in pictures  %.0f/s",
                step + 1,
                steps,
                total / 50,
                read / 50,
                read_whole / 50,
                rate,
            )
            total, read, read_whole = 0.0, 0.0, 0.0
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {"tower": tower.state_dict(), "head": head.state_dict(), "step": step + 1}
            torch.save({**state, "optimiser": optimiser.state_dict()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for tower.pt; an interrupted run goes on"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pretrain(arguments.out, arguments.steps, arguments.batch, arguments.seed)


if __name__ == "__main__":
    main()
