"""Second and third stage: the language model on lessons, then the whole model.

    python -m secondlook.benchmarks.embedded.train --stage language --out OUT
    python -m secondlook.benchmarks.embedded.train --stage joint --out OUT

In the second stage the tower (`OUT/tower.pt`, from the first) stays as it is, which makes a step cheaper and
gives the language model something steady to learn from. The loss is the answers' cross-entropy, and that
between the probe layer's attention (mean over heads) and the asked sign's place, or an even spread for the
generic question: the region search divides the one by the other. The layers before are taught to fetch the
colour's word, all heads of them; with one head alone, attention stayed on every sign for hundreds of steps.
The projector starts with the patch head's read-outs among its hidden units.

The third stage goes on from the second's `OUT/language.pt` with everything learning and the patch loss added,
and writes `OUT/model.pt`.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration

from secondlook.benchmarks.embedded.closeups import IGNORED, CloseUps
from secondlook.benchmarks.embedded.lessons import Lesson, Lessons, Look
from secondlook.benchmarks.embedded.model import GRID, PROBE_LAYER, build_model, build_tokenizer
from secondlook.benchmarks.embedded.pretrain import (
    PatchHead,
    learning_rate,
    patch_loss,
    pixels_to_float,
    tower_features,
)

__all__ = ["STAGES", "Batch", "Packed", "Stage", "collate", "train"]

logger = logging.getLogger(__name__)

ATTENTION_WEIGHT: Final = 1.0
PATCH_WEIGHT: Final = 0.5
CLOSE_UPS: Final = 96
"""Close-ups a step in the third stage, beside the lessons."""
SECOND_LOOKS: Final = 0.625
"""Share of the lessons whose second look is trained on; it costs twice a first look."""


@dataclass(frozen=True)
class Packed:
    """Looks of equal kind, padded to one length T.

    ids, positions, labels int64 [B, T]; mask bool [B, 1, T, T]; images int64 [B, M], where the visual tokens
    are; probes int64 [P, 3] (row, position, cue or -1) with wanted attention targets float32 [P, M].
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    images: Tensor
    probes: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [B + C, 3, S, S] and patch labels [B + C, 4, n, n], and the looks at them.

    B global images come first, then the local images of the first C lessons, which have a second look.
    """

    pixels: Tensor
    patches: Tensor
    first: Packed
    second: Packed


def collate(lessons: list[Lesson], image_token: int) -> Batch:
    """Stack lessons, some with a second look; padding tokens see only one another and count for nothing."""
    twice = lessons[: max(1, round(SECOND_LOOKS * len(lessons)))]
    return Batch(
        torch.stack([lesson.pixels[0] for lesson in lessons] + [lesson.pixels[1] for lesson in twice]),
        torch.stack([lesson.patches[0] for lesson in lessons] + [lesson.patches[1] for lesson in twice]),
        _pack([lesson.first for lesson in lessons], image_token),
        _pack([lesson.second for lesson in twice], image_token),
    )


def _pack(looks: list[Look], image_token: int) -> Packed:
    length = max(len(look.ids) for look in looks)

    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    ids = padded([look.ids for look in looks], 0)
    segments = padded([look.segments for look in looks], -1)
    own = segments[:, :, None] == segments[:, None, :]
    shared = (segments[:, None, :] == 0) & (segments[:, :, None] >= 0)
    mask = (own | shared) & torch.ones(length, length, dtype=torch.bool).tril()
    return Packed(
        ids=ids,
        positions=padded([look.positions for look in looks], 0),
        labels=padded([look.labels for look in looks], IGNORED),
        mask=mask[:, None],
        images=torch.stack([(row == image_token).nonzero().squeeze(1) for row in ids]),
        probes=torch.tensor(
            [
                (row, *probe)
                for row, look in enumerate(looks)
                for probe in zip(look.probes, look.cues, strict=True)
            ]
        ),
        targets=torch.stack([torch.from_numpy(target) for look in looks for target in look.targets]),
    )


@torch.no_grad()
def start_projector(model: LlavaForConditionalGeneration, head: PatchHead, features: Tensor) -> None:
    """Initialise the projector so that its output deviates by 1 from its mean over `features` [B, N, D].

    The first hidden units are the patch head's logits (halved), the others standardised random directions.
    """
    projector = model.model.multi_modal_projector
    flat = features.float().flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0)
    weight = torch.empty_like(projector.linear_1.weight)
    nn.init.orthogonal_(weight)
    weight = 1.5 * weight / (math.sqrt(flat.shape[1]) * deviation)
    read_outs = head.linear.weight.shape[0]
    bias = -weight @ mean
    weight[:read_outs], bias[:read_outs] = head.linear.weight / 2, head.linear.bias / 2
    projector.linear_1.weight.copy_(weight)
    projector.linear_1.bias.copy_(bias)
    nn.init.normal_(projector.linear_2.weight)
    projector.linear_2.bias.zero_()
    output = projector(flat)
    projector.linear_2.weight.div_((output - output.mean(0)).std())


def look_losses(
    model: LlavaForConditionalGeneration, packed: Packed, visual: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Answer loss, attention loss, and the share of answer tokens predicted right; visual [B, M, D]."""
    language = model.model.language_model
    embeddings = language.embed_tokens(packed.ids)
    index = packed.images[..., None].expand(-1, -1, embeddings.shape[-1])
    embeddings = embeddings.scatter(1, index, visual.to(embeddings.dtype))
    bias = torch.zeros(packed.mask.shape).masked_fill(~packed.mask, float("-inf"))
    output = language(
        inputs_embeds=embeddings,
        attention_mask=bias.to(embeddings.dtype),
        position_ids=packed.positions,
        use_cache=False,
        output_attentions=True,
    )
    wanted = packed.labels != IGNORED
    logits = model.lm_head(output.last_hidden_state[wanted]).float()
    targets = packed.labels[wanted]
    answers = functional.cross_entropy(logits, targets)
    rows, places, cues = packed.probes.unbind(1)
    attention = output.attentions[PROBE_LAYER].float()[rows, :, places].mean(1)
    looked = attention.gather(1, packed.images[rows])
    focus = -(packed.targets * (looked + 1e-6).log()).sum(1).mean()
    cued = cues >= 0
    before = torch.stack(output.attentions[:PROBE_LAYER]).float()
    fetched = before[:, rows[cued], :, places[cued], cues[cued]]
    focus = focus - (fetched + 1e-6).log().mean()
    return answers, focus, float((logits.argmax(-1) == targets).float().mean())


@dataclass(frozen=True)
class Stage:
    """How one stage learns: its files, its highest learning rate, and the tower's share of it (0: fixed)."""

    source: str
    target: str
    peak: float
    tower: float


STAGES: Final = {
    "language": Stage("tower.pt", "language.pt", peak=1e-3, tower=0.0),
    "joint": Stage("language.pt", "model.pt", peak=6e-4, tower=0.5),
}


def train(out: Path, stage: Stage, steps: int, batch: int, seed: int, every: int = 100) -> None:
    """Train one stage; write its file at intervals, and go on from it if it is there."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    model.set_attn_implementation("eager")
    image_token = model.config.image_token_id
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    head = PatchHead(tower.config.hidden_size)
    groups: list[dict[str, Any]] = [
        {"params": [*projector.parameters(), *model.model.language_model.parameters()], "scale": 1.0}
    ]
    if stage.tower:
        groups.append({"params": [*tower.parameters(), *head.parameters()], "scale": stage.tower})
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.05)
    path, start = out / stage.target, 0
    state = torch.load(path if path.exists() else out / stage.source, weights_only=True)
    if path.exists():
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    if "model" in state:
        model.load_state_dict(state["model"])
    else:
        tower.load_state_dict(state["tower"])
    head.load_state_dict(state["head"])
    begin_projector = "model" not in state
    lessons = Lessons(tokenizer, image_token, seed + start + (stage.tower > 0))
    gather = partial(collate, image_token=image_token)
    loader = iter(DataLoader(lessons, batch, num_workers=1, prefetch_factor=4, collate_fn=gather))
    near = iter(DataLoader(CloseUps(seed + start + 1), CLOSE_UPS, num_workers=int(stage.tower > 0)))
    generator = torch.Generator().manual_seed(seed + start)
    began, sums = time.perf_counter(), [0.0] * 6
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, steps, stage.peak, 50)
        data = next(loader)
        size, twice = len(data.first.ids), len(data.second.ids)
        if begin_projector:
            start_projector(model, head, tower_features(tower, pixels_to_float(data.pixels)))
            begin_projector = False
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(stage.tower > 0):
                features = tower_features(tower, pixels_to_float(data.pixels))
            visual = projector(features)
            both = torch.cat([visual[:twice], visual[size:]], dim=1)
            answers1, focus1, right1 = look_losses(model, data.first, visual[:size])
            answers2, focus2, right2 = look_losses(model, data.second, both)
            loss = answers1 + answers2 + ATTENTION_WEIGHT * (focus1 + focus2)
            if stage.tower:
                whole, _ = patch_loss(head, features, data.patches)
                pixels, labels = next(near)
                top, left = torch.randint(0, GRID - labels.shape[-1] + 1, (2,), generator=generator).tolist()
                features = tower_features(tower, pixels_to_float(pixels), top, left)
                loss = loss + PATCH_WEIGHT * (whole + patch_loss(head, features, labels)[0])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        values = (answers1, answers2, focus1, focus2, right1, right2)
        sums = [
            total + float(torch.as_tensor(value).detach()) for total, value in zip(sums, values, strict=True)
        ]
        if (step + 1) % 10 == 0:
            rate = (step + 1 - start) * batch / (time.perf_counter() - began)
            logger.info(
                "step %d/%d  answers %.3f %.3f  attention %.2f %.2f  tokens right %.3f %.3f  %.1f/s",
                step + 1,
                steps,
                *(total / 10 for total in sums),
                rate,
            )
            sums = [0.0] * 6
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "head": head.state_dict(), "step": step + 1}
            torch.save({**state, "optimiser": optimiser.state_dict()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="the stages' folder; an interrupted run goes on"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stage = STAGES[arguments.stage]
    if not any((arguments.out / name).is_file() for name in (stage.source, stage.target)):
        parser.error(f"{arguments.out / stage.source} is missing: run the stage before, into it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.out, stage, arguments.steps, arguments.batch, arguments.seed)


if __name__ == "__main__":
    main()
