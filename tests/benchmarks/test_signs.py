"""Signs: scenes, their questions, and how they are drawn."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.samples import a_scene, a_sign, drawn_scene, smallest
from edge.support import square
from secondlook.benchmarks.signs.evaluation import CAMERA_QUALITY
from secondlook.benchmarks.signs.questions import WORDINGS, Question, all_questions, describe, is_correct
from secondlook.benchmarks.signs.render import render, render_window
from secondlook.benchmarks.signs.scene import COLOURS, REFERENCE_SIDE, Scene, Sign, Split, scene_generator
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.engine.models.prompts import GENERIC_QUESTION

SPLITS: tuple[Split, ...] = ("train", "calibration", "test")
KEYS = st.integers(0, 2**40)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [drawn_scene("test", 5, index) for index in range(250)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_is_a_function_of_split_seed_and_index(split: Split) -> None:
    scene = drawn_scene(split, 3, 8)
    assert drawn_scene(split, 3, 8) == scene
    assert drawn_scene(split, 3, 9) != scene
    assert drawn_scene(split, 4, 8) != scene


@given(seeds=st.tuples(KEYS, KEYS, KEYS), indices=st.tuples(KEYS, KEYS, KEYS), same=st.booleans())
def test_no_two_splits_share_a_generator(
    seeds: tuple[int, int, int], indices: tuple[int, int, int], same: bool
) -> None:
    draws = {
        tuple(
            scene_generator(split, seeds[0 if same else i], indices[0 if same else i]).integers(2**62, size=4)
        )
        for i, split in enumerate(SPLITS)
    }
    assert len(draws) == 3


def test_sizes_are_those_of_photographs(scenes: list[Scene]) -> None:
    megapixels = np.array([scene.size.pixels / 1e6 for scene in scenes])
    assert megapixels.min() >= 0.999
    assert megapixels.max() <= 12.01
    assert megapixels.min() < 1.5
    assert megapixels.max() > 9
    shapes = {round(scene.size.width / scene.size.height, 2) for scene in scenes}
    assert shapes == {1.33, 1.5, 1.78, 1.0, 0.75}


def test_one_to_five_signs_of_distinct_colours_stand_from_left_to_right(scenes: list[Scene]) -> None:
    assert {len(scene.signs) for scene in scenes} == {1, 2, 3, 4, 5}
    for scene in scenes:
        colours = [sign.colour for sign in scene.signs]
        assert len(set(colours)) == len(colours)
        assert set(colours) <= set(COLOURS)
        assert [sign.x for sign in scene.signs] == sorted(sign.x for sign in scene.signs)
        assert all(10 <= sign.number <= 99 for sign in scene.signs)


def test_every_colour_and_every_digit_occurs(scenes: list[Scene]) -> None:
    signs = [sign for scene in scenes for sign in scene.signs]
    assert {sign.colour for sign in signs} == set(COLOURS)
    assert {sign.number // 10 for sign in signs} == set(range(1, 10))
    assert {sign.number % 10 for sign in signs} == set(range(10))


def test_signs_lie_inside_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        for sign in scene.signs:
            assert sign.box.within(scene.size)
            assert sign.box.contains(sign.x, sign.y)
        for one, other in combinations([sign.box for sign in scene.signs], 2):
            apart_across = one.right <= other.left or other.right <= one.left
            apart_down = one.bottom <= other.top or other.bottom <= one.top
            assert apart_across or apart_down


def test_the_box_is_the_plates(scenes: list[Scene]) -> None:
    for sign in (sign for scene in scenes[:50] for sign in scene.signs):
        assert sign.box.width == pytest.approx(2.1 * sign.digit_height, abs=2)
        assert sign.box.height == pytest.approx(1.7 * sign.digit_height, abs=2)


def test_many_signs_are_too_small_for_the_global_image_and_most_are_not(scenes: list[Scene]) -> None:
    heights = np.array([scene.global_digit_height(sign) for scene in scenes for sign in scene.signs])
    assert heights.min() >= 2.4
    assert heights.max() <= 36.0
    assert 0.3 < (heights < 3.6).mean() < 0.47
    assert 0.5 < (heights > 12.9).mean() < 0.68


def test_global_digit_height_is_measured_in_the_reference_square() -> None:
    scene = drawn_scene("test", 0, 0)
    sign = scene.signs[0]
    area = scene.size.width * scene.size.height
    assert scene.global_digit_height(sign) == pytest.approx(sign.digit_height * REFERENCE_SIDE / area**0.5)


RED, BLUE, GREEN = a_sign("red", 17, x=200), a_sign("blue", 90, x=600), a_sign("green", 35, x=900)


def test_reading_questions_ask_for_each_signs_number() -> None:
    questions = all_questions(a_scene(RED, BLUE))["read"]
    assert questions == [
        Question("read", "What number is on the red sign?", "17", RED),
        Question("read", "What number is on the blue sign?", "90", BLUE),
    ]


def test_every_colour_is_asked_for() -> None:
    questions = all_questions(a_scene(RED, GREEN))["exists"]
    answers = {question.text: (question.answer, question.sign) for question in questions}
    assert len(answers) == len(COLOURS)
    for colour in COLOURS:
        expected = {"red": ("yes", RED), "green": ("yes", GREEN)}.get(colour, ("no", None))
        assert answers[f"Is there a {colour} sign in the picture?"] == expected


@pytest.mark.parametrize(
    ("signs", "text"),
    [
        ([RED], "signs in red"),
        ([RED, BLUE], "signs in red and blue"),
        ([RED, BLUE, GREEN], "signs in red, blue and green"),
    ],
)
def test_a_description_names_the_colours_from_left_to_right(signs: list[Sign], text: str) -> None:
    scene = a_scene(*signs)
    assert describe(scene) == text
    assert all_questions(scene)["describe"] == [Question("describe", GENERIC_QUESTION, text, None)]


def test_wordings_change_the_question_and_never_the_answer() -> None:
    scene = a_scene(RED, BLUE)
    plain = all_questions(scene)
    for wording in range(7):
        worded = all_questions(scene, wording)
        for kind, questions in worded.items():
            assert [question.answer for question in questions] == [q.answer for q in plain[kind]]
            pattern = WORDINGS[kind][wording % len(WORDINGS[kind])]
            assert questions[0].text == pattern.format(colour="red")
            assert "{" not in questions[0].text


@pytest.mark.parametrize("answer", ["17", " 17", "17\n", "17.", " 17. "])
def test_space_and_a_final_period_do_not_matter(answer: str) -> None:
    assert is_correct(Question("read", "", "17", RED), answer)


@pytest.mark.parametrize("answer", ["", ".", "1", "71", "170", "17 17", "1 7", "17..", "seventeen"])
def test_any_other_number_is_wrong(answer: str) -> None:
    assert not is_correct(Question("read", "", "17", RED), answer)


@pytest.mark.parametrize(
    ("answer", "right"), [("Yes", True), ("YES.", True), ("no", False), ("yes no", False)]
)
def test_case_does_not_matter(answer: str, right: bool) -> None:
    assert is_correct(Question("exists", "", "yes", RED), answer) == right


SEED = 5
QUICK = smallest("test", SEED, range(60), 4)
Pixels = npt.NDArray[np.int16]


def whole(scene: Scene) -> Region:
    return Region(0, 0, scene.size.width, scene.size.height)


def pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture, np.int16)


def plate_colour(sign: Sign) -> npt.NDArray[np.float64]:
    return np.clip(np.array(COLOURS[sign.colour]) * sign.tint, 0, 255)


def with_sign(scene: Scene, sign: Sign) -> Scene:
    return replace(scene, signs=(sign,))


def test_a_picture_is_a_function_of_its_scene() -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    window, out = Region(10, 20, 400, 300), Size(195, 140)
    before = render_window(scene, window, out).tobytes()
    for index in range(40):  # pushes what was cached of the first scene out
        render_window(drawn_scene("train", SEED, index), Region(0, 0, 8, 8), Size(8, 8))
    assert render_window(scene, window, out).tobytes() == before
    assert render_window(replace(scene, background=scene.background + 1), window, out).tobytes() != before


@pytest.mark.parametrize("index", QUICK)
def test_the_whole_picture_has_the_scenes_size(index: int) -> None:
    scene = drawn_scene("test", SEED, index)
    picture = render(scene)
    assert picture.mode == "RGB"
    assert picture.size == (scene.size.width, scene.size.height)


@pytest.mark.parametrize("out", [Size(1, 1), Size(7, 300), Size(168, 168), Size(1500, 40)])
def test_a_window_is_drawn_at_the_size_asked_for(out: Size) -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    assert render_window(scene, Region(3, 5, 700, 600), out).size == (out.width, out.height)


@pytest.mark.parametrize("index", QUICK)
def test_a_window_drawn_alone_shows_what_the_whole_picture_shows(index: int) -> None:
    """Within 2 levels of 255, but for one pixel in a thousand on the rims of clutter."""
    scene = drawn_scene("test", SEED, index)
    picture = pixels(render(scene))
    width, height = scene.size.width, scene.size.height
    windows = [Region(100, 50, 701, 451), Region(width - 513, height - 300, width, height)]
    for window in [*windows, *(sign.box for sign in scene.signs)]:
        alone = pixels(render_window(scene, window, window.size))
        difference = np.abs(alone - picture[window.top : window.bottom, window.left : window.right])
        assert (difference > 2).mean() < 0.001
        assert difference.mean() < 0.05


@pytest.mark.parametrize("index", QUICK)
def test_a_shrunken_window_shows_what_shrinking_the_picture_does(index: int) -> None:
    """Within 6 levels on average: plates' edges are sampled, not averaged, and so is coarse grain."""
    scene = drawn_scene("test", SEED, index)
    box = (60, 90, 660, 690)
    shrunk = render(scene).crop(box).resize((200, 200), Image.Resampling.BOX)
    drawn = render_window(scene, Region(*box), Size(200, 200))
    assert np.abs(pixels(drawn) - pixels(shrunk)).mean() < 6


def test_originals_weigh_what_photographs_weigh() -> None:
    weights = []
    for index in smallest("test", SEED, range(60), 12):
        buffer = io.BytesIO()
        picture = render(drawn_scene("test", SEED, index))
        picture.save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0")
        weights.append(8 * buffer.tell() / (picture.width * picture.height))
    assert min(weights) > 0.5
    assert max(weights) < 6
    assert 1 < np.mean(weights) < 4


@pytest.mark.parametrize("index", QUICK)
def test_signs_have_their_colour_where_the_truth_says(index: int) -> None:
    """Above and below the digits, inside the plate's rim."""
    scene = drawn_scene("test", SEED, index)
    picture = pixels(render(scene))
    for sign in scene.signs:
        for across, down in ((0.0, -0.68), (0.0, 0.68), (-0.6, -0.68), (0.6, 0.68)):
            x, y = sign.x + across * sign.digit_height, sign.y + down * sign.digit_height
            assert np.abs(picture[int(y), int(x)] - plate_colour(sign)).max() < 40


def test_nothing_is_drawn_where_no_sign_is() -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    bare = pixels(render(replace(scene, signs=())))
    changed = np.abs(pixels(render(scene)) - bare).max(axis=-1) > 0
    for sign in scene.signs:
        reach = 1.4 * sign.digit_height  # the plate's corner, turned by any angle
        left, top = int(max(0, sign.x - reach)), int(max(0, sign.y - reach))
        changed[top : int(sign.y + reach) + 1, left : int(sign.x + reach) + 1] = False
    assert not changed.any()


@pytest.mark.parametrize(("colour", "ink"), [("red", 240), ("yellow", 15)])
@pytest.mark.parametrize("shown", [16, 40, 150, 400])
def test_digits_are_as_high_as_stated(colour: str, ink: int, shown: int) -> None:
    """Within a tenth, stroke included, and centred on the sign, at every scale they are drawn at."""
    sign = a_sign(colour, 88, digit_height=60)
    scale = shown / sign.digit_height
    out = Size(round(sign.box.width * scale), round(sign.box.height * scale))
    picture = pixels(render_window(a_scene(sign), sign.box, out))
    inked = np.abs(picture - ink).max(axis=-1) < 60
    middle = inked[round(0.12 * out.height) : round(0.88 * out.height), out.width // 4 : -out.width // 4]
    rows = np.flatnonzero(middle.any(axis=1)) + round(0.12 * out.height)
    assert rows[-1] + 1 - rows[0] == pytest.approx(shown, rel=0.1, abs=2)
    assert (rows[-1] + 1 + rows[0]) / 2 == pytest.approx(out.height / 2, abs=0.05 * shown + 1)


def test_numbers_look_different_and_the_same_number_the_same() -> None:
    def plate(number: int) -> Pixels:
        sign = a_sign("blue", number)
        return pixels(render_window(a_scene(sign), sign.box, Size(84, 68)))

    assert np.abs(plate(42) - plate(42)).max() == 0
    assert np.abs(plate(42) - plate(43)).mean() > 2
    assert np.abs(plate(42) - plate(24)).mean() > 4


def test_small_signs_keep_a_visible_colour_in_the_global_image() -> None:
    """The most vivid pixel of a small plate is nearest to its own colour nearly always, in what is sent."""
    right = total = 0
    for index in smallest("test", SEED, range(60), 24):
        scene = drawn_scene("test", SEED, index)
        small = [sign for sign in scene.signs if scene.global_digit_height(sign) < 3.6]
        if not small:
            continue
        picture = decode_jpeg(open_picture(render(scene)).global_image(square(168)).jpeg)
        sent = np.asarray(picture, np.float64)
        for sign in small:
            across, down = 168 / scene.size.width, 168 / scene.size.height
            box = sign.box
            part = sent[
                int(box.top * down) : int(box.bottom * down) + 1,
                int(box.left * across) : int(box.right * across) + 1,
            ].reshape(-1, 3)
            vivid = part[np.ptp(part, axis=1).argmax()]
            chroma = {name: _chroma(np.array(value, np.float64)) for name, value in COLOURS.items()}
            nearest = min(chroma, key=lambda name: float(np.abs(chroma[name] - _chroma(vivid)).sum()))
            right += nearest == sign.colour
            total += 1
    assert total >= 15
    assert right / total > 0.85


def _chroma(colour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The colour without its lightness and strength."""
    offset: npt.NDArray[np.float64] = colour - colour.mean()
    return offset / max(float(np.abs(offset).max()), 1e-9)
