"""A question's way to the inference thread: checked, tokenised, and its pictures brought to the model's size.

All of it may happen on any thread, and happens once: what the looks need of the question afterwards, they
have from here.
"""

from __future__ import annotations

from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, View
from secondlook.engine.asked import TokenisedImage, TokenisedQuestion, own_question
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.errors import QuestionTooLongError
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import GENERIC_QUESTION, check_question
from secondlook.engine.results import Pending
from secondlook.engine.sent import check_sent

__all__ = ["Preparer", "check_room", "text_rows"]


class Preparer:
    """Prepares questions for one model.

    Args:
        policy: what a request leaves out.
        room: rows that a prompt and its answer may have.
        max_characters: longest question taken.

    Attributes:
        generic: the generic question's tokens.
    """

    def __init__(self, model: VisionLanguageModel, policy: Policy, room: int, max_characters: int) -> None:
        self._model = model
        self._policy = policy
        self._room = room
        self._max_characters = max_characters
        self.generic = model.tokens(GENERIC_QUESTION)

    def question(
        self,
        image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions,
        client: str,
        wanted: TokenOptions = ONLY_TOKENS,
    ) -> TokenisedQuestion:
        """See `Engine.prepare`."""
        model = self._model
        check_question(question, self._max_characters)
        policy = self._policy.with_options(options)
        limit = options.max_new_tokens or model.settings.max_new_tokens
        picture = self._picture(image, model.global_view, original, "global image")
        tokens = model.tokens(question)
        prompt = model.prompt(tokens, (picture.grid,))
        rows = len(prompt.ids)
        if options.second_look != "never":  # then with the largest local image that there may be
            both = model.prompt(tokens, (picture.grid, picture.grid))
            start, stop = both.spans[1]
            rows = len(both.ids) - (stop - start) + model.most_visual_tokens[1]
        if wanted.bounded:
            limit = max(1, min(limit, self._room - rows))
        check_room(rows, limit, self._room)
        generic = model.prompt(self.generic, (picture.grid,))
        return TokenisedQuestion(
            text=question,
            original=original,
            options=options,
            policy=policy,
            max_new_tokens=limit,
            client=client,
            wanted=wanted,
            tokens=tokens,
            picture=picture,
            prompt=prompt,
            generic=generic,
        )

    def local(self, pending: Pending, image: Image.Image) -> TokenisedImage:
        """See `Engine.prepare_local`."""
        asked = own_question(pending.question)
        picture = self._picture(image, self._model.local_view, pending.region.size, "local image")
        prompt = self._model.prompt(asked.tokens, (asked.picture.grid, picture.grid))
        check_room(len(prompt.ids), asked.max_new_tokens, self._room)  # holds for what `question` let in
        return TokenisedImage(picture, prompt)

    def _picture(self, image: Image.Image, view: View, shown: Size, what: str) -> Picture:
        check_sent(image, view, shown, what)
        return self._model.picture(image, view, shown)


def text_rows(model: VisionLanguageModel, question: str) -> int:
    """Rows of a question's prompts beside those of pictures, and of its longest answer.

    Raises:
        QuestionTooLongError: beside the largest pictures there is no room for them.
    """
    limit = model.settings.max_new_tokens
    prompt = model.prompt(model.tokens(question), ((1, 1), (1, 1)))
    rows = len(prompt.ids) - prompt.visual_tokens
    check_room(rows + sum(model.most_visual_tokens), limit, model.context)
    return rows + limit


def check_room(rows: int, limit: int, room: int) -> None:
    """Raise QuestionTooLongError where rows of a prompt and `limit` tokens of an answer have no room."""
    if rows + limit > room:
        raise QuestionTooLongError(
            f"the prompt has {rows} tokens and the answer may have {limit}, but there is room for {room}; "
            "ask a shorter question, or for fewer tokens (max_new_tokens)"
        )
