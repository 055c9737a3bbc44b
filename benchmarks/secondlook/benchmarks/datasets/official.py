"""The official data sets: a loader for each reads its files as they are.

Files come from where the messages about missing ones say; none is part of this project. A loader takes the
folder of the data set's files and the folder of its pictures (by default where they unpack to), and raises
MissingDataError or MalformedDataError where a file or a picture is not there, or not as it should be.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationInfo, field_validator

from secondlook.benchmarks.datasets import scoring
from secondlook.benchmarks.datasets.question import (
    LETTERS,
    ONE_LETTER,
    SHORT_ANSWER,
    DataSet,
    MalformedDataError,
    MissingDataError,
    Question,
    shuffled,
)
from secondlook.benchmarks.datasets.reading import (
    Box,
    Entry,
    Name,
    PictureFolder,
    TenTexts,
    Text,
    is_unicode,
    joined,
    read_data_file,
    rectangle,
)
from secondlook.edge.geometry import Rectangle

_COCO: Final = "http://images.cocodataset.org/zips"


def _asked(
    name: str,
    kind: str,
    text: str,
    answers: tuple[str, ...],
    scorer: Callable[[str, Sequence[str]], float],
    boxes: tuple[Rectangle, ...] = (),
) -> Question:
    """A question for a short answer; its truth is the answer most people gave, of several the first."""
    truth = Counter(answers).most_common(1)[0][0]
    return Question(name, kind, text, SHORT_ANSWER, answers, truth, scorer, boxes=boxes)


def _choice(
    name: str, kind: str, text: str, options: tuple[str, ...], right: int, boxes: tuple[Rectangle, ...] = ()
) -> Question:
    """A question for the letter of one of the options, each of which is in a line of its own."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    scorer, text = partial(scoring.choice_score, options=options), "\n".join([text, *lines])
    return Question(name, kind, text, ONE_LETTER, (options[right],), lines[right], scorer, options, boxes)


class _TextVqaQuestion(Entry):
    question_id: Name
    image_id: Name
    question: Text
    answers: TenTexts


class _OcrTokens(Entry):
    image_id: Name
    ocr_tokens: tuple[str, ...]


class _TextVqaBox(Entry):
    dataset_id: Name
    bbox: Box


def load_textvqa(
    folder: Path, images: Path | None = None, *, ocr: bool = False, boxes: Path | None = None
) -> DataSet:
    """TextVQA's validation questions, with or without the text that an OCR system found in the picture.

    https://textvqa.org, CC BY 4.0 (Singh et al., arXiv 1904.08920; Rosetta: Borisyuk et al., arXiv
    1910.05085); pictures `train_images/{image_id}.jpg`. Accuracies with and without OCR tokens cannot be
    compared: LLaVA-1.5-7B has about 58 % and 46 %.

    Where the text asked for is, Zhang et al. (arXiv 2502.17422) published for most questions:
    https://huggingface.co/datasets/jrzhang/TextVQA_GT_bbox, taken here as JSON lines {dataset_id, bbox: [x,
    y, w, h], …}: its table without the pictures, written by `to_json` of the library `datasets`.

    Args:
        ocr: put the OCR tokens behind each question.
        boxes: a file of boxes, as JSON lines.
    """
    source = "https://dl.fbaipublicfiles.com/textvqa"
    name, ocr_name = "TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json"
    questions = read_data_file(folder, name, f"{source}/data/{name}")
    files, tokens, places = [questions], dict[str, _OcrTokens](), dict[str, _TextVqaBox]()
    if ocr:
        files.append(read_data_file(folder, ocr_name, f"{source}/data/{ocr_name}"))
        tokens = joined(files[-1].records(_OcrTokens, "data"), "image_id")
    if boxes is not None:
        table = "https://huggingface.co/datasets/jrzhang/TextVQA_GT_bbox"
        files.append(read_data_file(boxes.parent, boxes.name, table))
        places = joined(files[-1].lines(_TextVqaBox), "dataset_id")
    pictures = PictureFolder(images or folder / "train_images", f"{source}/images/train_val_images.zip")
    fitting = 0
    for entry in questions.records(_TextVqaQuestion, "data"):
        text = entry.question
        if ocr:
            if entry.image_id not in tokens:
                entry.fault("image_id", f"should be a picture of {ocr_name}")
            text = f"{text}\nReference OCR token: {', '.join(tokens[entry.image_id].ocr_tokens)}"
        found = (rectangle(places[entry.question_id].bbox),) if entry.question_id in places else ()
        fitting += len(found)
        question = _asked(entry.question_id, "text", text, entry.answers, scoring.textvqa_score, found)
        pictures.add(f"{entry.image_id}.jpg", question, entry)
    if places and not fitting:
        next(iter(places.values())).fault("dataset_id", f"should be a question of {name}, as no other one is")
    return pictures.data_set("textvqa", files, ocr=ocr)


class _PopeQuestion(Entry):
    question_id: Name
    image: Text
    text: Text
    label: Literal["yes", "no"]


def load_pope(folder: Path, images: Path | None = None) -> DataSet:
    """POPE: is there such a thing in the picture? A question's kind is its split; the three differ in the
    things that are not.

    MIT (Li et al., arXiv 2305.10355); pictures `val2014/{image}` from COCO, with the licences that COCO
    lists. `question_id` begins again in each file, so ids here are "split/question_id".
    """
    pictures, files = PictureFolder(images or folder / "val2014", f"{_COCO}/val2014.zip"), []
    for split in ("random", "popular", "adversarial"):
        source = "https://github.com/AoiDragon/POPE/tree/main/output/coco"
        files.append(read_data_file(folder, f"coco_pope_{split}.json", source))
        for entry in files[-1].lines(_PopeQuestion):
            name = f"{split}/{entry.question_id}"
            question = _asked(name, split, entry.text, (entry.label,), scoring.pope_score)
            pictures.add(entry.image, question, entry)
    return pictures.data_set("pope", files)


class _AokvqaQuestion(Entry):
    question_id: Name
    image_id: StrictInt
    question: Text
    choices: Annotated[tuple[str, ...], Field(min_length=4, max_length=4)]
    correct_choice_idx: Annotated[StrictInt, Field(ge=0, le=3)]
    difficult_direct_answer: StrictBool
    direct_answers: TenTexts | None = None


def load_aokvqa(folder: Path, images: Path | None = None) -> DataSet:
    """A-OKVQA's validation questions, each asked twice: for a direct answer, and with its choices.

    https://github.com/allenai/aokvqa, MIT (Schwenk et al., arXiv 2206.01718); pictures `val2017/{image_id,
    twelve digits}.jpg` from COCO, with the licences that COCO lists. No direct answer is asked for where the
    data set calls that difficult.
    """
    source = "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz"
    file = read_data_file(folder, "aokvqa_v1p0_val.json", source)
    pictures = PictureFolder(images or folder / "val2017", f"{_COCO}/val2017.zip")
    for entry in file.records(_AokvqaQuestion):
        name = f"{entry.image_id:012}.jpg"
        if not entry.difficult_direct_answer:
            if entry.direct_answers is None:
                entry.fault("direct_answers", "should be a list of 10 texts")
            asked = f"{entry.question_id}/direct", "direct answer", entry.question
            pictures.add(name, _asked(*asked, entry.direct_answers, scoring.direct_answer_score), entry)
        asked = f"{entry.question_id}/choice", "multiple choice", entry.question
        choice = _choice(*asked, entry.choices, entry.correct_choice_idx)
        pictures.add(name, choice, entry)
    return pictures.data_set("aokvqa", [file])


class _GqaTypes(Entry):
    structural: str


class _GqaQuestion(Entry):
    question: Text
    image: Name = Field(alias="imageId")
    answer: Text
    types: _GqaTypes | None = None


def load_gqa(folder: Path, images: Path | None = None) -> DataSet:
    """GQA's balanced test-dev questions; a question's kind is its structural type (query, verify, …).

    https://cs.stanford.edu/people/dorarad/gqa (Hudson and Manning, arXiv 1902.09506), which has the terms;
    pictures `images/{imageId}.jpg`. Files without types, as for the test set, have questions of one kind.
    """
    source = "https://downloads.cs.stanford.edu/nlp/data/gqa"
    file = read_data_file(folder, "testdev_balanced_questions.json", f"{source}/questions1.2.zip")
    pictures = PictureFolder(images or folder / "images", f"{source}/images.zip")
    for name, entry in file.named(_GqaQuestion).items():
        kind = "question" if entry.types is None else entry.types.structural
        question = _asked(name, kind, entry.question, (entry.answer,), scoring.gqa_score)
        pictures.add(f"{entry.image}.jpg", question, entry)
    return pictures.data_set("gqa", [file])


class _Vqav2Question(Entry):
    question_id: Name
    image_id: StrictInt
    question: Text


class _Vqav2Answer(Entry):
    answer: str


class _Vqav2Annotation(Entry):
    question_id: Name
    image_id: StrictInt
    answer_type: Text
    answers: Annotated[tuple[_Vqav2Answer, ...], Field(min_length=10, max_length=10)]


def load_vqav2(folder: Path, images: Path | None = None) -> DataSet:
    """VQAv2's validation questions; a question's kind is its answer's type (yes/no, number, other).

    CC BY 4.0 by https://visualqa.org/terms.html (Goyal et al., arXiv 1612.00837); pictures
    `val2014/COCO_val2014_{image_id, twelve digits}.jpg` from COCO, with the licences that COCO lists.
    """
    names = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")
    files = [read_data_file(folder, name, "https://visualqa.org/download.html") for name in names]
    answered = joined(files[1].records(_Vqav2Annotation, "annotations"), "question_id")
    asked = set[str]()
    pictures = PictureFolder(images or folder / "val2014", f"{_COCO}/val2014.zip")
    for entry in files[0].records(_Vqav2Question, "questions"):
        if entry.question_id not in answered:
            entry.fault("question_id", f"should be a question of {names[1]}")
        annotation = answered[entry.question_id]
        if annotation.image_id != entry.image_id:
            annotation.fault(
                "image_id", f"should be {entry.image_id}, as question {entry.question_id} has it"
            )
        answers = tuple(one.answer for one in annotation.answers)
        question = _asked(
            entry.question_id, annotation.answer_type, entry.question, answers, scoring.vqav2_score
        )
        pictures.add(f"COCO_val2014_{entry.image_id:012}.jpg", question, entry)
        asked.add(entry.question_id)
    for name, annotation in answered.items():
        if name not in asked:
            annotation.fault("question_id", f"should be a question of {names[0]}")
    return pictures.data_set("vqav2", files)


class _VstarQuestion(Entry):
    question: Text
    options: Annotated[tuple[str, ...], Field(min_length=2, max_length=len(LETTERS))]
    target_object: tuple[str, ...]
    bbox: tuple[Box, ...]

    @field_validator("bbox")
    @classmethod
    def _one_each(cls, boxes: tuple[Box, ...], info: ValidationInfo) -> tuple[Box, ...]:
        if len(boxes) != len(info.data.get("target_object", boxes)):
            raise ValueError("should have a box for each target_object")
        return boxes


def load_vstar(folder: Path, images: Path | None = None) -> DataSet:
    """V*Bench: small things in large pictures, with their boxes; a question's kind is its folder.

    https://huggingface.co/datasets/craigwu/vstar_bench (Wu and Xie, arXiv 2312.14135), which has the terms;
    the pictures, of SA-1B, are beside JSON files of the same names. The first option is the right one, so
    the options are shuffled before they get their letters, with a fixed seed. The paper compares the
    likelihoods of the options instead; here the answer names one.
    """
    source, seed = "https://huggingface.co/datasets/craigwu/vstar_bench", 0
    images = images or folder
    pictures, total = PictureFolder(images, source), hashlib.sha256()
    for kind in ("direct_attributes", "relative_position"):
        if not (folder / kind).is_dir():
            raise MissingDataError(f"there is no folder {kind} in {folder}; get it from {source}")
        found = dict[str, Path]()
        for path in _visible(images / kind, ".jpg", ".jpeg", ".png", ".webp", ".bmp"):
            if path.stem in found:
                raise MalformedDataError(f"{found[path.stem]} and {path} are pictures of one question")
            found[path.stem] = path
        described = _visible(folder / kind, ".json")
        alone = sorted(set(found) - {path.stem for path in described})
        if alone:
            raise MissingDataError(f"there is no {alone[0]}.json in {folder / kind}; get it from {source}")
        for path in described:
            file = read_data_file(folder / kind, path.name, source)
            total.update(f"{kind}/{path.name} {file.digest}\n".encode())
            entry, name = file.whole(_VstarQuestion), f"{kind}/{path.stem}"
            places = shuffled(len(entry.options), seed, name)
            options = tuple(entry.options[place] for place in places)
            boxes = tuple(map(rectangle, entry.bbox))
            question = _choice(name, kind, entry.question, options, places.index(0), boxes)
            picture = found[path.stem].name if path.stem in found else f"{path.stem}.jpg"
            pictures.add(f"{kind}/{picture}", question, entry)
    return pictures.data_set("vstar", {"*.json": total.hexdigest()[:16]}, options_seed=seed)


def _visible(folder: Path, *endings: str) -> list[Path]:
    """The files with these endings, in order, without hidden ones, such as macOS puts beside others (._*)."""
    found = [path for path in sorted(folder.glob("[!.]*")) if path.suffix.lower() in endings]
    for path in found:
        if not is_unicode(path.name):
            raise MalformedDataError(f"the name {path.name!r} in {folder} should be Unicode text")
    return found


LOADERS: Final[dict[str, Callable[..., DataSet]]] = {
    "textvqa": load_textvqa,
    "pope": load_pope,
    "aokvqa": load_aokvqa,
    "gqa": load_gqa,
    "vqav2": load_vqav2,
    "vstar": load_vstar,
}
