"""vLLM started for the two looks: which version, with which settings, and for which models."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.encoders import EncoderChoice
from secondlook.engine.errors import UnsupportedModelError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import DType, load_model
from secondlook.engine.models.folders import find_folder
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.opening import EngineOptions, draws_bars, policy_and_budget
from secondlook.engine.threads import usable_cores

if TYPE_CHECKING:
    from secondlook.engine.on_vllm.engine import VllmEngine

__all__ = ["SERVED", "VERSION", "check_vllm", "load_vllm_engine"]

VERSION: Final = "0.32"
"""The minor version of vLLM whose insides `rows` knows."""

SERVED: Final = ("llava", "qwen2_5_vl")
"""Architectures whose answers and regions were compared with those of this package's engine."""

_SLOTS: Final = 64
_TEXT_TOKENS: Final = 512
_GIBIBYTE: Final = 2**30
_CPU_BYTES: Final = 2 * _GIBIBYTE  # of keys and values, as this package's engine takes
_CPU_BLOCK: Final = 32  # places; its kernels want a multiple of this, and prefixes are found by whole blocks


def load_vllm_engine(options: EngineOptions, *, compiled: bool = True) -> VllmEngine:
    """The engine that the options describe; vLLM's processes are its own.

    Args:
        compiled: whether vLLM compiles the model as it starts, which takes it a minute at first.

    Raises:
        SettingsError: vLLM is missing or of another version, or an option is of no use to it.
        UnsupportedModelError: an architecture that was not compared, or a prompt laid out otherwise.
        ModelError, PolicyFileError: see `secondlook.engine.opening.load_engine`.
    """
    platform = check_vllm()
    _check_options(options, platform)
    dtype: DType = options.dtype  # type: ignore[assignment]  # load_model refuses others
    found = {"revision": options.revision, "dtype": dtype, "profile": options.profile}
    bars = draws_bars(options.model)
    model = load_model(options.model, device=platform, progress=bars, weights=False, **found)  # type: ignore[arg-type]
    kind = model.module.config.model_type
    if kind not in SERVED:
        raise UnsupportedModelError(
            f"{options.model!r} is of model_type {kind}, and --engine vllm serves {' and '.join(SERVED)}; "
            "use --engine own"
        )
    exact = str(model.dtype).removeprefix("torch.")

    def digest() -> str:
        """Of the weights, which are read for that alone."""
        found["dtype"] = exact
        # A CPU takes no weights of few bits beside float16.
        device = "cpu" if model.quantised is None else platform
        return load_model(options.model, device=device, **found).digest()  # type: ignore[arg-type]

    policy, budget = policy_and_budget(options, model, digest)
    capacity = min(model.context, sum(model.most_visual_tokens) + _TEXT_TOKENS)
    with _environment(platform, options.tensor_parallel):
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from secondlook.engine.on_vllm.engine import VllmEngine

        arguments = EngineArgs(
            model=str(find_folder(options.model, options.revision)),
            dtype=exact,
            max_model_len=capacity,
            max_num_seqs=_SLOTS,
            enforce_eager=not compiled,
            tensor_parallel_size=options.tensor_parallel,
            limit_mm_per_prompt={"image": 2},
            generation_config="vllm",  # nothing but what is asked for
            seed=0,
            enable_prefix_caching=True,
            max_logprobs=-1,
            logprobs_mode="processed_logprobs",  # where an end is no choice, it has no probability
            worker_extension_cls="secondlook.engine.on_vllm.rows.RowExtension",
            disable_log_stats=True,
            **_of_platform(platform, options.kv_cache_gb),
        )
        llm = LLMEngine.from_engine_args(arguments)
    engine = VllmEngine(model, llm, capacity, _SLOTS, policy, budget)
    try:
        _install(llm, model)
        _check_prompts(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def check_vllm() -> str:
    """Whether vLLM is there, in the version that is known; returns "cpu" or "cuda", what it is built for.

    Raises:
        SettingsError: it is not.
    """
    needed = f"--engine vllm needs vLLM {VERSION} in this Python's environment (docs/engines.md says how)"
    if find_spec("vllm") is None:
        raise SettingsError(f"{needed}; there is none")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import vllm
    from vllm.platforms import current_platform

    if not vllm.__version__.startswith(f"{VERSION}."):
        raise SettingsError(f"{needed}; there is {vllm.__version__}, and its insides change with each")
    platform: str = current_platform.device_type
    if platform not in ("cpu", "cuda"):
        raise SettingsError(f"{needed}, built for CPUs or CUDA; there is one for {platform or 'nothing'}")
    return platform


_QUIET: Final = {
    "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers that it runs here
    "VLLM_CONFIGURE_LOGGING": "0",  # what is logged is the command's to say
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # `rows` knows the first
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # threads run here already
}


def _check_options(options: EngineOptions, platform: str) -> None:
    if options.device not in ("auto", platform):
        raise SettingsError(
            f"vLLM computes on what it is built for, here {platform}, and not on {options.device!r}: leave "
            "--device out; CUDA_VISIBLE_DEVICES says which GPUs it sees"
        )
    if options.encoder not in (None, EncoderChoice()):
        raise SettingsError("vLLM encodes pictures itself: leave --vision and --encoder out")
    if options.quantise is not None:
        raise SettingsError("vLLM computes with weights as the checkpoint has them: leave --quantise out")


def _of_platform(platform: str, gigabytes: float | None) -> dict[str, Any]:
    """Settings for keys and values, and where vLLM would attend in captured graphs, which read no rows."""
    memory = None if gigabytes is None else int(gigabytes * _GIBIBYTE)
    if platform == "cpu":
        return {"kv_cache_memory_bytes": memory or _CPU_BYTES, "block_size": _CPU_BLOCK}
    return {"kv_cache_memory_bytes": memory, "compilation_config": {"cudagraph_mode": "PIECEWISE"}}


@contextmanager
def _environment(platform: str, workers: int) -> Iterator[None]:
    """What vLLM's processes are started with on CPUs: a thread on each core that may be used, which workers
    share, and the OpenMP that came with it, before any other.

    Where OMP_NUM_THREADS, of each worker, makes fewer threads, as Ray has it for a replica, they are left
    unbound: the next server would bind its own to the same first cores.
    """
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "VLLM_CPU_OMP_THREADS_BIND")}
    if platform == "cpu":
        cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
        shares = [",".join(map(str, cores[rank::workers] or cores)) for rank in range(workers)]
        threads = os.environ.get("OMP_NUM_THREADS", "")
        fewer = threads.isdigit() and int(threads) * workers < len(cores)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind" if fewer else "|".join(shares))
        preloaded = [before["LD_PRELOAD"], *map(str, Path(sys.prefix).glob("lib/libiomp5.so"))]
        os.environ["LD_PRELOAD"] = ":".join(filter(None, preloaded))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _install(llm: Any, model: VisionLanguageModel) -> None:
    """Have the workers read attention where the model's localisation says."""
    weights = {layer: rows.tolist() for layer, rows in model.probe_weights().items()}
    there = set[int]().union(*llm.collective_rpc("install_rows", args=(weights,)))
    if missing := sorted(weights.keys() - there):
        raise UnsupportedModelError(f"vLLM's {model.name!r} has no attention layer {missing[0]} to read")


def _check_prompts(engine: VllmEngine) -> None:
    """Both looks at a blank picture, so that a model whose prompts or passes vLLM has otherwise is refused
    before anybody asks."""
    original = Size(1024, 1024)
    views = engine.model.global_view, engine.model.local_view
    sizes = [sent_size(view, original) for view in views]
    blanks = [Image.new("RGB", (size.width, size.height)) for size in sizes]
    options = AnswerOptions(second_look="always", max_new_tokens=2)
    first = engine.first_look(blanks[0], GENERIC_QUESTION, original, options)
    if first.pending is not None:
        engine.second_look(first.pending, blanks[1].resize((1, 1)))
