"""Requests on vLLM's engine: prompts handed in, a step a round, and its tokens with the doubt about each."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar, Final

from PIL import Image
from torch import Tensor
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

from secondlook.engine.decode.flows import Decode, Flows
from secondlook.engine.decode.record import Decoded
from secondlook.engine.decode.token_options import ONLY_TOKENS, Likeliest, TokenOptions
from secondlook.engine.errors import UnsupportedModelError
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.base import Prompt
from secondlook.engine.models.pictures import Picture
from secondlook.engine.on_vllm.rows import ASKED, RowsOf, added

__all__ = ["Answer", "Answering", "ReadRows", "VllmFlows", "rendered"]

_FEW: Final = 64
"""Rows that nobody wants, until the workers are told to forget them."""


@dataclass(eq=False)
class Answer:
    """A prompt for vLLM, and what it answers.

    Attributes:
        number: names it, and is the slot of `Decode`.
        ids: of the prompt, one token for each picture; vLLM puts in the others.
        whole: the prompt as the model has it.
        limit: tokens of the answer.
        client: whose pictures these are: what is kept of them is nobody else's.
        shannon: whether Shannon entropies are wanted, which need the probabilities of all tokens.
        rows: of the prompt's last rows, those whose attention is read.
        alone: whether nothing that was computed before is used, so that all rows are computed.
        cached: rows of the prompt that were there before.
        finished: whether there are no more tokens.
    """

    number: int
    ids: Sequence[int]
    pictures: Sequence[Picture]
    whole: Prompt
    limit: int
    end_ids: frozenset[int]
    client: str
    shannon: bool = False
    options: TokenOptions = ONLY_TOKENS
    rows: int = 0
    alone: bool = False
    token_ids: list[int] = field(default_factory=list)
    statistics: list[TokenStatistics] = field(default_factory=list)
    likeliest: list[Likeliest] = field(default_factory=list)
    cached: int = 0
    finished: bool = False

    @property
    def name(self) -> str:
        """To vLLM."""
        return str(self.number)

    def has(self, tokens: int) -> bool:
        """Whether it has so many tokens, or ended before."""
        return self.finished or len(self.token_ids) >= tokens

    def first(self, tokens: int) -> Decoded:
        """Its first tokens."""
        return Decoded(
            tuple(self.token_ids[:tokens]), tuple(self.statistics[:tokens]), tuple(self.likeliest[:tokens])
        )

    def prompt(self) -> dict[str, Any]:
        """As vLLM takes it. Pictures are named by their pixels, and by their client: neither keys and values
        nor features are found by another."""
        salt = blake2b(f"{self.client}{self.number if self.alone else ''}".encode(), digest_size=16)
        names = [blake2b(one.digest, digest_size=16, key=salt.digest()) for one in self.pictures]
        return {
            "prompt_token_ids": list(self.ids),
            "multi_modal_data": {"image": [Image.fromarray(one.pixels.numpy()) for one in self.pictures]},
            "multi_modal_uuids": {"image": [name.hexdigest() for name in names]},
            "cache_salt": salt.hexdigest(),
        }

    def parameters(self) -> SamplingParams:
        """Greedy, until an end token of the model's own, with the probabilities that the doubt needs."""
        start, stop = self.whole.spans[0]
        rows = RowsOf(self.name, start, stop, self.rows)
        return SamplingParams(
            temperature=0.0,
            max_tokens=self.limit,
            min_tokens=min(self.options.least, self.limit),
            ignore_eos=True,  # those of a generation config, which may name others
            stop_token_ids=sorted(self.end_ids),
            logprobs=-1 if self.shannon else max(2, self.options.likeliest),
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={ASKED: asdict(rows)} if self.rows else None,
        )

    def take(self, output: Any) -> None:
        """What one step of vLLM adds."""
        (completion,) = output.outputs
        found = completion.logprobs
        for place, token in enumerate(completion.token_ids):
            begin, end = found.start_indices[place], found.end_indices[place]
            self.token_ids.append(token)
            logs = found.logprobs[begin:end]
            self.statistics.append(doubt(logs, token in self.end_ids, all_tokens=self.shannon))
            if self.options.likeliest:
                ranked = zip(found.token_ids[begin + 1 : end], logs[1:], strict=True)
                self.likeliest.append(tuple(ranked)[: self.options.likeliest])
        self.cached = output.num_cached_tokens or 0
        self.finished = output.finished


@dataclass(frozen=True)
class Answering:
    """A prompt and its answer's first token; sent None."""

    answer: Answer
    stage: ClassVar[str] = "prefill"


@dataclass(frozen=True)
class ReadRows:
    """What was read of an answer's prompt; sent that, [M, N] float32."""

    answer: Answer
    stage: ClassVar[str] = "prefill"


class VllmFlows(Flows):
    """Runs flows on vLLM. All calls belong on one thread; once vLLM's processes have died, they raise."""

    def __init__(self, llm: LLMEngine) -> None:
        super().__init__()
        self._llm = llm
        self._numbers = 0
        self._answers = dict[int, Answer]()  # those that flows have
        self._running = dict[str, Answer]()  # those that vLLM has
        self._unread = list[str]()
        threading.Thread(target=_wake, args=(llm.engine_core,), name="vllm-watch", daemon=True).start()

    @property
    def running(self) -> int:
        """Prompts that vLLM has. May be asked for on any thread."""
        return len(self._running)

    def answer(self, *parts: Any, **named: Any) -> Answer:
        """A new one, to be closed."""
        self._numbers += 1
        made = Answer(self._numbers, *parts, **named)
        self._answers[made.number] = made
        return made

    def close(self, answer: Answer) -> None:
        """Nothing more is wanted of it."""
        del self._answers[answer.number]
        if self._running.pop(answer.name, None) is not None:
            self._llm.abort_request([answer.name])
        if answer.rows:
            self._unread.append(answer.name)

    def round(self) -> bool:
        """One step of vLLM for all that it has; returns whether anything is in progress still."""
        self._pass_on_results()
        for pair in self._wanting(Answering):
            if not pair[1].answer.finished and pair[1].answer.name not in self._running:
                self._together([pair], self._hand_in)
        self._together(self._wanting(ReadRows), self._read)
        if len(self._unread) > _FEW:
            self._take_rows([])
        if self._running:
            for output in self._llm.step():
                self._take(output)
        self._together([pair for pair in self._wanting(Answering) if pair[1].answer.has(1)], _check_begun)
        for request, want in self._wanting(Decode):
            answer = self._answers[want.slot]
            if answer.has(want.tokens):
                self._send(request, answer.first(want.tokens))
            elif want.seen is not None:
                want.seen(answer.first(want.tokens))
        return bool(self._requests)

    def _hand_in(self, wants: list[Answering]) -> None:
        for want in wants:
            answer = want.answer
            prompt = rendered(self._llm, answer)
            self._llm.add_request(answer.name, prompt, answer.parameters())
            self._running[answer.name] = answer

    def _take(self, output: Any) -> None:
        answer = self._running.get(output.request_id)
        if answer is not None:  # of one that was given up there may be more
            answer.take(output)
            if answer.finished:
                del self._running[answer.name]

    def _read(self, wants: list[ReadRows]) -> list[Tensor]:
        return self._take_rows([want.answer.name for want in wants])

    def _take_rows(self, names: list[str]) -> list[Tensor]:
        unread, self._unread = self._unread, []
        workers = self._llm.collective_rpc("take_rows", args=(names, unread))
        return [added(parts) for parts in zip(*workers, strict=True)]


def rendered(llm: LLMEngine, answer: Answer) -> Any:
    """An answer's prompt as vLLM has laid it out.

    Raises:
        UnsupportedModelError: that is not as the model has it.
    """
    (prompt,) = llm.renderer.render_cmpl([answer.prompt()])
    found = prompt["prompt_token_ids"]
    spans = tuple((one.offset, one.offset + one.length) for one in prompt["mm_placeholders"]["image"])
    if tuple(found) != answer.whole.ids or spans != answer.whole.spans:
        raise UnsupportedModelError(
            f"vLLM lays a prompt out in {len(found)} tokens, its pictures at {spans}, where this model has "
            f"{len(answer.whole.ids)}, with pictures at {answer.whole.spans}; use --engine own"
        )
    return prompt


def doubt(logs: Sequence[float], is_eos: bool, *, all_tokens: bool) -> TokenStatistics:
    """The doubt about one token.

    Args:
        logs: ln p of the token chosen, then those of the likeliest, falling; two at least.
        all_tokens: whether these are all there are; the Shannon entropy is NaN otherwise.
    """
    chosen, *ranked = logs
    margin = 1.0 - (math.exp(ranked[0]) - math.exp(ranked[1]))
    shannon = entropy(ranked) if all_tokens else math.nan
    return TokenStatistics(-chosen, shannon, margin, is_eos)


def entropy(logs: Iterable[float]) -> float:
    """-Σ p ln p, in nats, of all ln p; what is impossible adds nothing."""
    return -sum(math.exp(one) * one for one in logs if one != -math.inf)


def _wake(core: Any) -> None:
    """Once vLLM's processes are gone, end whatever waits for them: vLLM's own client waits on for ever."""
    core.output_queue_thread.join()
    core.outputs_queue.put_nowait(EngineDeadError())
    for call in list(core.utility_results.values()):
        if not call.done():
            call.set_exception(EngineDeadError())


def _check_begun(wants: list[Answering]) -> Sequence[None]:
    for want in wants:
        if not want.answer.token_ids:
            raise RuntimeError("vLLM ended a request without a token")
    return [None] * len(wants)
