"""The two looks on vLLM, on the embedded model in float32, against this package's engine."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engine.calibrated import a_policy_file
from engine.chats import about, sign, streamed, text_of
from engine.commands import python
from engine.demo_server import ask_first, client_of, look_closer, signs
from engine.serving_harness import listening
from engine.streaming import ScriptedCloud, Watching, method, opened, run, streams, until
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.edge.wire_stream import FrameHeader, FrameReply
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.encoders import EncoderChoice
from secondlook.engine.errors import PolicyFileError, UnsupportedModelError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.settings import Localisation, Sink
from secondlook.engine.on_vllm import opening
from secondlook.engine.opening import EngineOptions, load_engine
from secondlook.engine.results import FinalAnswer, FirstLook, Look
from secondlook.engine.serve.app import create_app
from secondlook.engine.stream.cloud import CloudAnswer
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.two_looks import TwoLooks

pytestmark = [
    pytest.mark.needs_vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore"
    ),  # of what vLLM imports: an error there would hide what it computes on
]

COUNT = 24
CLOSE = 1e-5
QUESTION = "What number is on the red sign?"
ALWAYS = AnswerOptions(second_look="always", arbitration=False)
OPTIONS = EngineOptions("demo", "float32", kv_cache_gb=0.25, backend="vllm")


class Both(NamedTuple):
    own: TwoLooks
    vllm: Any


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    vllm = opening.load_vllm_engine(OPTIONS, compiled=False)
    yield Both(load_engine(EngineOptions("demo", "float32", "cpu")), vllm)
    vllm.close()


@dataclass(frozen=True)
class Looked:
    first: FirstLook
    final: FinalAnswer | None


def looks(
    engine: TwoLooks,
    asked: Sequence[tuple[Any, str]],
    options: AnswerOptions = ALWAYS,
    wanted: TokenOptions = ONLY_TOKENS,
    client: str = "",
) -> list[Looked]:
    """All first looks at once, then all second ones."""
    card, firsts, seconds = engine.card, [], []
    pictures = [open_picture(image) for image, _ in asked]
    for picture, (_, question) in zip(pictures, asked, strict=True):
        sent = decode_jpeg(picture.global_image(card.global_view).jpeg)
        prepared = engine.prepare(sent, question, picture.size, options, client=client, wanted=wanted)
        firsts.append(engine.start_first_look(prepared))
    rounds(engine)
    for picture, begun in zip(pictures, firsts, strict=True):
        pending = begun.future.result().pending
        if pending is None:
            seconds.append(None)
            continue
        sent = decode_jpeg(picture.local_image(pending.region, card.local_view).jpeg)
        seconds.append(engine.start_second_look(pending, engine.prepare_local(pending, sent)))
    rounds(engine)
    return [
        Looked(first.future.result(), None if second is None else second.future.result())
        for first, second in zip(firsts, seconds, strict=True)
    ]


def rounds(engine: TwoLooks) -> None:
    while engine.round():
        pass


def same(ours: Look, theirs: Look, measures: Sequence[str] = ("min_entropy", "margin")) -> None:
    assert theirs.token_ids == ours.token_ids
    assert (theirs.text, theirs.prompt_tokens, theirs.visual_tokens) == (
        ours.text,
        ours.prompt_tokens,
        ours.visual_tokens,
    )
    for one, other in zip(ours.tokens, theirs.tokens, strict=True):
        assert one.is_eos == other.is_eos
        for measure in measures:
            assert getattr(other, measure) == pytest.approx(getattr(one, measure), abs=CLOSE)
    assert theirs.uncertainty == pytest.approx(ours.uncertainty, abs=CLOSE)


def same_looks(found: Sequence[Looked], expected: Sequence[Looked]) -> None:
    for ours, theirs in zip(expected, found, strict=True):
        same(ours.first.look, theirs.first.look)
        assert theirs.first.region == ours.first.region
        assert ours.first.maps is not None
        assert theirs.first.maps is not None
        for name in ("question", "generic"):
            one, other = (getattr(looked.first.maps, name).numpy() for looked in (ours, theirs))
            np.testing.assert_allclose(other, one, atol=CLOSE, rtol=0)
        assert ours.final is not None
        assert theirs.final is not None
        same(ours.final.second, theirs.final.second)


def test_both_looks_are_those_of_our_engine(both: Both) -> None:
    asked = signs(COUNT)
    expected, found = looks(both.own, asked), looks(both.vllm, asked)
    same_looks(found, expected)
    # The rows of the global image, in whole blocks, were there for the generic question and the second look.
    assert all(looked.final is not None and looked.final.second.cached_tokens >= 128 for looked in found)
    same_looks(looks(both.vllm, asked), expected)  # again, with all but a few rows kept
    usage = both.vllm.usage
    assert (usage.used, usage.recomputed) == (0, 0)


def test_pictures_of_their_own_shapes_are_looked_at_as_by_our_engine() -> None:
    own = load_engine(EngineOptions("demo-qwen", "float32", "cpu"))
    vllm = opening.load_vllm_engine(replace(OPTIONS, model="demo-qwen"), compiled=False)
    asked = [
        (image.crop((0, 0, image.width, image.height // rows)), text)
        for (image, text), rows in zip(signs(8), 4 * (1, 2), strict=True)
    ]
    try:
        same_looks(looks(vllm, asked), looks(own, asked))
    finally:
        vllm.close()


def test_decisions_are_those_of_our_engine(both: Both) -> None:
    asked, options = signs(COUNT), AnswerOptions()
    expected, found = looks(both.own, asked, options), looks(both.vllm, asked, options)
    assert [one.first.decision for one in found] == [one.first.decision for one in expected]
    assert {one.first.decision for one in found} >= {"sure", "unsure"}
    for ours, theirs in zip(expected, found, strict=True):
        assert (theirs.final and theirs.final.decision) == (ours.final and ours.final.decision)


def test_shannon_entropy_is_there_where_the_policy_needs_it_and_unknown_elsewhere(both: Both) -> None:
    asked, options = signs(4), AnswerOptions(second_look="never", measure="shannon_entropy")
    for ours, theirs in zip(looks(both.own, asked, options), looks(both.vllm, asked, options), strict=True):
        same(ours.first.look, theirs.first.look, ("min_entropy", "margin", "shannon_entropy"))
    (other,) = looks(both.vllm, asked[:1], AnswerOptions(second_look="never"))
    assert all(math.isnan(token.shannon_entropy) for token in other.first.look.tokens)


def test_the_likeliest_tokens_and_a_least_length_are_as_ours(both: Both) -> None:
    asked, options = signs(3), AnswerOptions(second_look="never", max_new_tokens=9)
    wanted = TokenOptions(likeliest=4, least=7)
    for ours, theirs in zip(
        looks(both.own, asked, options, wanted), looks(both.vllm, asked, options, wanted), strict=True
    ):
        same(ours.first.look, theirs.first.look)
        for one, other in zip(ours.first.look.likeliest, theirs.first.look.likeliest, strict=True):
            assert [token for token, _ in other] == [token for token, _ in one]
            assert [log for _, log in other] == pytest.approx([log for _, log in one], abs=1e-4)


def test_what_was_computed_for_one_client_is_not_found_by_another(both: Both) -> None:
    asked, never = signs(COUNT + 1)[COUNT:], AnswerOptions(second_look="never")

    def cached(client: str) -> int:
        (looked,) = looks(both.vllm, asked, never, client=client)
        return looked.first.look.cached_tokens

    assert [cached(client) for client in ("ann", "bob", "ann")] == [0, 0, 128]


def test_an_answer_is_told_as_it_grows_and_a_look_that_is_given_up_leaves_nothing(both: Both) -> None:
    engine, (image, question) = both.vllm, signs(1)[0]
    picture = open_picture(image)
    sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
    options = AnswerOptions(second_look="never", max_new_tokens=12)
    prepared = engine.prepare(sent, question, picture.size, options, wanted=TokenOptions(least=12))
    told: list[int] = []
    kept = engine.start_first_look(prepared, on_tokens=lambda look: told.append(len(look.token_ids)))
    lost = [engine.start_first_look(prepared) for _ in range(3)]
    for number, one in enumerate(lost):
        engine.cancel(one)
        for _ in range(number):
            engine.round()
    rounds(engine)
    assert told == sorted(set(told))
    assert len(kept.future.result().look.token_ids) == 12
    assert all(one.future.cancelled() for one in lost)
    assert engine.usage.used == 0


@pytest.mark.parametrize("generated", [0, 2])
def test_chosen_heads_sinks_and_rows_of_the_answer_are_read_as_ours(both: Both, generated: int) -> None:
    from secondlook.engine.engine import Engine
    from secondlook.engine.on_vllm.engine import VllmEngine

    sink = Sink({3: {1: 1.0}}, 0.01)
    where = Localisation(
        {1: {0: 0.5, 3: 1.5}, 2: None}, 168, min_cells=2, generated_rows=generated, sink=sink
    )
    own, bare = (load_model("demo", dtype="float32", device="cpu", weights=read) for read in (True, False))
    own.localisation = bare.localisation = where
    theirs = VllmEngine(bare, both.vllm._llm, 800, 8)
    opening._install(both.vllm._llm, bare)
    asked = signs(6)
    try:
        same_looks(looks(theirs, asked, client=f"{generated}"), looks(Engine(own), asked))
    finally:
        opening._install(both.vllm._llm, both.vllm.model)


def test_http_serves_it_as_any_engine(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both.vllm, "close", lambda: None)  # the server would, but other tests have it too
    image, question = signs(1)[0]
    with listening(create_app(both.vllm)) as url, client_of(url) as client:
        asked = ask_first(client, image, question, second_look="always")
        look_closer(client, image, asked)
        assert asked.final is not None
        (expected,) = looks(both.own, [(image, question)])
        assert expected.final is not None
        assert {asked.first.answer.text, expected.first.look.text} == {expected.first.look.text}
        metrics = client.get("/metrics").text
    assert re.search(r"kv_cache_usage_perc.* 0\.0", metrics)


def replies(engine: TwoLooks) -> list[FrameReply]:
    """Of a stream that is unsure of every frame: read with what a cloud said of the first, and closer in the
    focus that each reply asks for of the next."""
    chosen = method(sure=0.0, focus="crop", key_frames=KeyFrames("busy"))
    card, (image, _), told = engine.card, signs(1)[0], list[FrameReply]()

    async def scenario() -> None:
        cloud, focus = ScriptedCloud(), None
        async with streams(engine, cloud, method=chosen) as (service, client):
            name = await opened(client, QUESTION)
            watching = Watching(service, name)
            for number in range(4):  # of a camera that turns
                left = 20 * number
                picture = open_picture(image.crop((left, 0, image.width - 80 + left, image.height)))
                size = {"width": picture.size.width, "height": picture.size.height}
                header = FrameHeader(frame=number, captured=number / 2, focus=focus, **size)
                closer = None
                if focus is not None:
                    part = Region(focus.left, focus.top, focus.right, focus.bottom)
                    closer = picture.local_image(part, card.local_view).jpeg
                whole = picture.global_image(card.global_view).jpeg
                reply = await service.frame(name, header, whole, closer)
                told.append(reply)
                focus = reply.focus and reply.focus.region
                if number == 0:
                    await until(lambda: 0 in cloud.asked)
                    cloud.asked[0].set_result(CloudAnswer("75", 0.0, Region(100, 80, 400, 380), 10, 0.1))
                    await until(lambda: ("cloud", 0) in watching.kinds())

    run(scenario)
    return told


def test_a_stream_is_answered_as_over_our_engine(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both.vllm, "close", lambda: None)  # the site would, but other tests have it too
    expected, found = replies(both.own), replies(both.vllm)
    doubts = {"uncertainty", "context_uncertainty", "chance", "seconds"}
    for ours, theirs in zip(expected, found, strict=True):
        assert theirs.model_dump(exclude=doubts) == ours.model_dump(exclude=doubts)
        for doubt in doubts - {"seconds"}:
            assert getattr(theirs, doubt) == pytest.approx(getattr(ours, doubt), abs=CLOSE)
    assert any(reply.context_uncertainty is not None for reply in expected)
    assert any(reply.focus is not None for reply in expected[:-1])


def test_the_command_serves_two_looks_and_a_streamed_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_CI_ENV", "1")  # vLLM's own: traced as in earnest, but not compiled
    arguments = ["serve", "--engine", "vllm", "--dtype", "float32", "--port", "0", "--kv-cache-gb", "0.25"]
    code = f"from secondlook.engine.cli import main\nimport sys\nsys.argv[1:] = {arguments}\n"
    process = python(f"{code}if __name__ == '__main__':\n    main()")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://\S+", line)
        assert url is not None, line
        with client_of(url[0]) as client:
            image, question = signs(1)[0]
            asked = ask_first(client, image, question, second_look="always")
            assert asked.first.session is not None
            look_closer(client, image, asked)
            assert asked.final is not None
            assert asked.final.second is not None
            assert text_of(streamed(client, about(sign()))) == sign().answer
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """On two workers, which a vision tower of an even number of heads is needed for."""
    folder = tmp_path_factory.mktemp("spread") / "model"
    shutil.copytree(EMBEDDED["demo"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    options = replace(OPTIONS, model=str(folder), tensor_parallel=2)
    vllm = opening.load_vllm_engine(options, compiled=False)
    yield Both(load_engine(EngineOptions(str(folder), "float32", "cpu")), vllm)
    vllm.close()


def test_workers_with_a_part_of_the_heads_each_are_one_engine(spread: Both) -> None:
    asked = signs(8)
    same_looks(looks(spread.vllm, asked), looks(spread.own, asked))


def test_looks_fail_and_nothing_hangs_once_its_processes_have_died(spread: Both) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    engine, (image, question) = spread.vllm, signs(1)[0]
    picture = open_picture(image)
    sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
    options, wanted = AnswerOptions(second_look="never", max_new_tokens=200), TokenOptions(least=200)
    prepared = engine.prepare(sent, question, picture.size, options, wanted=wanted)
    begun = engine.start_first_look(prepared)
    for _ in range(3):
        engine.round()
    for process in engine._llm.engine_core.resources.engine_manager.processes:
        process.kill()
    with pytest.raises(EngineDeadError):
        rounds(engine)
    engine.cancel(begun)
    assert begun.future.cancelled()
    further = engine.start_first_look(prepared)
    rounds(engine)
    assert isinstance(further.future.exception(), EngineDeadError)


def test_another_version_and_options_of_no_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    with pytest.raises(
        SettingsError, match="computes on what it is built for, here cpu, and not on 'cuda:1'"
    ):
        load_engine(EngineOptions(backend="vllm", device="cuda:1"))
    with pytest.raises(SettingsError, match="leave --vision and --encoder out"):
        load_engine(EngineOptions(backend="vllm", encoder=EncoderChoice("onnx", Path("exported"))))
    with pytest.raises(PolicyFileError, match="another"):
        load_engine(replace(OPTIONS, calibrated=a_policy_file(weights="another")))
    monkeypatch.setattr(vllm, "__version__", "0.33.1")
    with pytest.raises(SettingsError, match=r"needs vLLM 0\.32 .*; there is 0\.33\.1"):
        load_engine(OPTIONS)


def test_an_architecture_that_was_not_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SERVED", ("qwen2_5_vl",))
    with pytest.raises(UnsupportedModelError, match="model_type llava, and --engine vllm serves qwen2_5_vl"):
        load_engine(OPTIONS)
