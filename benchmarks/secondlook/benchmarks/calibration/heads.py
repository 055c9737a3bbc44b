"""Which heads to read: chosen on one half of the pictures, drawn at random, and verified on the other.

What was chosen looks better where it was chosen than it is. It is written only if on the other half its
regions hold what is asked for more often than the model's own, beyond the interval of the difference.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from secondlook.benchmarks.analysis.statistics import Bootstrap
from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.datasets.question import (
    AskedPicture,
    DataSet,
    MalformedDataError,
    MissingDataError,
)
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.evaluation.asking import asked_text, left_out, load_run_model, naming
from secondlook.benchmarks.evaluation.options import Served
from secondlook.benchmarks.run_log import Skipped
from secondlook.edge.errors import PictureError, SettingsError
from secondlook.edge.files import check_writable, write_files
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.engine.heads import Attended, Heads
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.opening import draws_bars, loading_status

_FEWEST: Final = 20
"""Pictures with boxes, of both halves: of fewer an interval says nothing."""
_SHOWN: Final = 8


def calibrate_heads(data: DataSet, served: Served, output: Path) -> dict[str, Any]:
    """Choose, verify, and write the profile if it is better; what was measured, for JSON.

    Ctrl-C ends the reading of pictures; the rest is done with those that were read.
    """
    with_boxes = [
        replace(one, questions=tuple(each for each in one.questions if each.boxes)) for one in data.pictures
    ]
    pictures = [one for one in with_boxes if one.questions]
    if len(pictures) < _FEWEST:
        raise MalformedDataError(
            f"{len(pictures)} of {len(with_boxes)} pictures of {data.name} have a box, but {_FEWEST} are "
            "needed; raise --count, or name a file of --boxes"
        )
    check_writable(output)
    with loading_status(served.model):
        model = load_run_model(served, progress=draws_bars(served.model))
    on, where = environment(str(model.device), model.precision), model.localisation
    if where.generated_rows:
        raise SettingsError(
            f"{served.profile or served.model} reads {where.generated_rows} rows of the answer, but heads "
            "are compared by the prompt's last row; name a profile without generated_rows"
        )
    heads = Heads(model)
    with progress(Console(stderr=True), "pictures", len(pictures)) as go_on:
        each = (_read(heads, model, one, served) for one in pictures)
        done, interrupted = complete_rounds(each, 1, go_on)
    read = [picture for picture in done if not isinstance(picture, Skipped)]
    if len(read) < _FEWEST:
        raise MeasurementError(f"only {len(read)} pictures were read, but {_FEWEST} are needed")
    shuffled = [read[place] for place in np.random.default_rng(0).permutation(len(read))]
    choosing, verifying = (list(chain.from_iterable(shuffled[half::2])) for half in (0, 1))
    ranked = heads.ranked(choosing)
    best, own = heads.best(choosing, ranked), heads.rank(choosing, where.layers)
    boot = Bootstrap(np.repeat(np.arange(len(read) // 2), [len(picture) for picture in shuffled[1::2]]))
    held = [np.array(heads.held(verifying, one.layers), np.float64) for one in (own, best)]
    verified = [asdict(one) for one in boot.means(*held, held[1] - held[0])]
    found = verified[2]["low"] > 0
    if found:
        profile = replace(where, layers=best.layers).to_json()
        write_files({output: json.dumps(profile, indent=4) + "\n"})
    return {
        "data": {"name": data.name, **data.settings},
        "model": model.name,
        "weights": model.digest(),
        "decoder": {"layers": model.decoder.layers, "heads": model.decoder.heads},
        "pictures": len(read),
        "left_out": len(done) - len(read),
        "chosen_on": len(choosing),
        "verified_on": len(verifying),
        "own": asdict(own) | {"verified": verified[0]},
        "best": asdict(best) | {"verified": verified[1]},
        "better": verified[2],
        "found": found,
        "ranked": [asdict(one) for one in ranked[:_SHOWN]],
        "interrupted": interrupted,
        "environment": on,
    }


def _read(
    heads: Heads, model: VisionLanguageModel, asked: AskedPicture, served: Served
) -> list[Attended] | Skipped:
    """Of each question, unless the picture is left out."""
    try:
        picture = open_picture(asked.source.read())
    except (MissingDataError, PictureError) as error:
        return left_out(asked, error, served)
    sent = decode_jpeg(picture.global_image(model.global_view).jpeg)
    texts = [(asked_text(one, model), one.boxes) for one in asked.questions]
    found, seen = list[Attended](), heads.attended(sent, picture.size, texts)
    for question in asked.questions:
        with naming(asked, question):
            found.append(next(seen))
    return found
