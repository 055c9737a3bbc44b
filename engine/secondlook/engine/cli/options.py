"""The options that several commands have, each said once, and what some of them mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import typer

from secondlook.engine.models.rounding import Quantise
from secondlook.engine.opening import Backend

if TYPE_CHECKING:
    from secondlook.engine.method.budget import BudgetSettings
    from secondlook.engine.method.policy_file import PolicyFile
    from secondlook.engine.opening import EngineOptions

__all__ = [
    "LIMITS",
    "BudgetedPolicy",
    "CacheOption",
    "DTypeOption",
    "DeviceOption",
    "ModelChoice",
    "ModelOption",
    "PolicyChoice",
    "PrecisionOption",
    "ProfileOption",
    "ProviderOption",
    "QuantiseOption",
    "RebuildOption",
    "RevisionOption",
    "ThresholdOption",
    "TrustOption",
    "VerboseOption",
    "chosen_policy",
    "with_groups",
]

MODEL: Final = "Model"
ENCODER: Final = "Encoder"
POLICY: Final = "Policy"
LIMITS: Final = "Limits"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="demo or demo-qwen (the embedded models), a folder, or a hub name.",
        rich_help_panel=MODEL,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a hub model; by default its main branch.",
        rich_help_panel=MODEL,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Where the model looks: a file like localisation.json, or a name such as qwen3-vl-4b-text or "
        "llava-1.5-7b (published heads, not tried here on real weights); by default as its folder says.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
DTypeOption = Annotated[
    str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)
]
QuantiseOption = Annotated[
    Quantise | None,
    typer.Option(
        "--quantise",
        help="Round the weights of the decoder's linear layers (and with int8-dynamic many rows that they "
        "take), for less memory and faster answers on a CPU; compare what becomes of answers and doubts: "
        "secondlook verify-bits.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=MODEL)
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--engine",
        help="What computes: own, vllm where that is installed, or openai: the server of --upstream "
        "(docs/engines.md).",
        rich_help_panel=MODEL,
    ),
]
TensorParallelOption = Annotated[
    int,
    typer.Option(
        "--tensor-parallel",
        min=1,
        help="GPUs that one model is spread over; more than one with --engine vllm alone.",
        rich_help_panel=MODEL,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        help="Look twice from this uncertainty on; by default the model's own.",
        rich_help_panel=POLICY,
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        help="Policy file of secondlook calibrate threshold, for this model; instead of --threshold.",
        rich_help_panel=POLICY,
    ),
]
CacheOption = Annotated[
    float | None,
    typer.Option(
        "--kv-cache-gb",
        help="GiB for keys and values, of answers in progress and kept for second looks; by default 2 on a "
        "CPU, and half of what is free on a GPU.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
VisionOption = Annotated[
    Literal["torch", "onnx", "openvino", "tensorrt", "auto"],
    typer.Option(
        "--vision",
        help="What encodes pictures; auto measures once what is the fastest here. All but torch need "
        "--encoder.",
        rich_help_panel=ENCODER,
    ),
]
EncoderOption = Annotated[
    Path | None,
    typer.Option(
        "--encoder",
        help="Folder of this model's exported encoder (secondlook export), or of a plan.",
        rich_help_panel=ENCODER,
    ),
]
ProviderOption = Annotated[
    Literal["auto", "tensorrt"],
    typer.Option(
        "--provider",
        help="What computes inside ONNX Runtime; auto is the CPU, or CUDA.",
        rich_help_panel=ENCODER,
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(
        "--precision",
        help="What OpenVINO computes products in; auto is --dtype's, where the processor has such products.",
        rich_help_panel=ENCODER,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-plan",
        help="Open a TensorRT plan from outside this user's cache. A plan is a program: opening it can "
        "execute anything in it, so say this only of one whose builder you know.",
        rich_help_panel=ENCODER,
    ),
]
RebuildOption = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="Build a TensorRT plan that does not run here again, from the ONNX folder beside it; "
        "takes minutes.",
        rich_help_panel=ENCODER,
    ),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, help="Say more on stderr; -vv for debugging.", show_default=False
    ),
]


def chosen_policy(policy: Path | None, threshold: float | None) -> PolicyFile | None:
    """What the file of `--policy` holds; to be read before the long loading of a model.

    Raises:
        PolicyFileError: it cannot be read.
        typer.BadParameter: there is a threshold besides.
    """
    if policy is None:
        return None
    if threshold is not None:
        raise typer.BadParameter(
            "a policy file has a threshold of its own: leave --threshold or --policy out"
        )
    from secondlook.engine.method.policy_file import read_policy

    return read_policy(policy)


@dataclass(frozen=True)
class PolicyChoice:
    """When to look twice."""

    threshold: ThresholdOption = None
    policy: PolicyOption = None


@dataclass(frozen=True)
class BudgetedPolicy(PolicyChoice):
    """When to look twice, and what that may cost."""

    retransmission_rate: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that this share of the questions is looked at twice.",
            rich_help_panel=POLICY,
        ),
    ] = None
    bytes_per_second: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that local images have at most so many bytes a second.",
            rich_help_panel=POLICY,
        ),
    ] = None


@dataclass(frozen=True)
class ModelChoice:
    """Which model, where, and what encodes its pictures."""

    model: ModelOption = "demo"
    revision: RevisionOption = None
    profile: ProfileOption = None
    dtype: DTypeOption = "auto"
    device: DeviceOption = "auto"
    backend: BackendOption = "own"
    tensor_parallel: TensorParallelOption = 1
    quantise: QuantiseOption = None
    vision: VisionOption = "torch"
    encoder: EncoderOption = None
    provider: ProviderOption = "auto"
    trust_plan: TrustOption = False
    rebuild: RebuildOption = False
    precision: PrecisionOption = "auto"

    def options(
        self,
        kv_cache_gb: float | None = None,
        threshold: float | None = None,
        calibrated: PolicyFile | None = None,
        budget: BudgetSettings | None = None,
    ) -> EngineOptions:
        """Of its engine, with memory and a policy."""
        from secondlook.engine.encoders import EncoderChoice
        from secondlook.engine.opening import EngineOptions

        return EngineOptions(
            model=self.model,
            dtype=self.dtype,
            device=self.device,
            threshold=threshold,
            calibrated=calibrated,
            budget=budget,
            kv_cache_gb=kv_cache_gb,
            encoder=EncoderChoice(
                self.vision, self.encoder, self.provider, self.trust_plan, self.rebuild, self.precision
            ),
            revision=self.revision,
            profile=self.profile,
            backend=self.backend,
            tensor_parallel=self.tensor_parallel,
            quantise=self.quantise,
        )


def with_groups(function: Callable[..., None], **groups: type[Any]) -> Callable[..., None]:
    """A command of typer's: a function's own options, and those of dataclasses, which it gets as parameters.

    Args:
        groups: the dataclasses, by the parameters that take them.
    """
    parameters, taken = list[Parameter](), dict[str, list[str]]()
    for own in signature(function, eval_str=True).parameters.values():
        shared = [own]
        if own.name in groups:
            options = groups[own.name]
            hints = get_type_hints(options, include_extras=True)
            shared = [
                each.replace(annotation=hints[each.name]) for each in signature(options).parameters.values()
            ]
            taken[own.name] = [each.name for each in shared]
        parameters += [each.replace(kind=Parameter.KEYWORD_ONLY) for each in shared]

    def command(**values: Any) -> None:
        made = {
            name: groups[name](**{each: values.pop(each) for each in names}) for name, names in taken.items()
        }
        function(**values, **made)

    command.__name__, command.__doc__ = function.__name__.strip("_"), function.__doc__
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
