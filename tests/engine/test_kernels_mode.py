"""The compiled operators and their references give the same answers, measures and regions."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.checkpoints import Variant, write_checkpoint
from engine.test_engine import picture
from secondlook import kernels
from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import DType, load_model
from secondlook.engine.results import FinalAnswer, FirstLook, Look
from secondlook.kernels.library import mode

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = ("What is the number on the sign?", "Describe the picture.", "Is there a dog?")


def looks(engine: Engine, image: Image.Image, question: str) -> tuple[FirstLook, FinalAnswer]:
    options = AnswerOptions(second_look="always", max_new_tokens=6)
    size = sent_size(engine.card.global_view, Size(1000, 800))
    first = engine.first_look(image.resize((size.width, size.height)), question, Size(1000, 800), options)
    assert first.pending is not None
    size = sent_size(engine.card.local_view, first.pending.region.size)
    local = picture(9, (size.width, size.height))
    return first, engine.second_look(first.pending, local)


def measures(look: Look, tokens: int) -> list[float]:
    return [
        value
        for token in look.tokens[:tokens]
        for value in (token.min_entropy, token.shannon_entropy, token.margin, float(token.is_eos))
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_references_answer_alike(tmp_path: Path, dtype: DType, fit: str, any_mode: None) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(seed=5, kv_heads=2))
    (folder / "secondlook.json").write_text(f'{{"fit": "{fit}"}}')
    (folder / "localisation.json").write_text('{"layers": {"1": null}}')
    engine = Engine(load_model(str(folder), dtype=dtype))
    assert kernels.status("cpu").source != "reference", "no compiler: nothing to compare"
    for seed, question in enumerate(QUESTIONS):
        kernels.set_mode("auto")
        compiled = looks(engine, picture(seed), question)
        kernels.set_mode("reference")
        reference = looks(engine, picture(seed), question)
        if dtype == "float32":  # of random weights maps are flat: rounding moves what is the most of them
            assert compiled[0].region == reference[0].region
        for one, other in (
            (compiled[0].look, reference[0].look),
            (compiled[1].second, reference[1].second),
        ):
            pairs = enumerate(zip(one.token_ids, other.token_ids, strict=True))
            alike = next((place for place, (a, b) in pairs if a != b), len(other.token_ids))
            # In bfloat16 rounding may choose between two tokens that are about as likely.
            if alike < len(other.token_ids):
                assert dtype == "bfloat16"
                assert other.tokens[alike].margin > 0.95
            # Both sum in float32, each in its own order, and the layers behind make more of that. In bfloat16
            # compiled operators round inner values as PyTorch's operations do, and references do not: each is
            # as far as the other from float32, 0.05 nats in the mean and 0.2 at most for such weights.
            near = {"rel": 1e-4} if dtype == "float32" else {"abs": 0.3}
            assert measures(one, alike) == pytest.approx(measures(other, alike), **near)


def test_the_environment_names_the_mode(monkeypatch: pytest.MonkeyPatch, any_mode: None) -> None:
    monkeypatch.setenv("SECONDLOOK_KERNELS", "reference")
    assert mode() == "reference"
    assert kernels.status("cpu").source == "reference"
    kernels.set_mode("auto")
    assert mode() == "auto"
