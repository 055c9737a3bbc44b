"""Looking twice with the model of another server: its logprobs tell the doubt, and it is asked for the box.

The looks are HTTP requests that are under way at once, on an event loop that runs while `round` does: nothing
is computed here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
from PIL import Image

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, ModelCard
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
from secondlook.engine.method.decision import Decider
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.prompts import check_question
from secondlook.engine.progress import InProgress
from secondlook.engine.results import FinalAnswer, FirstLook, LocalImage, Look, Pending, Question, Usage
from secondlook.engine.sent import check_sent
from secondlook.engine.upstream.asked import AskedQuestion, Bodies, CloserImage, data_url
from secondlook.engine.upstream.client import UpstreamClient
from secondlook.engine.upstream.looks import Looks
from secondlook.engine.upstream.probing import found_model
from secondlook.engine.upstream.rounds import Rounds
from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["UpstreamEngine", "open_upstream"]

_log = logging.getLogger(__name__)

_THRESHOLD: Final = 0.5
"""Of doubt, in nats: a plain starting point for a model that nobody calibrated."""


class UpstreamEngine:
    """Two looks with an upstream's model; see `secondlook.engine.serve.protocol.TwoLookEngine`.

    It is asked a question when this is made, so that what it lacks is told then; not where a loop runs.

    Args:
        settings: which, and how it is asked.
        policy: defaults for what a request leaves out.
        budget: moves the threshold; see `secondlook.engine.method.decision`.
        transport: in place of the network.

    Raises:
        SettingsError: the settings, or that there are several models and none is named.
        UpstreamError: it cannot be reached, takes no picture, or gives no logprobs.
    """

    context: Final = None

    def __init__(
        self,
        settings: UpstreamSettings,
        policy: Policy | None = None,
        budget: BudgetedThreshold | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._policy = Policy(_THRESHOLD) if policy is None else policy
        self._budget = budget
        view, local_view = settings.global_view, settings.local_view
        self._decider = Decider(self._policy, view, budget, local_view=local_view)
        self._client = UpstreamClient(settings, transport)
        self._rounds = Rounds(settings.slots)
        try:
            self._found = self._rounds.run(found_model(self._client, settings))
            self._check_measure(self._policy)
            self._looks = Looks(self._client, Bodies(settings, self._found.model), self._decider)
        except BaseException:
            self.close()
            raise

    @property
    def outside(self) -> UpstreamEngine:
        """The upstream, as `secondlook.engine.serve.protocol.Outside`."""
        return self

    @property
    def name(self) -> str:
        """The upstream's address, fit to be shown."""
        return self._client.name

    @property
    def card(self) -> ModelCard:
        """What an edge must know to prepare pictures: the settings' views."""
        return ModelCard(
            name=self._found.model,
            global_view=self._settings.global_view,
            local_view=self._settings.local_view,
            crop_size=self._settings.crop_size,
            threshold=self._decider.threshold,
        )

    @property
    def slots(self) -> int:
        """Looks asked about at once."""
        return self._settings.slots

    @property
    def usage(self) -> Usage:
        """Requests under way, and tokens of prompts as the upstream tells them."""
        used = min(len(self._rounds), self.slots)
        return Usage(self.slots, used, 0, self._looks.prompt_tokens, self._looks.cached_tokens, 0)

    @property
    def max_question_characters(self) -> int:
        """Longest question taken."""
        return self._settings.max_question_characters

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
        wanted: TokenOptions = ONLY_TOKENS,
        jpeg: bytes | None = None,
    ) -> Question:
        """Check a question, and write its picture as it is sent on: `jpeg` itself, where it came as one.

        Raises:
            QuestionError: the question is empty or too long.
            SettingsError: the options contradict the policy, or ask for a measure that is not known.
            PictureMismatchError: the image is larger than an edge sends of such an original.
            GeometryError: the original has no size under the view, or the options' region is empty or reaches
                outside it.
        """
        options = AnswerOptions() if options is None else options
        check_question(question, self.max_question_characters)
        policy = self._policy.with_options(options)
        self._check_measure(policy)
        check_sent(global_image, self._settings.global_view, original, "global image")
        return AskedQuestion(
            question,
            original,
            options,
            policy,
            options.max_new_tokens or self._settings.max_new_tokens,
            client,
            wanted,
            url=data_url(global_image, jpeg),
            sent=Size(*global_image.size),
        )

    def prepare_local(
        self, pending: Pending, local_image: Image.Image, *, jpeg: bytes | None = None
    ) -> LocalImage:
        """A region's picture as it is sent on.

        Raises:
            PictureMismatchError: the image is larger than an edge sends of such a region.
        """
        check_sent(local_image, self._settings.local_view, pending.region.size, "local image")
        return CloserImage(data_url(local_image, jpeg))

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as the upstream told it."""
        return self._looks.vocabulary.texts(token_ids)

    def start_first_look(
        self,
        question: Question,
        *,
        on_region: Callable[[FirstLook], None] | None = None,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> InProgress[FirstLook]:
        """See `secondlook.engine.two_looks.TwoLooks.start_first_look`."""
        assert isinstance(question, AskedQuestion), "a question is asked of the engine that prepared it"
        return self._rounds.start(lambda stages: self._looks.first(question, on_region, on_tokens, stages))

    def start_second_look(
        self,
        pending: Pending,
        local_image: LocalImage,
        *,
        after: InProgress[FirstLook] | None = None,
        sent_bytes: int = 0,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> InProgress[FinalAnswer]:
        """See `secondlook.engine.two_looks.TwoLooks.start_second_look`."""
        assert isinstance(local_image, CloserImage), "it was prepared by this engine"
        if self._budget is not None and pending.counted and sent_bytes:
            self._budget.received(sent_bytes)
        return self._rounds.start(
            lambda stages: self._looks.second(pending, local_image, after, on_tokens, stages)
        )

    def round(self) -> bool:
        """Wait until a look is over, or `wake` is called; False when there is none."""
        return self._rounds.round()

    def cancel(self, request: InProgress[Any]) -> None:
        """End a look that nobody waits for; the next round closes its connection."""
        self._rounds.cancel(request)

    def wake(self) -> None:
        """Have `round` return. May be called on any thread."""
        self._rounds.wake()

    def check(self) -> None:
        """Raise UpstreamError if the upstream is away. Blocks; on any thread."""
        self._client.check()

    def close(self) -> None:
        """Close all connections; looks in progress end."""
        self._rounds.close(self._client.aclose())

    def _check_measure(self, policy: Policy) -> None:
        if policy.gate is not None:
            raise SettingsError(
                "a gate reads Shannon entropy too, which an upstream does not tell: leave it out"
            )
        if policy.measure == "shannon_entropy":
            raise SettingsError(
                "an upstream tells the likeliest tokens alone, of which Shannon entropy does not follow: "
                "measure min_entropy or margin, which are exact"
            )
        if policy.measure == "margin" and not self._found.runner_up:
            raise SettingsError(
                f"the upstream {self.name} tells no token beside the one chosen, and so no margin: measure "
                "min_entropy"
            )


def open_upstream(
    settings: UpstreamSettings, threshold: float | None = None, budget: BudgetSettings | None = None
) -> UpstreamEngine:
    """An engine on an upstream; raises as that does.

    Args:
        threshold: of the policy; None: a plain starting point.
        budget: what moves the threshold; None keeps it.
    """
    policy, tracked = Policy(_THRESHOLD if threshold is None else threshold), None
    if budget is not None:
        tracked = BudgetedThreshold.of_view(budget, policy.threshold, settings.local_view, settings.crop_size)
    elif threshold is None:
        _log.warning(
            "the uncertainty threshold of an upstream's model is not calibrated: %g nats is a starting "
            "point, and --threshold another",
            _THRESHOLD,
        )
    return UpstreamEngine(settings, policy, tracked)
