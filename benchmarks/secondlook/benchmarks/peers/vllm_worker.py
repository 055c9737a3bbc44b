"""The process of vLLM: a script for its own environment, with nothing of ours. By itself it does nothing.

    python vllm_worker.py FOLDER DTYPE

It does the tasks of the other processes (`worker`), of plain values: token ids with one for each picture,
and pictures as arrays [H, W, 3] uint8 that need no resizing.
"""

import asyncio
import os
import pickle
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import vllm
from PIL import Image
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM


class Vllm:
    """Compiled, as its own server has it, with its cache of prefixes. Times are in milliseconds."""

    def __init__(self, folder: str, dtype: str) -> None:
        arguments = AsyncEngineArgs(
            model=folder,
            dtype=dtype,
            limit_mm_per_prompt={"image": 2},
            generation_config="vllm",
            seed=0,
        )
        self._engine = AsyncLLM.from_engine_args(arguments)
        self._asked = 0

    async def versions(self) -> dict[str, str]:
        found = {"vllm": vllm.__version__, "torch": torch.__version__}
        with suppress(PackageNotFoundError):  # there on AMD, and used then
            found["zentorch"] = version("zentorch")
        return found

    async def look(self, asked: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        moments, tokens = await self._generate(asked["first"], asked["pictures"][:1], asked["tokens"])
        return {
            "first_token_ms": 1e3 * (moments[0] - began),
            "per_token_ms": 1e3 * (moments[-1] - moments[0]) / (len(tokens) - 1),
            "final_ms": 1e3 * (moments[-1] - began),
            "tokens": tokens,
        }

    async def two_looks(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the method asks: the question, beside it the generic one for its prompt alone as soon as the
        picture is in the cache, and the question with both pictures. It gives out no attention: where to
        look closer is told, and costs it nothing."""
        began = time.perf_counter()
        generic = list[asyncio.Task[Any]]()

        def ask_generic() -> None:
            answering = self._generate(asked["generic"], asked["pictures"][:1], 1)
            generic.append(asyncio.create_task(answering))

        await self._generate(asked["first"], asked["pictures"][:1], asked["tokens"], ask_generic)
        await generic[0]
        await self._generate(asked["second"], asked["pictures"], asked["tokens"])
        return {"two_looks_ms": 1e3 * (time.perf_counter() - began)}

    async def load(self, requests: list[dict[str, Any]], clients: int) -> dict[str, Any]:
        began, waiting = time.perf_counter(), list(requests)

        async def client() -> None:
            while waiting:
                asked = waiting.pop(0)
                await self._generate(asked["first"], asked["pictures"][:1], asked["tokens"])

        await asyncio.gather(*(client() for _ in range(clients)))
        return {"answers_per_second": len(requests) / (time.perf_counter() - began)}

    async def _generate(
        self, ids: list[int], pictures: list[Any], tokens: int, on_first: Any = None
    ) -> tuple[list[float], tuple[int, ...]]:
        self._asked += 1
        wanted = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=2,  # the doubt needs two of them at least
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        shown = [Image.fromarray(picture) for picture in pictures]
        prompt = {"prompt_token_ids": ids, "multi_modal_data": {"image": shown}}
        moments, found = list[float](), list[int]()
        async for output in self._engine.generate(prompt, wanted, str(self._asked)):
            moments.append(time.perf_counter())
            found += output.outputs[0].token_ids
            if on_first is not None and len(moments) == 1:
                on_first()
        return moments, tuple(found)


async def main() -> None:
    """Do what the pipe asks for, until it is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    peer = Vllm(*sys.argv[1:])
    told: object = "ready"
    while True:
        pickle.dump(told, answers)
        answers.flush()
        try:
            task, arguments = await asyncio.to_thread(pickle.load, sys.stdin.buffer)
        except EOFError:
            return
        told = await getattr(peer, task)(*arguments)


if __name__ == "__main__":  # its own processes begin by importing this again
    asyncio.run(main())
