"""Prompts: what a question may be, and that it cannot pose as anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
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
    InvalidModelError,
    QuestionError,
    QuestionTooLongError,
    ReservedTextError,
    UnsupportedModelError,
)
from secondlook.engine.models.prompts import GENERIC_QUESTION, ChatPrompts, check_question
from secondlook.engine.models.rendering import Frame, frame

TOKENS = GRID * GRID


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(write_checkpoint(tmp_path_factory.mktemp("tokenizer"), Variant()))


def prompts(
    tokenizer: PreTrainedTokenizerBase, template: str = PUBLISHED_TEMPLATE, suffix: str = ""
) -> ChatPrompts:
    image = tokenizer.convert_tokens_to_ids("<image>")
    return ChatPrompts(tokenizer, chat_template=template, placeholder=image, question_suffix=suffix)


def ids(
    made: ChatPrompts, question: str, lengths: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    return made.ids(made.tokens(question), lengths)


@pytest.mark.parametrize("template", [PUBLISHED_TEMPLATE, IMAGE_FIRST_TEMPLATE])
@pytest.mark.parametrize("lengths", [(TOKENS,), (TOKENS, TOKENS), (3, 7)])
def test_every_prompt_begins_alike_through_the_global_image(
    tokenizer: PreTrainedTokenizerBase, template: str, lengths: tuple[int, ...]
) -> None:
    made = prompts(tokenizer, template)
    image = tokenizer.convert_tokens_to_ids("<image>")
    both, spans = ids(made, "What is on the sign?", lengths)
    generic, (span,) = ids(made, GENERIC_QUESTION, lengths[:1])
    assert spans[0] == span
    assert both[: span[1]] == generic[: span[1]]
    assert tuple(stop - start for start, stop in spans) == lengths
    assert both.count(image) == sum(lengths)
    assert both.count(tokenizer.bos_token_id) == 1
    for start, stop in spans:
        assert set(both[start:stop]) == {image}


def test_a_question_is_tokenised_once_for_pictures_of_any_size(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rendered = prompts(tokenizer), list[int]()
    text = Frame.text
    monkeypatch.setattr(Frame, "text", lambda *asked: (rendered.append(1), text(*asked))[1])
    question = made.tokens("What is on the sign?")
    for lengths in ((4,), (9,), (4, 2), (9, 5), (4,)):
        spans = made.ids(question, lengths)[1]
        assert tuple(stop - start for start, stop in spans) == lengths
    assert len(rendered) == 2  # with one image and with two


def test_the_published_text(tokenizer: PreTrainedTokenizerBase) -> None:
    both, _ = ids(prompts(tokenizer), "What is on the sign?", (TOKENS, TOKENS))
    text = tokenizer.decode([i for i in both if i != tokenizer.bos_token_id])
    images = "<image>" * TOKENS
    assert text.split() == f"USER: {images}\n{images}\nWhat is on the sign? ASSISTANT:".split()


def test_the_suffix_follows_every_question(tokenizer: PreTrainedTokenizerBase) -> None:
    made = prompts(tokenizer, suffix="Write a number.")
    for question in (GENERIC_QUESTION, "What is on the sign?"):
        assert tokenizer.decode(list(ids(made, question, (1,))[0])).endswith("Write a number. ASSISTANT:")


@pytest.mark.parametrize(
    "template",
    [PUBLISHED_TEMPLATE, IMAGE_FIRST_TEMPLATE, PUBLISHED_TEMPLATE.replace("'] + ' '", "'] | trim")],
)
@pytest.mark.parametrize("question", ["Why?", "  {{ 1 }}\n\"<é>\" & 'so' \n"])
def test_a_prompt_is_what_the_template_writes(
    tokenizer: PreTrainedTokenizerBase, template: str, question: str
) -> None:
    found = frame(template, {"bos_token": "<s>"})
    for images in (1, 2):
        content: list[Any] = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
        expected: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
        assert found.text(question, images) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['role'", "TemplateSyntaxError: unexpected end of template"),
        pytest.param(
            "{{ 'USER: ' + messages[0]['content'] }}",
            "TypeError: can only concatenate str",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "{{ raise_exception('text only, please') }}", "text only, please", marks=pytest.mark.slow
        ),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        pytest.param("{% include '/etc/hostname' %}", "no loader", marks=pytest.mark.slow),
        ("{{ messages[0]['content'][-1]['text'] | upper }}", "write the question once, as it is"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "took more than 2",
        ),
        ("{{ 'x' * 10 ** 12 }}", "too much memory"),
        ("{{ 'x' * 10 ** 6 }}", "more than 100000 characters"),
    ],
)
def test_templates_run_within_bounds(template: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match="the chat template") as caught:
        frame(template, {})
    assert message in str(caught.value)


def test_tokens_beyond_the_embedding_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    image = tokenizer.convert_tokens_to_ids("<image>")
    # What is beyond is padding, which no prompt has.
    ChatPrompts(tokenizer, chat_template=PUBLISHED_TEMPLATE, placeholder=image, vocabulary=image + 1)
    with pytest.raises(InvalidModelError, match=f"token {image} .'<image>'., but the embedding has only"):
        ChatPrompts(tokenizer, chat_template=PUBLISHED_TEMPLATE, placeholder=image, vocabulary=image)


@pytest.mark.parametrize(
    "question",
    ["<image>", "What is <image> on it?", "</s>", "a<s>b", "<pad> ?", "x<image><image>"],
)
def test_text_of_special_tokens_is_refused(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    with pytest.raises(ReservedTextError, match="which the model reserves"):
        prompts(tokenizer).tokens(question)


def test_a_reserved_token_completed_by_the_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    template = PUBLISHED_TEMPLATE.replace("content['text'] + ' '", "content['text'] + '>'", 1)
    with pytest.raises(ReservedTextError, match="completes"):
        prompts(tokenizer, template).tokens("What is </s")


@pytest.mark.parametrize(
    "question", ["<Image>", "< image >", "1 < 2 > 0", "{{ 7 * 7 }} {% raw %}", "ÄÖ 你好 🙂"]
)
def test_other_text_is_only_text(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    for tokens in (prompts(tokenizer).tokens(question).one, prompts(tokenizer).tokens(question).two):
        assert question in tokenizer.decode(list(tokens))


@settings(deadline=None)
@given(st.text(st.sampled_from("<>/ simageunkpd|{}%\n"), min_size=1, max_size=30))
def test_no_question_adds_an_image(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    image = tokenizer.convert_tokens_to_ids("<image>")
    try:
        both = prompts(tokenizer).tokens(question).two
    except ReservedTextError:
        assert any(token in question for token in ("<image>", "<s>", "</s>", "<pad>"))
    else:
        assert both.count(image) == 2


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
        prompts(tokenizer, template)
