"""From a question to token ids, as a checkpoint's chat template writes it, with the images' places known.

The layout is the one that makes looking twice cheap: everything up to the end of the global image is the same
for every question, so its keys and values are computed once. `ChatPrompts` verifies that of a template when
it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondlook.engine.errors import (
    EmptyQuestionError,
    InvalidModelError,
    QuestionError,
    QuestionTooLongError,
    ReservedTextError,
    UnsupportedModelError,
)
from secondlook.engine.models.rendering import Frame, frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DEFAULT_MAX_CHARACTERS", "GENERIC_QUESTION", "ChatPrompts", "QuestionTokens", "check_question"]

GENERIC_QUESTION = "Write a general description of the image."
"""The question whose attention a real question's is divided by (Zhang et al., arXiv 2502.17422)."""

DEFAULT_MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class QuestionTokens:
    """A question tokenised, once, for pictures of any size.

    Attributes:
        text: as it was asked.
        one, two: tokens of the prompt with one image and of that with two, a single placeholder each image.
        instruction: tokens of the question for an encoder that reads it, in that encoder's own vocabulary.
    """

    text: str
    one: tuple[int, ...]
    two: tuple[int, ...]
    instruction: tuple[int, ...] = ()

    def of(self, images: int) -> tuple[int, ...]:
        """Those of the prompt with so many images."""
        return self.one if images == 1 else self.two


def check_question(question: str, max_characters: int = DEFAULT_MAX_CHARACTERS) -> None:
    """Refuse a question that no model need see.

    Raises:
        EmptyQuestionError: nothing but white space.
        QuestionTooLongError: more than `max_characters` characters.
        QuestionError: not text that UTF-8 can hold (a lone surrogate, as from undecodable input).
    """
    if not question.strip():
        raise EmptyQuestionError("the question is empty; ask something about the picture")
    if len(question) > max_characters:
        raise QuestionTooLongError(
            f"the question has {len(question)} characters, but at most {max_characters} are allowed"
        )
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QuestionError(f"the question is not valid Unicode text: {error.reason}") from error


class ChatPrompts:
    """One checkpoint's prompts: its tokenizer and chat template, where each image is one placeholder token.

    May be used on any thread.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | Frame,
        placeholder: int,
        vocabulary: int | None = None,
        question_suffix: str = "",
        around_image: tuple[str, str] = ("", ""),
    ) -> None:
        """
        Args:
            chat_template: the checkpoint's, or what is written around a question where there is none.
            placeholder: the token of an image.
            vocabulary: rows of the embedding; None: not compared.
            question_suffix: put behind every question, the generic one too.
            around_image: text that a processor writes before and behind the placeholder, and the chat
                template does not; what is behind must be one special token.

        Raises:
            UnsupportedModelError: the template cannot place one and two images, puts something of the
                question before the global image, or is refused by `rendering.frame`.
            InvalidModelError: the tokenizer makes tokens that the embedding has no row of, or lacks what
                stands behind an image.
        """
        self._tokenizer: Any = tokenizer  # declared by transformers as returning nearly anything
        named = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        self._frame = chat_template if isinstance(chat_template, Frame) else frame(chat_template, named)
        self._placeholder = placeholder
        self._suffix = question_suffix
        self._reserved = {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        } | set(tokenizer.all_special_ids)
        # The unknown token poses as nothing, and in a vocabulary without bytes any odd character becomes it.
        self._reserved.discard(tokenizer.unk_token_id)
        self._surround(*around_image)
        generic = self._tokenise(GENERIC_QUESTION)
        self._beginning = generic[0][: generic[0].index(placeholder) + 1]
        self._reserved_counts = [self._count_reserved(ids) for ids in generic]
        for ids in (generic[1], self._tokenise("Why?")[0]):
            self._check_beginning(ids)
        if vocabulary is not None:
            self._check_vocabulary(vocabulary, generic[1])

    def tokens(self, question: str) -> QuestionTokens:
        """A question's tokens, checked.

        Raises:
            ReservedTextError: the question contains text that the tokenizer reads as one of its special
                tokens, by which it could pose as an image or end the prompt.
        """
        own = self._tokenizer(question, add_special_tokens=False)["input_ids"]
        if reserved := [index for index in own if index in self._reserved]:
            texts = [str(self._tokenizer.convert_ids_to_tokens(index)) for index in dict.fromkeys(reserved)]
            raise ReservedTextError(
                f"the question contains {', '.join(map(repr, texts))}, which the model reserves; take it out"
            )
        both = self._tokenise(question)
        # Question and template could only spell a reserved token together; none of the parts has one too
        # many.
        if [self._count_reserved(ids) for ids in both] != self._reserved_counts:
            raise ReservedTextError("the question completes text that the model reserves; rephrase it")
        for ids in both:
            self._check_beginning(ids)
        return QuestionTokens(question, *both)

    def ids(
        self, question: QuestionTokens, lengths: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """The prompt's tokens, each image's placeholder repeated to its length, and the images' spans."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for token in question.of(len(lengths)):
            if token == self._placeholder:
                length = lengths[len(spans)]
                spans.append((len(ids), len(ids) + length))
                ids += [token] * length
            else:
                ids.append(token)
        return tuple(ids), tuple(spans)

    def written(self, question: str, images: int = 1) -> str:
        """The prompt's text."""
        return self._frame.text(f"{question} {self._suffix}" if self._suffix else question, images)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens and surrounding white space."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def token_text(self, token_id: int) -> str:
        """One token as text; of a part of a character the replacement character."""
        text: str = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return text

    def _tokenise(self, question: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the prompts with one image and with two."""
        texts = [self.written(question, images) for images in (1, 2)]
        # A template that writes the first token itself must not get a second one from the tokenizer.
        bos = self._tokenizer.bos_token
        has_bos = bos is not None and texts[0].startswith(bos)
        # Not as a batch, which wakes the tokenizer's own threads: they would take cores from inference.
        one, two = (
            tuple(self._tokenizer(text, add_special_tokens=not has_bos)["input_ids"]) for text in texts
        )
        if self._frame.ahead:
            one, two = (self._placeholder, *one), (self._placeholder, self._placeholder, *two)
        for images, ids in ((1, one), (2, two)):
            if ids.count(self._placeholder) != images:
                token = self._tokenizer.convert_ids_to_tokens(self._placeholder)
                raise UnsupportedModelError(
                    f"the chat template should place {images} image token(s), but the prompt has "
                    f"{ids.count(self._placeholder)} of {token!r} (token {self._placeholder})"
                )
        return one, two

    def _surround(self, before: str, behind: str) -> None:
        if behind and self._tokenizer.convert_tokens_to_ids(behind) not in self._reserved:
            raise InvalidModelError(
                f"the tokenizer has no special token {behind!r}, which must stand behind an image"
            )
        place = self._tokenizer.convert_ids_to_tokens(self._placeholder)
        self._frame = self._frame.placing(place, before + place + behind)

    def _check_vocabulary(self, vocabulary: int, prompt: tuple[int, ...]) -> None:
        # Special tokens that no prompt has may lie beyond: some checkpoints have padding there.
        used = {index: text for text, index in self._tokenizer.get_vocab().items()}
        for index in sorted((used.keys() - self._reserved) | set(prompt), reverse=True)[:1]:
            if index >= vocabulary:
                raise InvalidModelError(
                    f"the tokenizer has token {index} ({used.get(index)!r}), but the embedding has only "
                    f"{vocabulary} rows"
                )

    def _check_beginning(self, ids: tuple[int, ...]) -> None:
        if ids[: len(self._beginning)] != self._beginning:
            raise UnsupportedModelError(
                "the chat template must begin every prompt alike through the end of the first image; "
                "this one puts something that changes before it"
            )

    def _count_reserved(self, ids: tuple[int, ...]) -> int:
        return sum(token in self._reserved for token in ids)
