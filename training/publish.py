"""Last stage: write the trained model as a checkpoint folder in the Hugging Face layout.

    python -m training.publish --out OUT --to FOLDER

Weights are stored in float16 (they are served in float32 on a CPU). The threshold in `secondlook.json` is the
one that `secondlook eval signs --split calibration` chose; publish writes the one given. The patch head,
which serving does not read, goes to a file beside this script (`--head`); training can go on from both:

    python -m training.publish --out OUT --resume FOLDER

writes `OUT/tower.pt` and `OUT/language.pt`, from which every stage can go on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from secondlook.benchmarks.checkpoints import save_model
from secondlook.engine.models.settings import LOCALISATION_FILE, SETTINGS_FILE
from training.architectures import add_model_option
from training.history import TEMPLATE
from training.lessons import REGION
from training.model import PROBE_LAYER, Architecture

__all__ = ["publish", "published_state"]


def published_state(folder: Path, head_file: Path) -> dict[str, Any]:
    """The state of training that a checkpoint folder was published from, to begin a stage with."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    head = {name: tensor.float() for name, tensor in load_file(head_file).items()}
    return {"model": model.state_dict(), "head": head}


def publish(
    architecture: Architecture,
    state: Path,
    folder: Path,
    head_file: Path,
    threshold: float,
    *,
    context: bool = False,
) -> None:
    """Write config, weights, tokenizer, chat template, preprocessor and two-look settings into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = architecture.tokenizer()
    tokenizer.chat_template = architecture.chat_template
    model = architecture.build(tokenizer, seed=0)
    trained = torch.load(state, weights_only=True)
    model.load_state_dict(trained["model"])
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(model.half(), folder)
    save_file({name: tensor.half() for name, tensor in trained["head"].items()}, head_file)
    tokenizer.save_pretrained(folder)
    architecture.save_processor(tokenizer, folder)
    settings: dict[str, Any] = {"threshold": threshold, "fit": "squash", "max_new_tokens": 20}
    if context:
        settings["context"] = TEMPLATE
    where = {"layers": {PROBE_LAYER: None}, "crop_size": REGION.crop_size, "min_cells": REGION.min_cells}
    for name, values in ((SETTINGS_FILE, settings), (LOCALISATION_FILE, where)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_model_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="training folder, with model.pt")
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--resume", type=Path, help="checkpoint folder to make OUT's states from")
    ways.add_argument("--to", type=Path, help="checkpoint folder to write")
    parser.add_argument("--head", type=Path, help="another file of the patch head, read or written")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--context", action="store_true", help="it has learnt to use a line of history")
    arguments = parser.parse_args()
    architecture: Architecture = arguments.model
    head_file = arguments.head or Path(__file__).with_name(architecture.head_file)
    if arguments.resume is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        state = published_state(arguments.resume, head_file)
        prefix = architecture.tower_prefix
        tower = {n.removeprefix(prefix): t for n, t in state["model"].items() if n.startswith(prefix)}
        torch.save({"tower": tower, "head": state["head"]}, arguments.out / "tower.pt")
        torch.save(state, arguments.out / "language.pt")
        return
    trained: Path = arguments.out / "model.pt"
    if not trained.is_file():
        parser.error(f"{trained} is missing: train the model first")
    publish(architecture, trained, arguments.to, head_file, arguments.threshold, context=arguments.context)


if __name__ == "__main__":
    main()
