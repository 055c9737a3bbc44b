"""Prompts: what a question may be, and that it cannot pose as anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.checkpoints import (
    GRID,
    IMAGE_FIRST_TEMPLATE,
    PUBLISHED_TEMPLATE,
    QUESTION_FIRST_TEMPLATE,
    Variant,
    write_checkpoint,
)
from secondlook.engine.errors import (
    EmptyQuestionError,
    QuestionError,
    QuestionTooLongError,
    ReservedTextError,
    UnsupportedModelError,
)
from secondlook.engine.models.prompts import PromptLayout, check_question

TOKENS = GRID * GRID


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(write_checkpoint(tmp_path_factory.mktemp("tokenizer"), Variant()))


def layout(
    tokenizer: PreTrainedTokenizerBase,
    template: str = PUBLISHED_TEMPLATE,
    *,
    context: int = 512,
    suffix: str = "",
) -> PromptLayout:
    return PromptLayout(
        tokenizer,
        chat_template=template,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tokens_per_image=TOKENS,
        context=context,
        question_suffix=suffix,
    )


@pytest.mark.parametrize("template", [PUBLISHED_TEMPLATE, IMAGE_FIRST_TEMPLATE])
@pytest.mark.parametrize("images", [1, 2])
def test_every_prompt_begins_with_the_prefix(
    tokenizer: PreTrainedTokenizerBase, template: str, images: int
) -> None:
    made = layout(tokenizer, template)
    image = tokenizer.convert_tokens_to_ids("<image>")
    prompt = made.build("What is on the sign?", images, 20)
    assert prompt.ids[: len(made.prefix)] == made.prefix == made.generic.ids[: len(made.prefix)]
    assert prompt.spans[0] == made.span == (len(made.prefix) - TOKENS, len(made.prefix))
    assert prompt.ids.count(image) == images * TOKENS
    assert prompt.ids.count(tokenizer.bos_token_id) == 1
    for start, stop in prompt.spans:
        assert set(prompt.ids[start:stop]) == {image}


def test_the_published_text(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = layout(tokenizer).build("What is on the sign?", 2, 20)
    text = tokenizer.decode([i for i in prompt.ids if i != tokenizer.bos_token_id])
    images = "<image>" * TOKENS
    assert text.split() == f"USER: {images}\n{images}\nWhat is on the sign? ASSISTANT:".split()


def test_the_suffix_follows_every_question(tokenizer: PreTrainedTokenizerBase) -> None:
    made = layout(tokenizer, suffix="Write a number.")
    for prompt in (made.generic, made.build("What is on the sign?", 1, 20)):
        assert tokenizer.decode(list(prompt.ids)).endswith("Write a number. ASSISTANT:")


@pytest.mark.parametrize(
    "question",
    ["<image>", "What is <image> on it?", "</s>", "a<s>b", "<pad> ?", "x<image><image>"],
)
def test_text_of_special_tokens_is_refused(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    with pytest.raises(ReservedTextError, match="which the model reserves"):
        layout(tokenizer).build(question, 1, 20)


def test_a_reserved_token_completed_by_the_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    template = PUBLISHED_TEMPLATE.replace("content['text'] + ' '", "content['text'] + '>'", 1)
    with pytest.raises(ReservedTextError, match="completes"):
        layout(tokenizer, template).build("What is </s", 1, 20)


@pytest.mark.parametrize(
    "question", ["<Image>", "< image >", "1 < 2 > 0", "{{ 7 * 7 }} {% raw %}", "ÄÖ 你好 🙂"]
)
def test_other_text_is_only_text(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    ids = layout(tokenizer).build(question, 1, 20).ids
    assert question in tokenizer.decode(list(ids))


@given(st.text(st.sampled_from("<>/ simageunkpd|{}%\n"), min_size=1, max_size=30))
def test_no_question_adds_an_image(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    image = tokenizer.convert_tokens_to_ids("<image>")
    try:
        ids = layout(tokenizer).build(question, 2, 20).ids
    except ReservedTextError:
        assert any(token in question for token in ("<image>", "<s>", "</s>", "<pad>"))
    else:
        assert ids.count(image) == 2 * TOKENS


def test_prompt_and_answer_must_fit_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    length = len(layout(tokenizer).build("What?", 2, 1).ids)
    exact = layout(tokenizer, context=length + 20)
    exact.build("What?", 2, 20)
    with pytest.raises(QuestionTooLongError, match=f"room for {length + 20}"):
        exact.build("What?", 2, 21)
    with pytest.raises(QuestionTooLongError, match="shorter question"):
        exact.build("What is on the sign?", 2, 20)


@pytest.mark.parametrize("question", ["", " ", "\n\t "])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(EmptyQuestionError):
        check_question(question)


def test_an_over_long_question_is_refused() -> None:
    check_question("x" * 2000)
    with pytest.raises(QuestionTooLongError, match="2001 characters, but at most 2000"):
        check_question("x" * 2001)
    with pytest.raises(QuestionTooLongError, match="at most 5"):
        check_question("what?!", 5)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(QuestionError, match="Unicode"):
        check_question("what \udcff?")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (QUESTION_FIRST_TEMPLATE, "before it"),
        ("{{ messages[0]['content'][-1]['text'] }}", "place 1 image"),
        ("<image>{{ messages[0]['content'][-1]['text'] }}", "place 2 image"),
        ("{{ messages[0]['content'] | length }}" + IMAGE_FIRST_TEMPLATE, "before it"),
    ],
)
def test_templates_that_cannot_share_a_prefix_are_refused(
    tokenizer: PreTrainedTokenizerBase, template: str, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        layout(tokenizer, template)
