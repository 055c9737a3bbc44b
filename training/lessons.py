"""Examples for the language model: pictures as the edge would send them, questions, and where to look.

One scene makes one *lesson*: its global image with several questions (first look), and the same global image
with a local image and questions about the sign in it (second look). Questions of one lesson share the visual
tokens: they are laid one after another behind them, each seeing the pictures and itself only, with positions
that start again, which is exactly what each would see alone. Batches are looks padded to one length.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from secondlook.benchmarks.signs.questions import Question, all_questions
from secondlook.benchmarks.signs.render import render_window
from secondlook.benchmarks.signs.scene import (
    COLOURS,
    PLATE_HEIGHT,
    PLATE_WIDTH,
    Scene,
    Sign,
    sample_scene,
    scene_generator,
)
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import JpegSettings, encode_jpeg, fit_to_view
from secondlook.edge.wire import Fixed, View
from secondlook.engine.method.region import RegionSettings, find_region
from training.closeups import IGNORED, patch_truth
from training.model import GRID, IMAGE_SIZE

__all__ = ["REGION", "Batch", "Lesson", "Lessons", "Look", "Packed", "collate"]

REGION: Final = RegionSettings(crop_size=IMAGE_SIZE, min_cells=2)
"""The region search the embedded model is trained for and served with."""

SECOND_LOOKS: Final = 0.625
"""Share of the lessons whose second look is trained on; it costs twice a first look."""

FloatArray = npt.NDArray[np.float32]


@dataclass
class Look:
    """One packed sequence: visual tokens of one or two pictures, then the questions.

    `targets` holds, for each position in `probes`, the attention wanted on the visual tokens (rows sum to 1),
    and `cues` the position of the word that says where (the colour), -1 where there is none.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    labels: list[int]
    probes: list[int] = field(default_factory=list)
    targets: list[FloatArray] = field(default_factory=list)
    cues: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Lesson:
    """Pixels uint8 [2, 3, S, S] (global, local), patch labels [2, 4, n, n], and both looks."""

    pixels: Tensor
    patches: Tensor
    first: Look
    second: Look


class Lessons(IterableDataset[Lesson]):
    """An endless stream of lessons, a function of seed and worker."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_token: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.seed = seed
        words = [tokenizer.encode(f" {colour}", add_special_tokens=False) for colour in COLOURS]
        assert all(len(word) == 1 for word in words), "every colour is one token"
        self.colour_tokens = {word[0] for word in words}

    def __iter__(self) -> Iterator[Lesson]:
        worker = get_worker_info()
        rng = scene_generator("train", self.seed, 2_000_000_000 + (0 if worker is None else worker.id))
        while True:
            scene = sample_scene(rng)
            if scene.signs:
                yield self._lesson(scene, rng)

    def _lesson(self, scene: Scene, rng: np.random.Generator) -> Lesson:
        whole = Region(0, 0, scene.size.width, scene.size.height)
        first_picture = _as_sent(rng, render_window(scene, whole, Size(2 * IMAGE_SIZE, 2 * IMAGE_SIZE)))
        sign = _pick(scene, rng)
        region = _region(scene, sign, rng)
        shown = _shrunk(region.size)
        drawn = Size(min(region.width, 3 * shown.width // 2), min(region.height, 3 * shown.height // 2))
        crop = render_window(scene, region, drawn).resize(
            (shown.width, shown.height), Image.Resampling.LANCZOS
        )
        second_picture = _as_sent(rng, crop)
        pixels = torch.from_numpy(np.stack([np.array(first_picture), np.array(second_picture)]))
        patches = torch.stack(
            [patch_truth(scene.signs, window, IMAGE_SIZE).stacked() for window in (whole, region)]
        )
        questions = all_questions(scene, int(rng.integers(6)))
        reads = questions["read"]
        exists = questions["exists"]
        mine = next(question for question in reads if question.sign is sign)
        others = [reads[i] for i in rng.permutation(len(reads)) if reads[i] is not mine][:2]
        asked = [exists[i] for i in rng.permutation(len(exists))[:1]]
        first = [mine, *others, *asked, *questions["describe"]]
        second = [mine, *others[:1], *(asked if rng.random() < 0.3 else [])]
        if rng.random() < 0.1:
            second += questions["describe"]
        return Lesson(
            pixels.permute(0, 3, 1, 2).contiguous(),
            patches,
            self._pack(first, scene, (whole,)),
            self._pack(second, scene, (whole, region)),
        )

    def _pack(self, questions: list[Question], scene: Scene, windows: tuple[Region, ...]) -> Look:
        """Lay the questions behind the pictures' tokens, as the chat template would for each alone."""
        encode = self.tokenizer.encode
        image = [self.image_token] * (GRID * GRID)
        head = encode("USER: ") + image
        for _ in windows[1:]:
            head += encode("\n", add_special_tokens=False) + image
        look = Look(list(head), list(range(len(head))), [0] * len(head), [IGNORED] * len(head))
        for number, question in enumerate(questions, start=1):
            prompt = encode(f"\n{question.text} ASSISTANT:", add_special_tokens=False)
            answer = [*encode(question.answer, add_special_tokens=False), self.tokenizer.eos_token_id]
            start = len(look.ids) + len(prompt) - 1
            cues = [len(look.ids) + i for i, token in enumerate(prompt) if token in self.colour_tokens]
            look.ids += prompt + answer[:-1]
            look.labels += [IGNORED] * (len(prompt) - 1) + answer
            length = len(prompt) + len(answer) - 1
            look.positions += range(len(head), len(head) + length)
            look.segments += [number] * length
            target = _attention_target(question, scene, windows)
            # Each digit's prediction looks at the sign; of any other answer only the first token is probed.
            for probe in range(start, start + (2 if question.type == "read" else 1)):
                look.probes.append(probe)
                look.targets.append(target)
                look.cues.append(cues[0] if cues else -1)
        return look


VIEW: Final = View(size=Fixed(width=IMAGE_SIZE, height=IMAGE_SIZE))
"""What the model sees of any picture."""


def _shrunk(size: Size) -> Size:
    """With its longer side brought down to the model's, its shape kept; as it is if no larger."""
    if size.longer <= IMAGE_SIZE:
        return size
    width, height = (
        max(1, (2 * length * IMAGE_SIZE + size.longer) // (2 * size.longer))
        for length in (size.width, size.height)
    )
    return Size(width, height)


def _as_sent(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Through the edge's JPEG (a range of qualities) and back, as the server would see it."""
    square = fit_to_view(picture, VIEW) if picture.width > IMAGE_SIZE else picture
    settings = JpegSettings(int(rng.integers(82, 97)), "4:4:4" if rng.random() < 0.5 else "4:2:0")
    received = Image.open(io.BytesIO(encode_jpeg(square, settings).jpeg)).convert("RGB")
    return fit_to_view(received, VIEW)


def _pick(scene: Scene, rng: np.random.Generator) -> Sign:
    """The sign the second look is about: small ones three times as often."""
    weights = np.array([3.0 if scene.global_digit_height(sign) < 9 else 1.0 for sign in scene.signs])
    return scene.signs[rng.choice(len(scene.signs), p=weights / weights.sum())]


def _region(scene: Scene, sign: Sign, rng: np.random.Generator) -> Region:
    """The region a noisy attention map around the sign leads to; one in fifteen looks elsewhere."""
    whole = Region(0, 0, scene.size.width, scene.size.height)
    aim = sign
    if rng.random() < 1 / 15:
        aim = replace(sign, x=rng.uniform(0, scene.size.width), y=rng.uniform(0, scene.size.height))
    attention = 1 + rng.uniform(5, 60) * _splat(aim, whole) + 0.3 * rng.random((GRID, GRID))
    return find_region(torch.from_numpy(attention), torch.ones(GRID, GRID).double(), scene.size, REGION)


def _splat(sign: Sign, window: Region) -> FloatArray:
    """Weights on the grid's cells, sum 1: bilinear at the sign's centre, a little over the whole plate."""
    x = (sign.x - window.left) / window.width * GRID
    y = (sign.y - window.top) / window.height * GRID
    centres = np.arange(GRID) + 0.5
    peak = np.clip(1 - np.abs(centres - y), 0, 1)[:, None] * np.clip(1 - np.abs(centres - x), 0, 1)[None, :]
    half_x = sign.digit_height * PLATE_WIDTH / 2 / window.width * GRID
    half_y = sign.digit_height * PLATE_HEIGHT / 2 / window.height * GRID
    inside = (np.abs(centres - y) < half_y)[:, None] & (np.abs(centres - x) < half_x)[None, :]
    total = peak / max(peak.sum(), 1e-6) + 0.3 * inside / max(inside.sum(), 1)
    weights: FloatArray = (total / total.sum()).astype(np.float32)
    return weights


def _attention_target(question: Question, scene: Scene, windows: tuple[Region, ...]) -> FloatArray:
    """Wanted attention on the visual tokens [pictures·n²]: at the asked sign, or even if there is none."""
    cells = GRID * GRID
    if question.sign is None:
        return np.full(len(windows) * cells, 1 / (len(windows) * cells), np.float32)
    sign = question.sign
    parts = [_splat(sign, windows[0]).ravel()]
    if len(windows) > 1:
        local = windows[1]
        readable = scene.global_digit_height(sign) >= 9
        if local.contains(sign.x, sign.y):
            share = 0.35 if readable else 0.85
            parts = [(1 - share) * parts[0], share * _splat(sign, local).ravel()]
        else:
            parts.append(np.zeros(cells, np.float32))
    return np.concatenate(parts).astype(np.float32)


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

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [B + C, 3, S, S] and patch labels [B + C, 4, n, n], and the looks at them.

    B global images come first, then the local images of the first C lessons, which have a second look.
    """

    pixels: Tensor
    patches: Tensor
    first: Packed
    second: Packed

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def collate(lessons: list[Lesson], image_token: int) -> Batch:
    """Stack lessons, some with a second look; padding tokens see only one another and count for nothing."""
    twice = lessons[: max(1, round(SECOND_LOOKS * len(lessons)))]
    return Batch(
        torch.stack([lesson.pixels[0] for lesson in lessons] + [lesson.pixels[1] for lesson in twice]),
        torch.stack([lesson.patches[0] for lesson in lessons] + [lesson.patches[1] for lesson in twice]),
        _padded([lesson.first for lesson in lessons], image_token),
        _padded([lesson.second for lesson in twice], image_token),
    )


def _padded(looks: list[Look], image_token: int) -> Packed:
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
