"""SmolVLM2, Idefics3 and InternVL3 against transformers: prompts, pictures, rows, and schedules of looks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Idefics3Processor, InternVLProcessor
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from engine.looks import ALWAYS, SIZES, Asked, answered, any_pictures, asked, drawn
from engine.unsplit import FAKE, FAMILIES, GLOBAL, INTERN, SMOL, Family, Reference, write_folder
from properties import examples
from secondlook.edge.geometry import Size
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import Fixed
from secondlook.engine.engine import Engine
from secondlook.engine.errors import InvalidModelError, ModelError, ReservedTextError, UnsupportedModelError
from secondlook.engine.models.base import Picture
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.smolvlm import ShuffledVision
from secondlook.engine.models.square import SquareAdapter

QUESTIONS = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=8).filter(
    lambda text: bool(text.strip())
)

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Pair:
    folder: Path
    family: Family
    model: SquareAdapter
    theirs: Reference

    def picture(self, image: Image.Image) -> Picture:
        return self.model.picture(image, self.model.global_view, Size(*image.size))

    def ids(self, question: str, images: int) -> list[int]:
        grid = (self.family.grid, self.family.grid)
        return list(self.model.prompt(self.model.tokens(question), [grid] * images).ids)

    def expanded(self) -> str:
        """What the processor writes for a picture that it does not split."""
        family, tokens = self.family, self.family.grid**2
        if family.model_type == "smolvlm":
            return get_image_prompt_string(0, 0, tokens, FAKE, family.image, GLOBAL)
        if family.model_type == "idefics3":
            made = Idefics3Processor(self.theirs.images, self.theirs.tokenizer, image_seq_len=tokens)
            return made.replace_image_token({"rows": [[0]], "cols": [[0]]}, 0)
        names = {
            name: getattr(self.theirs.tokenizer, name) for name in ("start_image_token", "end_image_token")
        }
        asked: Any = SimpleNamespace(image_token=family.image, image_seq_length=tokens, **names)
        return InternVLProcessor.replace_image_token(asked, {"num_patches": [1]}, 0)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family = FAMILIES[request.param]
    folder = write_folder(tmp_path_factory.mktemp(request.param), family, layer=2)
    model = load_model(str(folder))
    assert isinstance(model, SquareAdapter)
    return Pair(folder, family, model, Reference(folder, family))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("question", ["What number is on the red sign?", " \nWo ist es? ", "a < b & {{ 1 }}"])
def test_prompts_are_those_that_the_processor_expands(pair: Pair, images: int, question: str) -> None:
    content: list[dict[str, str]] = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
    text = pair.theirs.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=pair.family.template,
        add_generation_prompt=True,
        tokenize=False,
    ).replace(pair.family.image, pair.expanded())
    expected = pair.theirs.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = pair.model.prompt(pair.model.tokens(question), [(pair.family.grid,) * 2] * images)
    assert list(prompt.ids) == expected
    image, cells = pair.theirs.model.config.image_token_id, pair.family.grid**2
    assert [stop - start for start, stop in prompt.spans] == [cells] * images
    assert {at for span in prompt.spans for at in range(*span)} == {
        at for at, token in enumerate(expected) if token == image
    }
    assert prompt.shared == expected.index(image) + cells


def test_pictures_equal_those_of_the_processor_that_squashes_once(pair: Pair) -> None:
    for image in any_pictures(900, least=2):
        options = pair.family.drawn
        expected = pair.theirs.images(images=[image], **options, return_tensors="pt")["pixel_values"]
        ours = pair.model.normalisation.on(torch.device("cpu"))([pair.picture(image)])
        torch.testing.assert_close(ours, expected.reshape(ours.shape), atol=1e-6, rtol=0)


def test_what_an_internvl_computes_is_told_by_its_digest(tmp_path: Path) -> None:
    digests = set()
    for act in ("gelu", "relu"):
        folder = write_folder(tmp_path / act, INTERN)
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, "projector_hidden_act": act}))
        digests.add(load_model(str(folder)).encoder_digest())
    assert len(digests) == 2


def test_patches_lie_where_transformers_rounding_puts_them() -> None:
    config = SmolVLMVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=100,
        patch_size=4,
    )  # of 25 patches to a side one is put beside its place
    tower = SmolVLMVisionTransformer(config).eval()
    vision = ShuffledVision(SimpleNamespace(vision_model=tower, connector=torch.nn.Identity()))
    pixels = torch.rand(2, 3, 100, 100)
    torch.testing.assert_close(vision(pixels), tower(pixels).last_hidden_state, atol=1e-6, rtol=0)


def test_features_of_several_pictures_equal_transformers(pair: Pair) -> None:
    pictures = [pair.picture(drawn((90 + 50 * seed, 70), seed)) for seed in range(3)]
    with torch.inference_mode():
        theirs = pair.theirs.model.get_image_features(pair.theirs.pixels(pictures)).pooler_output
    expected = torch.cat(list(theirs)).reshape(3, pair.family.grid**2, -1)
    for ours, one in zip(pair.model.encode(pictures), expected, strict=True):
        torch.testing.assert_close(ours.tokens, one, atol=1e-5, rtol=1e-4)


@settings(max_examples=examples(10), deadline=None)
@given(size=SIZES, question=QUESTIONS)
def test_rows_equal_eager_attention(pair: Pair, size: tuple[int, int], question: str) -> None:
    engine, original = Engine(pair.model), open_picture(drawn((size[0] + 200, size[1] + 200), 3))
    look = engine.first_look(original.shrunk(pair.model.global_view), question, original.size, ALWAYS)
    assert look.maps is not None
    sent = original.shrunk(pair.model.global_view)
    picture = pair.model.picture(sent, pair.model.global_view, original.size)
    expected = pair.theirs.row(pair.ids(question, 1), picture, 2)
    side = pair.family.grid
    assert look.maps.question.shape == (side, side)
    torch.testing.assert_close(look.maps.question, expected.reshape(side, side), atol=1e-5, rtol=0)


@pytest.mark.parametrize("slots", [1, 8])
@settings(max_examples=examples(5), deadline=None)
@given(asked=asked(QUESTIONS))
def test_looks_that_join_and_give_way_equal_generate(pair: Pair, slots: int, asked: Asked) -> None:
    for one in answered(pair.model, slots, asked):
        ids = pair.ids(one.question, len(one.pictures))
        pair.theirs.check(one.look.token_ids, ids, one.pictures)


def test_the_folder_says_its_square_and_what_is_ignored(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path, pair.family)
    with caplog.at_level(logging.WARNING):
        model = load_model(str(folder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("decoding is plainly greedy, without repetition_penalty=1.1")
    filter_ = "bicubic" if pair.family.model_type == "internvl" else "lanczos"
    for view in (model.global_view, model.local_view):
        size = Fixed(width=pair.family.side, height=pair.family.side)
        assert (view.size, view.fit, view.filter) == (size, "squash", filter_)
    assert model.most_visual_tokens == (pair.family.grid**2,) * 2
    assert (dict(model.localisation.layers), model.localisation.crop_size) == ({1: None}, pair.family.side)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(pair: Pair, dtype: Any) -> None:
    model = load_model(str(pair.folder), dtype=dtype)
    found = Engine(model).first_look(drawn((45, 35), 2), "Where?", Size(900, 700), ALWAYS)
    assert found.look.token_ids
    assert found.maps is not None


def test_text_around_a_picture_cannot_be_asked(pair: Pair) -> None:
    for token in pair.family.special[3:]:
        with pytest.raises(ReservedTextError, match="reserves"):
            pair.model.tokens(f"Where {token}?")


def edit(file: str, inside: str = "", **changes: Any) -> Any:
    def apply(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        (values[inside] if inside else values).update(changes)
        (folder / file).write_text(json.dumps(values))

    return apply


def forget(token: str) -> Any:
    """Take a special token out of the tokenizer."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / "tokenizer.json").read_text())
        for one in values["added_tokens"]:
            one["content"] = "<other>" if one["content"] == token else one["content"]
        (folder / "tokenizer.json").write_text(json.dumps(values))
        edit("tokenizer_config.json", extra_special_tokens={})(folder)

    return apply


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FAULTS: Sequence[tuple[str, Any, type[ModelError], str]] = (
    ("smolvlm", edit(CONFIG, "text_config", model_type="qwen2"), UnsupportedModelError, "decoder qwen2"),
    ("smolvlm", edit(CONFIG, scale_factor=3), InvalidModelError, "scale_factor 3"),
    ("idefics3", edit(CONFIG, "vision_config", patch_size=99), InvalidModelError, "patch_size 99"),
    ("smolvlm", edit(PREPROCESSOR, max_image_size={"longest_edge": 99}), InvalidModelError, "64x64"),
    ("smolvlm", edit(PREPROCESSOR, resample=3), UnsupportedModelError, "resample 3"),
    ("idefics3", edit(PREPROCESSOR, image_processor_type="X"), UnsupportedModelError, "image processor X"),
    ("idefics3", edit(PREPROCESSOR, image_mean="grey"), InvalidModelError, "the preprocessor's settings"),
    ("smolvlm", forget(FAKE), InvalidModelError, FAKE),
    ("internvl", forget("</img>"), InvalidModelError, "</img>"),
    ("internvl", edit(CONFIG, "text_config", model_type="gemma2"), UnsupportedModelError, "decoder gemma2"),
    ("internvl", edit(CONFIG, "vision_config", image_size=[56, 42]), InvalidModelError, r"\[56, 42\]"),
    ("internvl", edit(CONFIG, downsample_ratio=0.3), InvalidModelError, "downsample_ratio of 0.3"),
    ("internvl", edit(CONFIG, downsample_ratio=0.0), InvalidModelError, "downsample_ratio of 0"),
    ("internvl", edit(CONFIG, vision_feature_layer=-2), UnsupportedModelError, "vision_feature_layer -2"),
    ("internvl", edit(PREPROCESSOR, size={"height": 9, "width": 9}), InvalidModelError, "56x56"),
    ("internvl", edit(PREPROCESSOR, resample=1), UnsupportedModelError, "resample 1"),
)


@pytest.mark.parametrize(("name", "spoil", "kind", "told"), FAULTS)
def test_faults_of_a_folder_are_one_line(
    tmp_path: Path, name: str, spoil: Any, kind: type[ModelError], told: str
) -> None:
    folder = write_folder(tmp_path, FAMILIES[name])
    spoil(folder)
    with pytest.raises(kind, match=told) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_what_a_preprocessor_leaves_out_is_its_processors(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, SMOL)
    edit(PREPROCESSOR, image_mean=None, image_std=None, resample=None)(folder)
    model = load_model(str(folder))
    assert isinstance(model, SquareAdapter)
    assert (model.normalisation.mean, model.normalisation.std) == ((0.5,) * 3, (0.5,) * 3)
