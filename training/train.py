"""Second and third stage: the language model on lessons, then the whole model.

    python -m training.train --stage language --out OUT
    python -m training.train --stage joint --out OUT

In the second stage the tower (`OUT/tower.pt`, from the first) stays as it is, which makes a step cheaper and
gives the language model something steady to learn from. The loss is the answers' cross-entropy, and that
between the probe layer's attention (mean over heads) and the asked sign's place, or an even spread for the
generic question: the region search divides the one by the other. The layers before are taught to fetch the
colour's word, all heads of them; with one head alone, attention stayed on every sign for hundreds of steps.
A projector starts with the patch head's read-outs among its hidden units.

The third stage goes on from the second's `OUT/language.pt` with everything learning and the patch loss added,
and writes `OUT/model.pt`.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from training.architectures import add_model_option
from training.closeups import IGNORED, CloseUps
from training.head import PatchHead, patch_loss
from training.lessons import Lessons, Packed, collate
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
from training.model import PATCH, PROBE_LAYER, Architecture
from training.pretrain import gathered_close_ups, some_corner

__all__ = ["STAGES", "Read", "Stage", "look_losses", "losses", "read", "train"]

ATTENTION_WEIGHT: Final = 1.0
COPY_WEIGHT: Final = 0.3
"""Of attention to an earlier answer, in the first layer, where digits are nothing but digits. Left alone no
copying had come in 250 steps; nor with the last layer's, where what else a token has become drowns them."""

PATCH_WEIGHT: Final = 0.75
CLOSE_UPS: Final = 96
"""Close-ups a step in the third stage, beside the lessons."""


@dataclass(frozen=True)
class Read:
    """What a model makes of packed looks.

    Attributes:
        logits: [W, V] float32, where an answer is wanted.
        looked: [P, M], the probe layer's attention from each probe to the visual tokens, mean over heads.
        fetched: [L, heads, P'], that of the layers before to the word that says where, for probes that have
            one and no earlier answer.
        copied: [C], the first layer's to what an earlier answer has there, mean over the first half of the
            heads; the others are left to the colour.
    """

    logits: Tensor
    looked: Tensor
    fetched: Tensor
    copied: Tensor


def read(model: Any, packed: Packed, visual: Tensor) -> Read:
    """Run the decoder.

    Args:
        visual: [M, D], rows of all looks' pictures, look by look.
    """
    language = model.model.language_model
    embeddings = language.embed_tokens(packed.ids)
    embeddings = embeddings.masked_scatter(packed.seen[..., None], visual.to(embeddings.dtype))
    bias = torch.zeros_like(packed.mask, dtype=embeddings.dtype).masked_fill(~packed.mask, float("-inf"))
    output = language(
        inputs_embeds=embeddings,
        attention_mask=bias,
        position_ids=packed.positions if len(packed.positions) > 1 else packed.positions[0],
        use_cache=False,
        output_attentions=True,
    )
    logits = model.lm_head(output.last_hidden_state[packed.labels != IGNORED]).float()
    rows, places, cues = packed.probes.unbind(1)
    attention = output.attentions[PROBE_LAYER].float()[rows, :, places].mean(1)
    looked = attention.gather(1, packed.images[rows])
    cued = (cues >= 0) & ~packed.history[rows, places]
    before = torch.stack(output.attentions[:PROBE_LAYER]).float()
    fetched = before[:, rows[cued], :, places[cued], cues[cued]]
    rows, places, earlier = packed.copies.unbind(1)
    heads = language.config.num_attention_heads // 2
    copied = output.attentions[0].float()[rows, :heads, places, earlier].mean(1)
    return Read(logits, looked, fetched, copied)


def losses(found: Read, packed: Packed) -> tuple[Tensor, Tensor, float]:
    """Answer loss, attention loss, and the share of answer tokens predicted right.

    Where there is an earlier answer, the attention taught is how it spreads over the picture, whatever the
    picture's share; and the first layer's to that answer.
    """
    targets = packed.labels[packed.labels != IGNORED]
    answers = functional.cross_entropy(found.logits, targets)
    rows, places, _ = packed.probes.unbind(1)
    looked = found.looked + 1e-6
    looked = looked / torch.where(packed.history[rows, places], looked.sum(1), 1.0)[:, None]
    focus = -(packed.targets * looked.log()).sum(1).mean() - (found.fetched + 1e-6).log().mean()
    if len(found.copied):
        focus = focus - COPY_WEIGHT * (found.copied + 1e-6).log().mean()
    return answers, focus, float((found.logits.argmax(-1) == targets).float().mean())


def look_losses(model: Any, packed: Packed, visual: Tensor) -> tuple[Tensor, Tensor, float]:
    """`losses` of what `read` finds."""
    return losses(read(model, packed, visual), packed)


@dataclass(frozen=True)
class Stage:
    """How a stage learns: files, steps, highest learning rate, and the tower's share of it (0: fixed).

    `seed` is added to the run's, so that no two stages draw the same pictures.
    """

    source: str
    target: str
    steps: int
    peak: float
    tower: float
    seed: int


STAGES: Final = {
    "language": Stage("tower.pt", "language.pt", steps=500, peak=1e-3, tower=0.0, seed=1_000_000),
    "joint": Stage("language.pt", "model.pt", steps=3000, peak=6e-4, tower=0.4, seed=2_000_000),
}


def train(
    architecture: Architecture,
    out: Path,
    stage: Stage,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    workers: int = 1,
    every: int = 100,
    history: bool = False,
) -> None:
    """Train one stage, on lessons with history or without; write its file at intervals, and go on from it if
    it is there."""
    tokenizer = architecture.tokenizer()
    model = architecture.build(tokenizer, seed)
    model.set_attn_implementation("eager")
    model.to(device)
    image_token = model.config.image_token_id
    tower = architecture.tower(model)
    head = PatchHead(architecture.width).to(device)
    seeing = set(tower.parameters())
    behind = [parameter for parameter in model.parameters() if parameter not in seeing]
    groups: list[dict[str, Any]] = [{"params": behind, "scale": 1.0}]
    if stage.tower:
        groups.append({"params": [*tower.parameters(), *head.parameters()], "scale": stage.tower})
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = adamw(groups, stage.peak)
    path, start = out / stage.target, 0
    found = path if path.exists() else out / stage.source
    state = load_state(found, device)
    if "model" in state:
        model.load_state_dict(state["model"])
    reading = state
    if not stage.tower:  # the first stage's word on reading is the last
        reading = load_state(out / "tower.pt", device)
        tower.load_state_dict(reading["tower"])
    head.load_state_dict(reading["head"])
    if found == path:
        start = restored(optimiser, state)
    begin = "model" not in state
    drawn = seed + stage.seed + start
    lessons = Lessons(architecture, tokenizer, drawn, history)
    gather = partial(collate, image_token=image_token)
    loader = iter(DataLoader(lessons, batch, num_workers=workers, prefetch_factor=4, collate_fn=gather))
    close = CloseUps(architecture.squashes, drawn)
    near_workers = workers if stage.tower else 0
    near = iter(DataLoader(close, CLOSE_UPS, num_workers=near_workers, collate_fn=gathered_close_ups))
    generator = torch.Generator().manual_seed(seed + start)
    meter = Meter(start, steps, batch, every=10)
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, steps, stage.peak, 50)
        data = next(loader).to(device)
        size, twice = len(data.first.ids), len(data.second.ids)
        if begin:
            architecture.start(model, head, architecture.features(tower, data.pixels))
            begin = False
        with autocast(device):
            with torch.set_grad_enabled(stage.tower > 0):
                features = architecture.features(tower, data.pixels)
            counts = [picture[0].numel() // PATCH**2 for picture in data.pixels]
            visual = architecture.visual(model, features).split_with_sizes(counts)
            both = [rows for pair in zip(visual[:twice], visual[size:], strict=True) for rows in pair]
            answers1, focus1, right1 = look_losses(model, data.first, torch.cat(visual[:size]))
            answers2, focus2, right2 = look_losses(model, data.second, torch.cat(both))
            loss = answers1 + answers2 + ATTENTION_WEIGHT * (focus1 + focus2)
            if stage.tower:
                whole, _ = patch_loss(head, features, data.patches)
                pixels, labels = next(near)
                pixels = [picture.to(device) for picture in pixels]
                features = architecture.features(tower, pixels, some_corner(generator))
                loss = loss + PATCH_WEIGHT * (whole + patch_loss(head, features, labels.to(device))[0])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        first: dict[str, float | Tensor] = {
            "first_answers": answers1,
            "first_attention": focus1,
            "first_right": right1,
        }
        second: dict[str, float | Tensor] = {
            "second_answers": answers2,
            "second_attention": focus2,
            "second_right": right2,
        }
        meter.add(step, **first, **second)
        if (step + 1) % every == 0 or step + 1 == steps:
            save_state(path, optimiser, step + 1, model=model, head=head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_model_option(parser)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="the stages' folder; an interrupted run goes on"
    )
    parser.add_argument("--steps", type=int, help="if not the stage's own")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, help="highest learning rate, if not the stage's own")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw, of each kind")
    parser.add_argument("--history", action="store_true", help="ask with an earlier answer behind, too")
    parser.add_argument("--device", type=device, default=DEVICE)
    arguments = parser.parse_args()
    stage = STAGES[arguments.stage]
    if arguments.peak is not None:
        stage = replace(stage, peak=arguments.peak)
    first = arguments.out / STAGES["language"].source
    if not stage.tower and not first.is_file():
        parser.error(f"{first} is missing: run the stage before, into it")
    if not any((arguments.out / name).is_file() for name in (stage.source, stage.target)):
        parser.error(f"{arguments.out / stage.source} is missing: run the stage before, into it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        arguments.model,
        arguments.out,
        stage,
        arguments.steps,
        arguments.batch,
        arguments.seed,
        arguments.device,
        arguments.workers,
        history=arguments.history,
    )


if __name__ == "__main__":
    main()
