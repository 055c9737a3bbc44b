"""The engine that a command's options describe, and what is shown while it is loaded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from secondlook.engine.embedded import EMBEDDED

if TYPE_CHECKING:
    from secondlook.engine.encoders import EncoderChoice
    from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
    from secondlook.engine.method.policy import Policy
    from secondlook.engine.method.policy_file import PolicyFile
    from secondlook.engine.models.base import VisionLanguageModel
    from secondlook.engine.models.checkpoint import DType
    from secondlook.engine.models.rounding import Quantise
    from secondlook.engine.two_looks import TwoLooks

__all__ = ["Backend", "EngineOptions", "draws_bars", "load_engine", "loading_status", "policy_and_budget"]

_log = logging.getLogger(__name__)

Backend = Literal["own", "vllm", "openai"]
"""What computes: this package's engine, vLLM (`secondlook.engine.on_vllm`), or another server of OpenAI's
interface (`secondlook.engine.upstream`)."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is made of.

    Attributes:
        model, dtype, device, revision: see `secondlook.engine.models.checkpoint.load_model`.
        threshold: of the policy; None takes the model's own.
        calibrated: a policy from a file, for this model; instead of a threshold.
        budget: what moves the threshold; None keeps it.
        kv_cache_gb: GiB of keys and values; None takes the default.
        encoder: what encodes pictures; None is the model's own modules in torch.
        profile: where the model looks; None: as its folder says.
        backend: what computes.
        tensor_parallel: GPUs that one model is spread over, by vLLM.
        quantise: bits that weights are rounded to; None: as they are stored.
    """

    model: str = "demo"
    dtype: str = "auto"
    device: str = "auto"
    threshold: float | None = None
    calibrated: PolicyFile | None = None
    budget: BudgetSettings | None = None
    kv_cache_gb: float | None = None
    encoder: EncoderChoice | None = None
    revision: str | None = None
    profile: str | None = None
    backend: Backend = "own"
    tensor_parallel: int = 1
    quantise: Quantise | None = None


def load_engine(options: EngineOptions) -> TwoLooks:
    """The engine that the options describe.

    Raises:
        ModelError, SettingsError: see `secondlook.engine.models.checkpoint.load_model`, and
            `secondlook.engine.encoders.with_vision`.
        PolicyFileError: the policy is for another model.
    """
    from secondlook.edge.errors import SettingsError
    from secondlook.engine.decode.cache import CacheSettings
    from secondlook.engine.encoders import with_vision
    from secondlook.engine.engine import Engine
    from secondlook.engine.models.checkpoint import load_model

    if options.backend == "openai":
        raise SettingsError("--engine openai is for `secondlook serve --upstream URL`")
    if options.backend == "vllm":
        from secondlook.engine.on_vllm.opening import load_vllm_engine

        return load_vllm_engine(options)
    if options.tensor_parallel > 1:
        raise SettingsError("the engine of this package computes on one GPU: leave --tensor-parallel out")
    dtype: DType = options.dtype  # type: ignore[assignment]  # load_model refuses others, naming the choices
    model = load_model(
        options.model,
        revision=options.revision,
        dtype=dtype,
        device=options.device,
        progress=draws_bars(options.model),
        profile=options.profile,
        quantise=options.quantise,
    )
    policy, budget = policy_and_budget(options, model, lambda: model.digest())
    if options.encoder is not None:  # after all that can be refused at once, for it may build a plan
        model = with_vision(model, options.encoder)
    return Engine(model, policy, cache=CacheSettings(options.kv_cache_gb), budget=budget)


def policy_and_budget(
    options: EngineOptions, model: VisionLanguageModel, digest: Callable[[], str]
) -> tuple[Policy | None, BudgetedThreshold | None]:
    """When a model looks twice, as the options say.

    Args:
        digest: of the model's weights.

    Raises:
        PolicyFileError: the policy is for another model.
    """
    from secondlook.engine.method.budget import BudgetedThreshold
    from secondlook.engine.method.policy import Policy

    policy = None if options.threshold is None else Policy(options.threshold)
    if options.calibrated is not None:
        where = model.localisation.to_json()
        options.calibrated.check_model(model.name, digest(), model.precision, where)
        policy = options.calibrated.policy
    budget = None
    if options.budget is not None:
        start = model.settings.default_threshold if policy is None else policy.threshold
        crop_size = model.localisation.crop_size
        budget = BudgetedThreshold.of_view(options.budget, start, model.local_view, crop_size)
    elif policy is None and model.settings.threshold is None:
        _log.warning(
            "the uncertainty threshold of %s is not calibrated: %g nats is a starting point. To choose one: "
            "`secondlook eval DATASET --model %s --log LOG`, and `secondlook calibrate threshold LOG`",
            model.name,
            model.settings.default_threshold,
            options.model,
        )
    return policy, budget


def draws_bars(model: str) -> bool:
    """Whether loading draws bars, the hub's and transformers': on a terminal, for all but embedded models.

    Those are there in a moment.
    """
    return model not in EMBEDDED and sys.stderr.isatty()


@contextmanager
def loading_status(model: str) -> Iterator[Callable[[], None]]:
    """A spinner for the time of loading, or nothing where bars are drawn; yields what ends it early."""
    if draws_bars(model):  # not even a silent spinner: it would keep the bars to itself
        yield lambda: None
        return
    with Console(stderr=True).status(f"loading {model} ...") as status:
        yield status.stop
