"""From a question to token ids, by a checkpoint's own chat template, with the images' places known.

The layout is the one that makes looking twice cheap: everything up to the end of the global image is the same
for every question, so its keys and values are computed once. `PromptLayout` verifies that of a template when
it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondlook.engine.errors import (
    EmptyQuestionError,
    QuestionError,
    QuestionTooLongError,
    ReservedTextError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DEFAULT_MAX_CHARACTERS", "GENERIC_QUESTION", "Prompt", "PromptLayout", "check_question"]

GENERIC_QUESTION = "Write a general description of the image."
"""The question whose attention a real question's is divided by (Zhang et al., arXiv 2502.17422)."""

DEFAULT_MAX_CHARACTERS = 2000


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


@dataclass(frozen=True)
class Prompt:
    """Token ids of a whole prompt.

    Attributes:
        ids: every token, each image's place filled with as many image tokens as it has features.
        spans: for each image, [start, stop) of its tokens in `ids`; the global image's first.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class PromptLayout:
    """One checkpoint's prompts: its tokenizer, chat template, and number of tokens per image.

    Attributes:
        context: the most tokens a sequence may have, generated ones included.
        tokens_per_image: tokens of each image.
        prefix: the ids from the start through the global image's last token, the same in every prompt.
        span: [start, stop) of the global image; stop = len(prefix).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str,
        image_token_id: int,
        tokens_per_image: int,
        context: int,
        question_suffix: str = "",
    ) -> None:
        """
        Args:
            context: the most tokens a sequence may have, generated ones included.
            question_suffix: put behind every question, the generic one too.

        Raises:
            UnsupportedModelError: the template cannot place one and two images, or puts something of the
            question
                before the global image.
        """
        self._tokenizer: Any = tokenizer  # declared by transformers as returning nearly anything
        self._template = chat_template
        self._image_token_id = image_token_id
        self.tokens_per_image = tokens_per_image
        self.context = context
        self._suffix = question_suffix
        self._reserved = {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        } | set(tokenizer.all_special_ids)
        # The unknown token poses as nothing, and in a vocabulary without bytes any odd character becomes it.
        self._reserved.discard(tokenizer.unk_token_id)
        generic, two = self._tokenise(GENERIC_QUESTION, 1), self._tokenise(GENERIC_QUESTION, 2)
        self.span = generic.spans[0]
        self.prefix = generic.ids[: self.span[1]]
        self._reserved_counts = {1: self._count_reserved(generic), 2: self._count_reserved(two)}
        self._check_prefix(two)
        self._check_prefix(self._tokenise("Why?", 1))

    @property
    def generic(self) -> Prompt:
        """The generic question about the global image."""
        return self._tokenise(GENERIC_QUESTION, 1)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens and surrounding white space."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def build(self, question: str, images: int, max_new_tokens: int, capacity: int | None = None) -> Prompt:
        """The prompt [global image][local image, if images is 2][question].

        Args:
            capacity: the most tokens of prompt and answer, where that is less than the model's context.

        Raises:
            QuestionTooLongError: prompt and answer exceed the model's context, or the capacity.
            ReservedTextError: the question contains text that the tokenizer reads as one of its special
            tokens, by
                which it could pose as an image or end the prompt.
        """
        reserved = [i for i in self._encode(question) if i in self._reserved]
        if reserved:
            raise self._reserved_text(reserved)
        prompt = self._tokenise(question, images)
        # Question and template could only spell a reserved token together; none of the parts has one too
        # many.
        if self._count_reserved(prompt) != self._reserved_counts[images]:
            raise ReservedTextError("the question completes text that the model reserves; rephrase it")
        self._check_prefix(prompt)
        most = self.context if capacity is None else min(self.context, capacity)
        if len(prompt.ids) + max_new_tokens > most:
            raise QuestionTooLongError(
                f"the prompt has {len(prompt.ids)} tokens and the answer may have {max_new_tokens}, "
                f"but there is room for {most}; ask a shorter question, or for fewer tokens (max_new_tokens)"
            )
        return prompt

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _tokenise(self, question: str, images: int) -> Prompt:
        content = [{"type": "image"} for _ in range(images)]
        content.append({"type": "text", "text": f"{question} {self._suffix}" if self._suffix else question})
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        # A template that writes the first token itself must not get a second one from the tokenizer.
        bos = self._tokenizer.bos_token
        has_bos = bos is not None and text.startswith(bos)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for token in self._tokenizer(text, add_special_tokens=not has_bos)["input_ids"]:
            if token == self._image_token_id:
                spans.append((len(ids), len(ids) + self.tokens_per_image))
                ids.extend([token] * self.tokens_per_image)
            else:
                ids.append(token)
        if len(spans) != images:
            raise UnsupportedModelError(
                f"the chat template should place {images} image token(s), but the prompt has {len(spans)}"
            )
        return Prompt(tuple(ids), tuple(spans))

    def _check_prefix(self, prompt: Prompt) -> None:
        if prompt.ids[: len(self.prefix)] != self.prefix:
            raise UnsupportedModelError(
                "the chat template must begin every prompt alike through the end of the first image; "
                "this one puts something that changes before it"
            )

    def _count_reserved(self, prompt: Prompt) -> int:
        return sum(token in self._reserved for token in prompt.ids)

    def _reserved_text(self, ids: list[int]) -> ReservedTextError:
        texts = [str(self._tokenizer.convert_ids_to_tokens(index)) for index in dict.fromkeys(ids)]
        return ReservedTextError(
            f"the question contains {', '.join(map(repr, texts))}, which the model reserves; take it out"
        )
