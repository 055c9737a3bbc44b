"""A continuation: the decoder learns to use a line of history, and keeps what it can do without.

    python -m training.publish --out OUT --resume FOLDER
    python -m training.context --out OUT
    python -m training.publish --out OUT --to FOLDER
    python -m training.context --measure FOLDER

From `OUT/language.pt`, with lessons that have history, to `OUT/model.pt`. Tower and projector stay as they
are. What the decoder said before holds it: on questions without history its answers' distributions and the
probe layer's attention are drawn to those of the weights it began with (distillation). The joint stage with
`--history` teaches the same to a model that is trained from the start.

`--measure` asks a checkpoint through the engine, and prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import all_questions, is_correct
from secondlook.benchmarks.signs.render import render_window
from secondlook.benchmarks.signs.scene import Scene, Sign
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from training.architectures import add_model_option
from training.closeups import IGNORED
from training.head import PatchHead
from training.history import READABLE, another, shrunk, unanswerable, with_history
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
from training.model import PATCH, Architecture
from training.train import ATTENTION_WEIGHT, Read, losses, read

__all__ = ["continue_with_history", "departure", "measure"]

SEED: Final = 3_000_000
"""Added to the run's, so that no other stage draws the same pictures."""

SECOND_LOOKS: Final = 0.375
"""Share of the lessons with one; fewer than in the joint stage, for they are but held."""

HOLD_WEIGHT: Final = 2.0


def departure(now: Read, before: Read, packed: Packed) -> Tensor:
    """How far a model is from what it was on questions without history: KL divergence of the answers' tokens
    and of the probe layer's attention, nats."""
    plain = ~packed.history[packed.labels != IGNORED]
    rows, places, _ = packed.probes.unbind(1)
    probed = ~packed.history[rows, places]
    said, wanted = (functional.log_softmax(one.logits[plain], -1) for one in (now, before))
    answers = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
    seen, sought = (one.looked[probed] for one in (now, before))
    ratio = ((sought + 1e-6) / (seen + 1e-6)).log()
    return answers + (sought * ratio).sum(1).mean()


def _recalled(found: Read, packed: Packed) -> float:
    """Share of answer tokens predicted right, behind a line of history."""
    wanted = packed.labels != IGNORED
    right = found.logits.argmax(-1) == packed.labels[wanted]
    return float(right[packed.history[wanted]].float().mean())


def continue_with_history(
    architecture: Architecture,
    out: Path,
    steps: int,
    batch: int,
    seed: int,
    peak: float,
    device: torch.device,
    workers: int = 1,
    every: int = 100,
) -> None:
    """Train the decoder; write `out/model.pt` at intervals, and go on from it if it is there."""
    tokenizer = architecture.tokenizer()
    path, start = out / "model.pt", 0
    first = load_state(out / "language.pt", device)
    state = load_state(path, device) if path.exists() else first
    models = list[Any]()
    for weights in (first, state):
        model = architecture.build(tokenizer, seed)
        model.load_state_dict(weights["model"])
        model.set_attn_implementation("eager")
        models.append(model.to(device).requires_grad_(False))
    teacher, model = models
    head = PatchHead(architecture.width).to(device)
    head.load_state_dict(first["head"])
    parameters = list(model.model.language_model.requires_grad_(True).parameters())
    optimiser = adamw(parameters, peak)
    if state is not first:
        start = restored(optimiser, state)
    lessons = Lessons(architecture, tokenizer, seed + SEED + start, history=True)
    gather = partial(collate, image_token=model.config.image_token_id, second_looks=SECOND_LOOKS)
    loader = iter(DataLoader(lessons, batch, num_workers=workers, prefetch_factor=4, collate_fn=gather))
    tower = architecture.tower(model)
    meter = Meter(start, steps, batch, every=10)
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak, 50)
        data = next(loader).to(device)
        size, twice = len(data.first.ids), len(data.second.ids)
        counts = [picture[0].numel() // PATCH**2 for picture in data.pixels]
        loss, told = torch.zeros((), device=device), dict[str, float | Tensor]()
        with autocast(device):
            with torch.no_grad():
                features = architecture.features(tower, data.pixels)
                visual = architecture.visual(model, features).split_with_sizes(counts)
            both = [rows for pair in zip(visual[:twice], visual[size:], strict=True) for rows in pair]
            looks = {"first": (data.first, visual[:size]), "second": (data.second, both)}
            for name, (packed, seen) in looks.items():
                rows = torch.cat(list(seen))
                with torch.no_grad():
                    before = read(teacher, packed, rows)
                now = read(model, packed, rows)
                answers, focus, _ = losses(now, packed)
                apart = departure(now, before, packed)
                loss = loss + answers + ATTENTION_WEIGHT * focus + HOLD_WEIGHT * apart
                told[f"{name}_answers"], told[f"{name}_apart"] = answers, apart
                told[f"{name}_recalled"] = _recalled(now, packed)
                told[f"{name}_copied"] = now.copied.mean() if len(now.copied) else 0.0
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        meter.add(step, **told)
        if (step + 1) % every == 0 or step + 1 == steps:
            save_state(path, optimiser, step + 1, model=model, head=head)


_DRAWN: Final = 1e6
"""Most pixels that a measured picture is drawn with."""

WAYS: Final = ("without", "correct", "stale")


def measure(engine: Engine, seed: int, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """How a model fares without, with correct, and with stale history, by what the picture shows.

    Asked of every sign of `count` test pictures, of two that are not there (whose right answer is the
    history's), and whether there is one. `took` is the share that gave a stale answer, `doubt` the mean
    uncertainty.
    """
    told = defaultdict[tuple[str, str], list[tuple[bool, bool, float]]](list)
    once = AnswerOptions(second_look="never")
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = shrunk(SignsPicture("test", seed, index).scene, rng)
        scale = min(1.0, float(np.sqrt(_DRAWN / (scene.size.width * scene.size.height))))
        drawn = Size(round(scene.size.width * scale), round(scene.size.height * scale))
        window = Region(0, 0, scene.size.width, scene.size.height)
        picture = open_picture(render_window(scene, window, drawn))
        sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
        questions = all_questions(scene)
        exists = questions["exists"][rng.integers(len(questions["exists"]))]
        for question in [*questions["read"], *unanswerable(questions, rng)[:2], exists]:
            for way in WAYS:
                if question.sign is None and question.type == "read" and way == "stale":
                    continue
                age, earlier = float(rng.uniform(0.1, 9.9)), question.answer
                if way == "stale":
                    wrong = "no" if earlier == "yes" else "yes"
                    earlier = str(another(int(earlier), rng)) if question.type == "read" else wrong
                asked = question if way == "without" else with_history(question, age, earlier)
                look = engine.first_look(sent, asked.text, scene.size, once).look
                taken = way == "stale" and is_correct(replace(question, answer=earlier), look.text)
                kind = question.type if question.type == "exists" else _size(scene, question.sign)
                told[kind, way].append((is_correct(question, look.text), taken, look.uncertainty))
    table = defaultdict[str, dict[str, dict[str, float]]](dict)
    for (kind, way), found in sorted(told.items()):
        right, took, doubt = (round(float(column.mean()), 4) for column in np.array(found, float).T)
        table[kind][way] = {"asked": len(found), "right": right, "took": took, "doubt": doubt}
    return dict(table)


def _size(scene: Scene, sign: Sign | None) -> str:
    if sign is None:
        return "absent"
    height = scene.global_digit_height(sign)
    return "< 6 px" if height < 6 else "6 to 9 px" if height < READABLE else ">= 9 px"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_model_option(parser)
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--out", type=Path, help="folder with language.pt; an interrupted run goes on")
    ways.add_argument("--measure", metavar="FOLDER", help="checkpoint to measure instead")
    parser.add_argument("--count", type=int, default=400, help="pictures to measure on")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--peak", type=float, default=6e-4, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--device", type=device, default=DEVICE)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        engine = Engine(load_model(arguments.measure, dtype="float32", device=str(arguments.device)))
        sys.stdout.write(json.dumps(measure(engine, arguments.seed, arguments.count), indent=1) + "\n")
        return
    if not (arguments.out / "language.pt").is_file():
        parser.error(f"{arguments.out / 'language.pt'} is missing: publish --resume, or run the stage before")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = (arguments.steps, arguments.batch, arguments.seed, arguments.peak, arguments.device)
    continue_with_history(arguments.model, arguments.out, *settings, arguments.workers)


if __name__ == "__main__":
    main()
