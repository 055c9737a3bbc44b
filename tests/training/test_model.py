"""The embedded model: its tokenizer, its size, and the folder it is published as."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from secondlook.benchmarks.signs.questions import WORDINGS
from secondlook.benchmarks.signs.scene import COLOURS
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, Fixed
from secondlook.engine.embedded import DEMO
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.folders import find_folder
from training import publish as publishing
from training.head import PatchHead
from training.model import IMAGE_SIZE, PROBE_LAYER
from training.square import GRID, Square

LLAVA = Square()
TOKENIZER = LLAVA.tokenizer()
QUESTION = "What number is on the red sign?"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return LLAVA.build(TOKENIZER, seed=4)


@pytest.fixture(scope="module")
def state(model: LlavaForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    head = PatchHead(192).state_dict()
    torch.save({"model": model.state_dict(), "head": head, "step": 0}, folder / "model.pt")
    return folder / "model.pt"


@pytest.fixture(scope="module")
def published(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    publishing.publish(
        LLAVA, state, folder, folder.with_name("head.safetensors"), threshold=0.125, context=True
    )
    return folder


def tokens(text: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[str]:
    found = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
    assert isinstance(found, list)
    return found


def test_every_colour_is_one_token() -> None:
    for colour in COLOURS:
        assert len(tokens(f" {colour}")) == 1


def test_every_digit_is_a_token_of_its_own() -> None:
    assert tokens("9075") == list("9075")
    for number in range(100):
        assert len(tokens(str(number))) == len(str(number))


def test_questions_are_short() -> None:
    for wordings in WORDINGS.values():
        for wording in wordings:
            assert len(tokens(wording.format(colour="yellow"))) <= 14


def test_the_start_token_is_put_in_front_and_nothing_behind() -> None:
    plain = TOKENIZER.encode(QUESTION, add_special_tokens=False)
    assert TOKENIZER.encode(QUESTION) == [TOKENIZER.bos_token_id, *plain]
    assert TOKENIZER.bos_token == "<s>"


def test_special_tokens_are_single_and_distinct() -> None:
    names = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
    assert len({str(TOKENIZER.convert_tokens_to_ids(name)) for name in names}) == 5
    assert tokens("a<image>b") == ["a", "<image>", "b"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")))
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_the_tokenizer_is_learnt_the_same_every_time() -> None:
    assert LLAVA.tokenizer().get_vocab() == TOKENIZER.get_vocab()
    assert tokens(QUESTION, LLAVA.tokenizer()) == tokens(QUESTION)


def test_the_model_is_small_and_its_grid_fine_enough(model: LlavaForConditionalGeneration) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 4e6 < parameters < 8e6
    assert GRID >= 12
    assert model.config.image_token_id == TOKENIZER.convert_tokens_to_ids("<image>")
    assert model.config.image_seq_length == GRID * GRID


def test_the_untrained_model_is_a_function_of_its_seed(model: LlavaForConditionalGeneration) -> None:
    again, other = LLAVA.build(TOKENIZER, seed=4).state_dict(), LLAVA.build(TOKENIZER, seed=5).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())


def test_the_published_folder_fits_into_a_package(published: Path) -> None:
    names = {path.name for path in published.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {
        "preprocessor_config.json",
        "generation_config.json",
        "secondlook.json",
        "localisation.json",
    } <= names
    assert (published / "model.safetensors").stat().st_size <= 16_000_000


def test_training_can_go_on_from_the_published_folder(published: Path, state: Path) -> None:
    trained = torch.load(state, weights_only=True)
    resumed = publishing.published_state(published, published.with_name("head.safetensors"))
    for part in ("model", "head"):
        assert resumed[part].keys() == trained[part].keys()
        for name, tensor in trained[part].items():
            assert torch.equal(resumed[part][name], tensor.half().float())


def test_the_published_settings_are_those_trained_for(published: Path) -> None:
    files = (published / name for name in ("secondlook.json", "localisation.json"))
    assert [json.loads(file.read_text(encoding="utf-8")) for file in files] == [
        {
            "threshold": 0.125,
            "fit": "squash",
            "max_new_tokens": 20,
            "context": "{question} ({age:.1f} s ago: {answer})",
        },
        {"layers": {str(PROBE_LAYER): None}, "crop_size": IMAGE_SIZE, "min_cells": 2},
    ]


def test_the_published_tensors_have_the_names_of_those_that_ship(published: Path) -> None:
    folders = (published, find_folder(DEMO))
    ours, shipped = (load_file(folder / "model.safetensors").keys() for folder in folders)
    assert ours == shipped


def test_the_published_model_holds_the_trained_weights(
    published: Path, model: LlavaForConditionalGeneration
) -> None:
    loaded = LlavaForConditionalGeneration.from_pretrained(published).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name].float(), tensor.half().float()), name


def test_the_published_model_is_loaded_and_answers_twice(published: Path) -> None:
    engine = Engine(load_model(str(published)))
    assert engine.card.global_view.size == Fixed(width=IMAGE_SIZE, height=IMAGE_SIZE)
    assert engine.card.threshold == 0.125
    noise = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    options = AnswerOptions(second_look="always", max_new_tokens=3)
    first = engine.first_look(picture, QUESTION, Size(1680, 1680), options)
    assert first.pending is not None
    region = first.pending.region
    final = engine.second_look(
        first.pending, picture.resize((min(region.width, IMAGE_SIZE), min(region.height, IMAGE_SIZE)))
    )
    assert 1 <= len(first.look.tokens) <= 3
    assert 1 <= len(final.second.tokens) <= 3


def test_the_command_publishes(
    state: Path, tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["publish", "--out", str(state.parent), "--to", str(tmp_path / "new")]
    command += ["--context", "--threshold", "0.125", "--head", str(tmp_path / "head.safetensors")]
    monkeypatch.setattr("sys.argv", command)
    publishing.main()
    for path in published.iterdir():
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()


def test_without_a_trained_model_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["publish", "--out", str(tmp_path), "--to", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="2"):
        publishing.main()
    assert "model.pt is missing" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
