"""Several servers behind one address, by Ray Serve: an application to import, each of whose replicas is a
server with an engine of its own.

    serve run secondlook.engine.serve.ray_app:app model=demo replicas=2

Both looks at a question carry one `x-session-id`, which Ray's consistent hashing sends to the same replica;
requests without one go to any. A replica that is gone leaves the others' sessions where they are, and its own
are lost: the edge asks those questions again.

Nothing of Ray is imported by the rest of the engine (extra `ray`), and nothing of the engine here before a
replica starts.
"""

# Without `from __future__ import annotations`: Ray reads the type of an application's argument as it stands.
import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from ray import serve

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import from_json
from secondlook.engine.models.rounding import Quantise
from secondlook.engine.opening import Backend
from secondlook.engine.serve.settings import ConnectionLimits, ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from secondlook.engine.opening import EngineOptions

__all__ = ["NAME", "Deployed", "app"]

NAME: Final = "secondlook"
"""Of application and deployment, in Ray's logs and status."""

_ROUTER: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"

_MOST_ONGOING: Final = 1000
"""Requests that Ray lets a replica have; a server of ours refuses before (429), and says why."""


_ENCODERS: Final = {"vision", "provider", "precision", "trust_plan", "rebuild"}
"""What is chosen of encoders, but their folder."""


class Deployed(BaseModel):
    """What is deployed; in a YAML file of Ray's, the application's `args`.

    Attributes:
        replicas: servers, each with an engine of its own.
        cpus, gpus: what Ray sets aside for each; without a GPU it sees none. As many threads compute.
        vision, encoder, provider, precision, trust_plan, rebuild: see
            `secondlook.engine.encoders.EncoderChoice`, where `encoder` is `folder`.
        policy: a file of `secondlook calibrate threshold`, in place of a threshold.
        retransmission_rate: a budget that moves each replica's threshold, see `BudgetSettings`.
        bytes_per_second: the same, of all replicas; each has its even share.
        server: each server's settings, as of `secondlook serve`; a key's limits count in each. Connections
            and TLS are Ray's. As JSON, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: PositiveInt = 2
    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    model: str = "demo"
    revision: str | None = None
    profile: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    vision: str = "torch"
    encoder: Path | None = None
    provider: str = "auto"
    precision: str = "auto"
    trust_plan: bool = False
    rebuild: bool = False
    backend: Backend = "own"
    tensor_parallel: PositiveInt = 1
    quantise: Quantise | None = None
    threshold: NonNegativeFloat | None = None
    policy: Path | None = None
    retransmission_rate: float | None = None
    bytes_per_second: float | None = None
    kv_cache_gb: PositiveFloat | None = None
    server: ServerSettings = ServerSettings()

    @field_validator("server", mode="before")
    @classmethod
    def _settings(cls, given: object) -> ServerSettings:
        """What a file of Ray's or its command line has, by the rules for JSON."""
        if not isinstance(given, ServerSettings):
            given = from_json(ServerSettings, given if isinstance(given, str) else json.dumps(given))
        if (given.connections, given.tls) != (ConnectionLimits(), None):
            raise SettingsError(
                "connections and tls are Ray's own here: leave them out of the server's settings"
            )
        return given

    def engine(self) -> "EngineOptions":
        """What each replica's engine is made of.

        Raises:
            PolicyFileError: the policy cannot be read.
            SettingsError: there is no such encoder or budget.
        """
        from secondlook.engine.encoders import EncoderChoice
        from secondlook.engine.method.budget import BudgetSettings
        from secondlook.engine.method.policy_file import read_policy
        from secondlook.engine.opening import EngineOptions

        if self.backend == "openai":
            raise SettingsError("--engine openai is for `secondlook serve --upstream URL`, not for replicas")
        return EngineOptions(
            model=self.model,
            dtype=self.dtype,
            device=self.device,
            threshold=self.threshold,
            calibrated=None if self.policy is None else read_policy(self.policy),
            budget=BudgetSettings.chosen(
                self.retransmission_rate, self.bytes_per_second and self.bytes_per_second / self.replicas
            ),
            kv_cache_gb=self.kv_cache_gb,
            encoder=EncoderChoice(folder=self.encoder, **self.model_dump(include=_ENCODERS)),
            revision=self.revision,
            profile=self.profile,
            backend=self.backend,
            tensor_parallel=self.tensor_parallel,
            quantise=self.quantise,
        )


class Replica:
    """One server: the application of `create_app`, whose lifespan Ray begins and ends."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from secondlook.engine.threads import configure_threads

        configure_threads()
        from secondlook.engine.opening import load_engine
        from secondlook.engine.serve.app import create_app

        served = create_app(load_engine(self._deployed.engine()), self._deployed.server)
        # What is there now stays: see `secondlook.engine.cli.serving`.
        gc.collect()
        gc.freeze()
        self._check_whole = served.state.service.check_whole
        return served

    async def check_health(self) -> None:
        """Ray starts a replica anew that raises here: also where processes of vLLM's have died."""
        await self._check_whole()


_DEPLOYMENT: Any = serve.deployment(name=NAME)(serve.ingress()(Replica))


def app(deployed: Deployed) -> serve.Application:
    """The application, for `serve run`, `serve deploy` and `serve.run`."""
    deployment = _DEPLOYMENT.options(
        num_replicas=deployed.replicas,
        ray_actor_options={"num_cpus": deployed.cpus, "num_gpus": deployed.gpus},
        max_ongoing_requests=_MOST_ONGOING,
        graceful_shutdown_timeout_s=deployed.server.grace_seconds,
        health_check_period_s=1.0,
        request_router_config={"request_router_class": _ROUTER},
    )
    return deployment.bind(deployed)
