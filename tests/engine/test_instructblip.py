"""InstructBLIP against transformers: golden files, and random sizes, batches and schedules."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BlipImageProcessorPil,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from engine.looks import ALWAYS, Asked, answered, any_pictures, asked, check_greedy, drawn
from engine.qwen import GOLDEN, through_end
from properties import examples
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import open_picture
from secondlook.engine.engine import Engine
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    QuestionTooLongError,
    ReservedTextError,
    UnsupportedModelError,
)
from secondlook.engine.models.base import Features, Picture
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.instructblip import InstructBlip, default_localisation
from secondlook.engine.models.prompts import GENERIC_QUESTION, QuestionTokens

WORDS = [*f"Question: {GENERIC_QUESTION} Short answer: What number is on red sign? Where who".split()]
QUESTIONS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
IMAGE, QUERIES = 92, 32

pytestmark = pytest.mark.usefixtures("one_thread")


def write_folder(folder: Path) -> Path:
    """The golden checkpoint with tokenizers and preprocessor, as the public ones have them."""
    shutil.copytree(GOLDEN / "instructblip", folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    write_tokenizer(folder, "<s> $A", {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE}, 4)
    read = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    write_tokenizer(folder / "qformer_tokenizer", "[CLS] $A [SEP]", read, 50)
    size = {"height": 224, "width": 224}
    processor = {"image_processor_type": "BlipImageProcessor", "size": size, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "processor_config.json").write_text(json.dumps({"num_query_tokens": QUERIES}))
    return folder


def write_tokenizer(folder: Path, layout: str, special: dict[str, int], first: int) -> None:
    folder.mkdir(exist_ok=True)
    words = {word: first + number for number, word in enumerate(dict.fromkeys(WORDS))}
    unknown = next(name for name in special if "unk" in name.lower())
    tokenizer = Tokenizer(models.WordLevel({**special, **words}, unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    used = [(name, special[name]) for name in layout.split() if name in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=layout, special_tokens=used)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=False))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


class Reference:
    """Transformers' own model, each picture of a prompt read with the question."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = InstructBlipForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.images: Any = BlipImageProcessorPil.from_pretrained(folder)
        self.processor: Any = InstructBlipProcessor(
            self.images,
            AutoTokenizer.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder / "qformer_tokenizer"),
            num_query_tokens=QUERIES,
        )

    def pixels(self, picture: Picture) -> Tensor:
        values: Tensor = self.images(images=[picture.pixels.numpy()], do_resize=False, return_tensors="pt")
        return values["pixel_values"]

    @torch.inference_mode()
    def check(self, answer: Sequence[int], question: str, pictures: Sequence[Picture]) -> None:
        """An answer of at most `MOST` tokens is its own, greedily, through the end token; up to a tie."""
        encoded = self.processor(text=f"Question: {question} Short answer:", return_tensors="pt")
        read = encoded["qformer_input_ids"]
        rows = [self.model.get_image_features(self.pixels(one), read).pooler_output for one in pictures]
        embeddings = torch.cat([*rows, self.model.get_input_embeddings()(encoded["input_ids"])], 1)
        inputs = {"inputs_embeds": embeddings, "attention_mask": torch.ones(embeddings.shape[:2])}
        check_greedy(answer, self.model.language_model, inputs)


@dataclass
class Pair:
    folder: Path
    model: InstructBlip
    theirs: Reference

    def picture(self, image: Image.Image) -> Picture:
        return self.model.picture(image, self.model.global_view, Size(*image.size))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = write_folder(tmp_path_factory.mktemp("instructblip"))
    model = load_model(str(folder))
    assert isinstance(model, InstructBlip)
    return Pair(folder, model, Reference(folder))


def test_golden_cases_are_exact(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(GOLDEN / "instructblip_cases.npz") as file:
        golden = {name: file[name] for name in file}
    cases = sorted({name.split("_")[0] for name in golden if name[0].isdigit()})
    assert cases
    folder = write_folder(tmp_path)
    (folder / "localisation.json").write_text(json.dumps({"layers": {str(golden["lm_layer"]): None}}))
    model = load_model(str(folder))

    def tokens(question: str) -> QuestionTokens:
        case, kind = (cases[0], "generic_") if question == GENERIC_QUESTION else (question, "")
        ids, read = (golden[f"{case}_{kind}{name}"].tolist() for name in ("ids", "qformer_ids"))
        return QuestionTokens(question, (IMAGE, *ids), (IMAGE, IMAGE, *ids), tuple(read))

    monkeypatch.setattr(model, "tokens", tokens)
    for case in cases:
        for name in ("generic_ids", "generic_qformer_ids"):  # one for all cases, as the engine has it
            assert golden[f"{case}_{name}"].tolist() == golden[f"{cases[0]}_{name}"].tolist()
        whole, local = (Image.fromarray(golden[f"{case}_{name}"]) for name in ("global", "local"))
        picture = model.picture(whole, model.global_view, Size(*whole.size))
        _, cross = model.condition(model.encode([picture])[0], tokens(case))
        assert cross is not None
        np.testing.assert_allclose(cross.numpy(), golden[f"{case}_cross"], atol=1e-5, rtol=0)

        engine, original = Engine(model), open_picture(whole)
        first = engine.first_look(original.shrunk(model.global_view), case, original.size, ALWAYS)
        assert list(first.look.token_ids) == through_end(golden[f"{case}_tokens_first"])
        assert first.maps is not None
        assert first.pending is not None
        for ours, name in ((first.maps.question, "attention"), (first.maps.generic, "generic_attention")):
            np.testing.assert_allclose(ours.numpy(), golden[f"{case}_{name}"], atol=1e-5, rtol=0)
        relative = first.maps.question / first.maps.generic
        np.testing.assert_allclose(relative.numpy(), golden[f"{case}_relative"], rtol=1e-3)
        pending = replace(first.pending, region=Region(0, 0, *local.size))
        second = engine.second_look(pending, open_picture(local).shrunk(model.local_view)).second
        assert list(second.token_ids) == through_end(golden[f"{case}_tokens_second"])


def test_prompts_equal_the_processors(pair: Pair) -> None:
    for question in ("What number is on the red sign?", " Where? ", "unknown words"):
        prompt = pair.model.prompt(pair.model.tokens(question), [(16, 16)])
        text = f"Question: {question.strip()} Short answer:"
        expected = pair.theirs.processor(images=drawn((40, 30), 1), text=text)
        assert list(prompt.ids) == expected["input_ids"][0]
        assert list(pair.model.tokens(question).instruction) == expected["qformer_input_ids"][0]
        both = pair.model.prompt(pair.model.tokens(question), [(16, 16), (16, 16)])
        assert both.ids == (IMAGE,) * QUERIES + prompt.ids
        assert (prompt.shared, both.spans) == (QUERIES, ((0, QUERIES), (QUERIES, 2 * QUERIES)))


def test_pictures_equal_those_of_the_processor(pair: Pair) -> None:
    for image in any_pictures(1500):
        expected = pair.theirs.images(images=[image], return_tensors="pt")["pixel_values"]
        ours = pair.model.normalisation.on(torch.device("cpu"))([pair.picture(image)])
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("slots", [1, 8])
@settings(max_examples=examples(8), deadline=None)
@given(asked=asked(QUESTIONS))
def test_looks_that_join_and_give_way_equal_generate(pair: Pair, slots: int, asked: Asked) -> None:
    for one in answered(pair.model, slots, asked):
        pair.theirs.check(one.look.token_ids, one.question, one.pictures)


def test_a_prefix_belongs_to_one_question(pair: Pair) -> None:
    engine, image = Engine(pair.model), drawn((40, 24), 1)
    questions = ("Where", "who", "Where")
    asked = [engine.first_look(image, question, Size(2000, 1200), ALWAYS) for question in questions]
    first, second, third = (one.pending.prefix for one in asked if one.pending is not None)
    assert first is third is not second
    assert asked[0].look.token_ids == asked[2].look.token_ids


def test_a_picture_is_encoded_once_for_all_questions_of_a_client(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, encoded, encode = Engine(pair.model), list[bytes](), pair.model.encode
    encodings = list[int]()

    def counting(pictures: Sequence[Picture]) -> list[Features]:
        encoded.extend(picture.digest for picture in pictures)
        return encode(pictures)

    monkeypatch.setattr(pair.model, "encode", counting)
    for client, question in (("a", "Where"), ("a", "who"), ("b", "who"), ("a", "Where")):
        prepared = engine.prepare(drawn((40, 24), 1), question, Size(2000, 1200), ALWAYS, client=client)
        request = engine.start_first_look(prepared)
        while engine.round():
            pass
        pair.theirs.check(request.future.result().look.token_ids, question, [prepared.picture])
        encodings.append(len(encoded))
    assert encodings == [1, 1, 2, 2]


def test_of_a_pass_with_several_pictures_each_keeps_its_own_features(pair: Pair) -> None:
    engine = Engine(pair.model)
    for seed in range(4):
        prepared = engine.prepare(drawn((40, 24), seed), "Where", Size(2000, 1200), ALWAYS)
        engine.start_first_look(prepared)
    while engine.round():
        pass
    kept = list(engine._encoded._kept.values())
    assert len(kept) == 4
    assert all(one.tokens.untyped_storage().nbytes() == one.tokens.nbytes for one in kept)


def test_the_public_layout_loads_and_says_what_it_ignores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{part + 1}-of-00002.safetensors": sorted(weights)[part::2] for part in (0, 1)}
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    generation = {"eos_token_id": 2, "pad_token_id": 0, "num_beams": 5, "repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    with caplog.at_level(logging.WARNING):
        model = load_model(str(folder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("decoding is plainly greedy, without num_beams=5, repetition_penalty=1.5")
    answer = Engine(model).first_look(drawn((90, 70), 2), "Where", Size(90, 70), ALWAYS)
    pictures = [model.picture(drawn((90, 70), 2), model.global_view, Size(90, 70))]
    Reference(folder).check(answer.look.token_ids, "Where", pictures)


def change(file: str, **changes: Any) -> Any:
    def apply(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**values, **changes}))

    return apply


def change_reader(**changes: Any) -> Any:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        change("config.json", qformer_config={**values["qformer_config"], **changes})(folder)

    return apply


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (
            lambda folder: shutil.rmtree(folder / "qformer_tokenizer"),
            IncompleteModelError,
            "no qformer_tokenizer/tokenizer.json",
        ),
        (
            change("preprocessor_config.json", size={"height": 384, "width": 384}),
            InvalidModelError,
            "224x224",
        ),
        (change("preprocessor_config.json", resample=2), UnsupportedModelError, "resample 2"),
        (change("preprocessor_config.json", image_processor_type="X"), UnsupportedModelError, "processor X"),
        (change_reader(vocab_size=60), ModelError, "Q-Former|word_embeddings"),
        (change_reader(cross_attention_frequency=4), UnsupportedModelError, "2 blocks with cross attention"),
        (change("config.json", text_config={"model_type": "opt"}), UnsupportedModelError, "decoder opt"),
        (change("config.json", num_query_tokens=16), ModelError, "query_tokens"),
    ],
)
def test_faults_of_a_folder_are_one_line(
    tmp_path: Path, spoil: Any, kind: type[ModelError], told: str
) -> None:
    folder = write_folder(tmp_path)
    spoil(folder)
    with pytest.raises(kind, match=told) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_questions_that_cannot_be_asked(pair: Pair) -> None:
    with pytest.raises(ReservedTextError):
        pair.model.tokens("Where <image>")
    with pytest.raises(QuestionTooLongError, match="Q-Former reads at most 64"):
        pair.model.tokens("Where " * 70)


def test_half_precision_answers(pair: Pair) -> None:
    for dtype in ("bfloat16", "float16"):
        model = load_model(str(pair.folder), dtype=dtype)
        found = Engine(model).first_look(drawn((90, 70), 2), "Where", Size(900, 700), ALWAYS)
        assert found.look.token_ids
        assert found.maps is not None


def test_default_localisation_is_the_published() -> None:
    class Config:
        class text_config:  # noqa: N801
            num_hidden_layers = 32

        class vision_config:  # noqa: N801
            image_size = 224

    found = default_localisation(Config)
    assert (dict(found.layers), found.crop_size, found.generic) == ({15: None}, 224, True)
