"""The official scorers of the data sets: pure functions from an answer's text to a score between 0 and 1.

*TextVQA and VQAv2.* Ten people answered every question. An answer scores the mean, over the ten left out in
turn, of min(1, matches among the other nine / 3) (Antol et al., arXiv 1505.00468). What counts as a match
differs: TextVQA's scorer is Pythia's `EvalAIAnswerProcessor` (https://github.com/facebookresearch/mmf,
mmf/datasets/processors/processors.py) with the soft score of `TextVQAAccuracyEvaluator`; VQAv2's is
`vqaEval.py` (https://github.com/GT-Vision-Lab/VQA). Both have slips that published numbers contain, so they
are here too: a period goes unless a digit follows it, whatever is before it, and only the first 32 do.

*GQA, and A-OKVQA's direct answers.* Both official scorers compare strings as they are, and leave it to
whoever hands answers in to write them as the data sets do: in lower case and without a final period.
`as_submitted` does that.

*POPE.* As `evaluate.py` of https://github.com/AoiDragon/POPE does it (Li et al., arXiv 2305.10355).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from secondlook.benchmarks.datasets.question import LETTERS

YesOrNo = Literal["yes", "no"]

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD: Final = re.compile(r"\.(?!\d)")
_MOST_PERIODS: Final = 32
"""The number of re.UNICODE, which the scorers pass in the place of `count`."""
_COMMA_BETWEEN_DIGITS: Final = re.compile(r"\d,\d")
_LETTER: Final = re.compile(r"\(?([A-Za-z])(?:$|[).:,])")
_ARTICLES: Final = frozenset({"a", "an", "the"})
_COUNTED: Final = "zero one two three four five six seven eight nine ten"
_NUMBERS: Final = {"none": "0", **{word: str(number) for number, word in enumerate(_COUNTED.split())}}

_CONTRACTED: Final = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS: Final = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # one entry of the table is the wrong way round
"""Each contraction with one apostrophe forgotten → the contraction."""


def normalise_evalai(answer: str) -> str:
    """An answer as TextVQA compares it."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_without_punctuation(_on_one_line(text)))


def normalise_vqav2(answer: str) -> str:
    """An answer as VQAv2 compares it, where the ten answers differ."""
    return _plain_words(_without_punctuation(_on_one_line(answer)))


def textvqa_score(answer: str, answers: Sequence[str]) -> float:
    """The soft score among the ten answers, all normalised."""
    return _soft_score(normalise_evalai(answer), [normalise_evalai(given) for given in answers])


def vqav2_score(answer: str, answers: Sequence[str]) -> float:
    """The same, normalised only if the ten answers differ; to a hundredth of a per cent, as the scorer."""
    text, given = _on_one_line(answer), [_on_one_line(one) for one in answers]
    if len(set(given)) > 1:
        text, given = normalise_vqav2(text), [normalise_vqav2(one) for one in given]
    return round(100 * _soft_score(text, given), 2) / 100


def _soft_score(answer: str, answers: Sequence[str]) -> float:
    matches = answers.count(answer)
    total = 0.0
    for given in answers:  # added up one by one: `sum` rounds differently from Python 3.12 on
        total += min(1.0, (matches - (given == answer)) / 3)
    return total / len(answers)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A sign is deleted where the text has it next to a space, or a comma between digits; else a space."""
    found, thousands = text, _COMMA_BETWEEN_DIGITS.search(text) is not None
    for sign in _PUNCTUATION:
        apart = f"{sign} " in text or f" {sign}" in text
        found = found.replace(sign, "" if apart or thousands else " ")
    return _PERIOD.sub("", found, count=_MOST_PERIODS)


def _plain_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def as_submitted(answer: str) -> str:
    """An answer in lower case, without a final period."""
    return answer.strip().lower().removesuffix(".")


def gqa_score(answer: str, answers: Sequence[str]) -> float:
    """1 if the answer as submitted is right: `eval.py` of GQA (Hudson and Manning, arXiv 1902.09506)."""
    return float(as_submitted(answer) in answers)


def direct_answer_score(answer: str, answers: Sequence[str]) -> float:
    """min(1, how many of the ten it is, as submitted, / 3): A-OKVQA's `eval_predictions.py`."""
    return min(1.0, answers.count(as_submitted(answer)) / 3)


def pope_answer(answer: str) -> YesOrNo:
    """ "no" if the text before the first period has a word No, not or no; otherwise "yes"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_score(answer: str, answers: Sequence[str]) -> float:
    """1 where the answer says what the label, the only right one, does."""
    return float(pope_answer(answer) in answers)


def pope_measures(said: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """From what was said ("yes" or "no", by `pope_answer`) and the labels; "yes" is the positive, and a
    quotient without a denominator 0."""
    if not labels or len(said) != len(labels):
        raise ValueError(f"there must be as many answers as labels, and some: {len(said)} and {len(labels)}")
    pairs = list(zip(said, labels, strict=True))
    right = sum(one == other for one, other in pairs)
    found = sum(one == other == "yes" for one, other in pairs)
    positives, yes = sum(label == "yes" for label in labels), sum(one == "yes" for one in said)
    precision, recall = _share(found, yes), _share(found, positives)
    return {
        "accuracy": right / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": yes / len(pairs),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """The option that an answer names by its text or by its letter ("B", "b", "(B)", "B. red"); None: none.

    Case and a final period do not matter. An option's own text goes before a letter.
    """
    text = answer.strip()
    folded = text.removesuffix(".").casefold()
    for index, option in enumerate(options):
        if folded == option.strip().removesuffix(".").casefold():
            return index
    found = _LETTER.match(text)
    index = LETTERS.index(found[1].upper()) if found else len(options)
    return index if index < len(options) else None


def choice_score(answer: str, answers: Sequence[str], options: Sequence[str]) -> float:
    """1 if the answer picks a right option."""
    chosen = chosen_option(answer, options)
    return float(chosen is not None and options[chosen] in answers)
