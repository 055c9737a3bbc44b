"""Examples for the language model: pictures as the edge would send them, questions, and where to look.

One scene makes one *lesson*: its global image with several questions (first look), and the same global image
with a local image and questions about the sign in it (second look). Questions of one lesson share the visual
tokens: they are laid one after another behind them, each seeing the pictures and itself only, with positions
that start again, which is exactly what each would see alone. Batches are looks padded to one length.

Where lessons have *history*, there are questions with an earlier answer behind them too
(`training.history`), and some signs are shrunk to sizes between readable and not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
from secondlook.edge.geometry import Region, Size, sent_size, target
from secondlook.edge.imaging import JpegSettings, encode_jpeg, fit_to_view
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.models.base import Prompt
from secondlook.engine.models.pictures import Grid
from training.closeups import IGNORED, patch_truth
from training.history import READABLE, recalling, shrunk, unanswerable
from training.model import IMAGE_SIZE, Architecture, token_id

__all__ = ["REGION", "Batch", "Lesson", "Lessons", "Look", "Packed", "collate", "flat_labels"]

REGION: Final = RegionSettings(crop_size=IMAGE_SIZE, min_cells=2)
"""The region search that embedded models are trained for and served with."""

SECOND_LOOKS: Final = 0.625
"""Share of the lessons whose second look is trained on; it costs twice a first look."""

FloatArray = npt.NDArray[np.float32]


@dataclass
class Look:
    """One packed sequence: visual tokens of one or two pictures, then the questions.

    `targets` holds, for each position in `probes`, the attention wanted on the visual tokens (rows sum to 1),
    and `cues` the position of the word that says where (the colour), -1 where there is none. `positions` are
    rotary ones [P, T] int64. `history` says of each token whether its question has an earlier answer;
    `copies` holds, for numbers, positions that predict the answer and those where the earlier one is.
    """

    ids: list[int]
    positions: Tensor
    segments: list[int]
    labels: list[int]
    history: list[bool]
    probes: list[int] = field(default_factory=list)
    targets: list[FloatArray] = field(default_factory=list)
    cues: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Lesson:
    """Pixels uint8 [3, H, W] and patch labels [4, rows, columns] of the global and the local image, and both
    looks."""

    pixels: tuple[Tensor, Tensor]
    patches: tuple[Tensor, Tensor]
    first: Look
    second: Look


class Lessons(IterableDataset[Lesson]):
    """An endless stream of lessons, a function of seed and worker, with history or without."""

    def __init__(
        self, architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int, history: bool = False
    ) -> None:
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.seed = seed
        self.history = history
        self.image_token = token_id(tokenizer, architecture.image)
        self.around = [[token_id(tokenizer, name) for name in names] for names in architecture.around]
        words = [tokenizer.encode(f" {colour}", add_special_tokens=False) for colour in COLOURS]
        assert all(len(word) == 1 for word in words), "every colour is one token"
        self.colour_tokens = {word[0] for word in words}
        self.closing = len(tokenizer.encode(") ASSISTANT:", add_special_tokens=False))

    def __iter__(self) -> Iterator[Lesson]:
        worker = get_worker_info()
        rng = scene_generator("train", self.seed, 2_000_000_000 + (0 if worker is None else worker.id))
        while True:
            scene = sample_scene(rng)
            if scene.signs:
                yield self._lesson(shrunk(scene, rng) if self.history else scene, rng)

    def _lesson(self, scene: Scene, rng: np.random.Generator) -> Lesson:
        whole = Region(0, 0, scene.size.width, scene.size.height)
        sign = _pick(scene, rng)
        region = self._region(scene, sign, rng)
        pixels = self._received(rng, scene, whole, 2.0), self._received(rng, scene, region, 1.5)
        view = self.architecture.view
        patches = [
            patch_truth(scene.signs, window, target(view, window.size)).stacked()
            for window in (whole, region)
        ]
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
        looks = [(first, list[Question]()), (second, list[Question]())]
        windows = [(whole,), (whole, region)]
        if self.history:
            first += unanswerable(questions, rng)[:1]
            shown = [[sign for sign in scene.signs if _shown(sign, scene, seen)] for seen in windows]
            looks[0][1].extend(recalling(questions, shown[0], rng))
            looks[1][1].extend(recalling({**questions, "read": [mine]}, shown[1], rng)[:2])
        packed = [self._pack(*look, scene, seen) for look, seen in zip(looks, windows, strict=True)]
        return Lesson(pixels, (patches[0], patches[1]), packed[0], packed[1])

    def _pack(
        self,
        questions: list[Question],
        recalled: list[Question],
        scene: Scene,
        windows: tuple[Region, ...],
    ) -> Look:
        """Lay the questions, without and with history, behind the pictures' tokens, as the chat template
        would for each alone."""
        encode, (before, behind) = self.tokenizer.encode, self.around
        head, spans = encode("USER: "), list[tuple[int, int]]()
        grids = [self.architecture.grid(window.size) for window in windows]
        for rows, columns in grids:
            head += [*encode("\n", add_special_tokens=False), *before] if spans else before
            spans.append((len(head), len(head) + rows * columns))
            head += [self.image_token] * (rows * columns) + behind
        laid_out = Prompt.laid_out(head, spans, grids, [self.architecture.layout(grid) for grid in grids])
        positions, following = [laid_out.positions], laid_out.next_position
        look = Look(
            list(head), laid_out.positions, [0] * len(head), [IGNORED] * len(head), [False] * len(head)
        )
        for number, question in enumerate([*questions, *recalled], start=1):
            prompt = encode(f"\n{question.text} ASSISTANT:", add_special_tokens=False)
            answer = [*encode(question.answer, add_special_tokens=False), self.tokenizer.eos_token_id]
            start = len(look.ids) + len(prompt) - 1
            cues = [len(look.ids) + i for i, token in enumerate(prompt) if token in self.colour_tokens]
            look.ids += prompt + answer[:-1]
            look.labels += [IGNORED] * (len(prompt) - 1) + answer
            length = len(prompt) + len(answer) - 1
            own = torch.arange(following, following + length)
            positions.append(own.expand(len(laid_out.positions), -1))
            look.segments += [number] * length
            look.history += [number > len(questions)] * length
            if look.history[-1] and question.type == "read":
                back = self.closing + len(answer) - 2  # from an answer to as long an earlier one
                look.copies += [(place, place - back) for place in range(start, start + len(answer) - 1)]
            if question.type == "read" and question.sign is None:
                continue  # not there to be looked at
            wanted = _attention_target(question, scene, windows, grids)
            # Each digit's prediction looks at the sign; of any other answer only the first token is probed.
            for probe in range(start, start + (2 if question.type == "read" else 1)):
                look.probes.append(probe)
                look.targets.append(wanted)
                look.cues.append(cues[0] if cues else -1)
        look.positions = torch.cat(positions, dim=1)
        return look

    def _received(self, rng: np.random.Generator, scene: Scene, window: Region, finer: float) -> Tensor:
        """The window as the model sees it: sent through the edge's JPEG (a range of qualities).

        Args:
            finer: it is drawn at most so many times larger than it is sent.
        """
        view, size = self.architecture.view, window.size
        sent = sent_size(view, size)
        drawn = Size(min(size.width, int(finer * sent.width)), min(size.height, int(finer * sent.height)))
        picture = render_window(scene, window, drawn)
        picture = picture.resize((sent.width, sent.height), Image.Resampling.LANCZOS)
        settings = JpegSettings(int(rng.integers(82, 97)), "4:4:4" if rng.random() < 0.5 else "4:2:0")
        received = Image.open(io.BytesIO(encode_jpeg(picture, settings).jpeg)).convert("RGB")
        seen = torch.from_numpy(np.array(fit_to_view(received, view, size)))
        return seen.permute(2, 0, 1).contiguous()

    def _region(self, scene: Scene, sign: Sign, rng: np.random.Generator) -> Region:
        """The region a noisy attention map around the sign leads to; one in fifteen looks elsewhere."""
        whole, grid = Region(0, 0, scene.size.width, scene.size.height), self.architecture.grid(scene.size)
        aim = sign
        if rng.random() < 1 / 15:
            aim = replace(sign, x=rng.uniform(0, scene.size.width), y=rng.uniform(0, scene.size.height))
        attention = 1 + rng.uniform(5, 60) * _splat(aim, whole, grid) + 0.3 * rng.random(grid)
        return find_region(torch.from_numpy(attention), torch.ones(grid).double(), scene.size, REGION)


def _pick(scene: Scene, rng: np.random.Generator) -> Sign:
    """The sign the second look is about: small ones three times as often."""
    weights = np.array([3.0 if scene.global_digit_height(sign) < 9 else 1.0 for sign in scene.signs])
    return scene.signs[rng.choice(len(scene.signs), p=weights / weights.sum())]


def _shown(sign: Sign, scene: Scene, windows: Sequence[Region]) -> bool:
    """Whether its number can be read in the global image, or is in the local one."""
    closer = any(window.contains(sign.x, sign.y) for window in windows[1:])
    return closer or scene.global_digit_height(sign) >= READABLE


def _splat(sign: Sign, window: Region, grid: Grid) -> FloatArray:
    """Weights on the grid's cells, sum 1: bilinear at the sign's centre, a little over the whole plate."""
    rows, columns = grid
    x = np.arange(columns) + 0.5 - (sign.x - window.left) / window.width * columns
    y = np.arange(rows) + 0.5 - (sign.y - window.top) / window.height * rows
    peak = np.clip(1 - np.abs(y), 0, 1)[:, None] * np.clip(1 - np.abs(x), 0, 1)[None, :]
    half_x = sign.digit_height * PLATE_WIDTH / 2 / window.width * columns
    half_y = sign.digit_height * PLATE_HEIGHT / 2 / window.height * rows
    inside = (np.abs(y) < half_y)[:, None] & (np.abs(x) < half_x)[None, :]
    total = peak / max(peak.sum(), 1e-6) + 0.3 * inside / max(inside.sum(), 1)
    weights: FloatArray = (total / total.sum()).astype(np.float32)
    return weights


def _attention_target(
    question: Question, scene: Scene, windows: tuple[Region, ...], grids: list[Grid]
) -> FloatArray:
    """Wanted attention on the visual tokens of all pictures: at the asked sign, or even if there is none."""
    cells = [rows * columns for rows, columns in grids]
    if question.sign is None:
        return np.full(sum(cells), 1 / sum(cells), np.float32)
    sign = question.sign
    parts = [_splat(sign, windows[0], grids[0]).ravel()]
    if len(windows) > 1:
        local = windows[1]
        readable = scene.global_digit_height(sign) >= 9
        if local.contains(sign.x, sign.y):
            share = 0.35 if readable else 0.85
            parts = [(1 - share) * parts[0], share * _splat(sign, local, grids[1]).ravel()]
        else:
            parts.append(np.zeros(cells[1], np.float32))
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class Packed:
    """Looks of equal kind, padded to one length T.

    ids, labels int64 [B, T]; positions int64 [P, B, T]; mask bool [B, 1, T, T]; seen bool [B, T], where the
    visual tokens are; history bool [B, T], where questions with an earlier answer are; images int64 [B, M],
    the same places as `seen`, padded with 0; probes int64 [P, 3] (row, position, cue or -1) with wanted
    attention targets float32 [P, M], 0 at padding; copies int64 [C, 3] (row, position,
    that of the earlier answer's token).
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    seen: Tensor
    history: Tensor
    images: Tensor
    probes: Tensor
    targets: Tensor
    copies: Tensor

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [3, H, W] of B + C pictures, labels [4, R] of all their patches, and the looks at them.

    B global images come first, then the local images of the first C lessons, which have a second look.
    """

    pixels: list[Tensor]
    patches: Tensor
    first: Packed
    second: Packed

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        pixels = [picture.to(device) for picture in self.pixels]
        return Batch(pixels, self.patches.to(device), self.first.to(device), self.second.to(device))


def collate(lessons: list[Lesson], image_token: int, second_looks: float = SECOND_LOOKS) -> Batch:
    """Put lessons together, some with a second look; padding tokens see only one another and count for
    nothing."""
    twice = lessons[: max(1, round(second_looks * len(lessons)))]
    return Batch(
        [lesson.pixels[0] for lesson in lessons] + [lesson.pixels[1] for lesson in twice],
        flat_labels([lesson.patches[0] for lesson in lessons] + [lesson.patches[1] for lesson in twice]),
        _padded([lesson.first for lesson in lessons], image_token),
        _padded([lesson.second for lesson in twice], image_token),
    )


def flat_labels(labels: Sequence[Tensor]) -> Tensor:
    """Patch labels [4, R] of pictures one after another, from those of each [4, rows, columns]."""
    return torch.cat([one.flatten(1) for one in labels], dim=1)


def _padded(looks: list[Look], image_token: int) -> Packed:
    ids = _rectangle([torch.tensor(look.ids) for look in looks], 0)
    segments = _rectangle([torch.tensor(look.segments) for look in looks], -1)
    own = segments[:, :, None] == segments[:, None, :]
    shared = (segments[:, None, :] == 0) & (segments[:, :, None] >= 0)
    mask = (own | shared) & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen = (ids == image_token) & (segments == 0)
    return Packed(
        ids=ids,
        positions=_rectangle([look.positions.T for look in looks], 0).permute(2, 0, 1),
        labels=_rectangle([torch.tensor(look.labels) for look in looks], IGNORED),
        mask=mask[:, None],
        seen=seen,
        history=_rectangle([torch.tensor(look.history) for look in looks], False),
        images=_rectangle([row.nonzero().squeeze(1) for row in seen], 0),
        probes=torch.tensor(
            [
                (row, *probe)
                for row, look in enumerate(looks)
                for probe in zip(look.probes, look.cues, strict=True)
            ]
        ),
        targets=_rectangle([torch.from_numpy(wanted) for look in looks for wanted in look.targets], 0),
        copies=torch.tensor(
            [(row, *copy) for row, look in enumerate(looks) for copy in look.copies], dtype=torch.int64
        ).view(-1, 3),
    )


def _rectangle(rows: list[Tensor], padding: int) -> Tensor:
    """[B, T, ...] of rows [t, ...]."""
    return pad_sequence(rows, batch_first=True, padding_value=padding)
