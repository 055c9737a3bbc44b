"""A line of history on the embedded model: its tokens are transformers' own, and its picture is seen once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from engine.streaming import PATIENT, ScriptedCloud, Watching, method, opened, run, streams, until
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import Picture, decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.edge.wire_stream import Detail, FrameHeader
from secondlook.engine.context import with_history
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.embedded import DEMO, EMBEDDED
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.stream.cloud import CloudAnswer
from secondlook.engine.stream.focus import widened
from secondlook.engine.stream.keyframes import KeyFrames

TEMPLATE = "{question} ({age:.1f} s ago: {answer})"
QUESTION = "What is the number on the sign?"
NEVER = AnswerOptions(second_look="never")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model(DEMO, dtype="float32", device="cpu"))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each prompt that is computed, or of what of it is not there yet."""
    counted: list[int] = []
    prefill = Decoder.prefill

    def counting(decoder: Decoder, prompts: list[Prompted], *, probe: bool = False) -> list[Tensor]:
        counted.extend(len(prompt.rows) for prompt in prompts)
        return prefill(decoder, prompts, probe=probe)

    monkeypatch.setattr(Decoder, "prefill", counting)
    return counted


def taken(index: int) -> Picture:
    return open_picture(SignsPicture("test", 77, index).read())


def generated(image: Image.Image, question: str) -> list[int]:
    """transformers' own tokens."""
    folder = str(EMBEDDED[DEMO])
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=[image], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    found: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    return found


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(("age", "answer"), [(0.8, "75"), (12.34, "It says 31.\nThe sign is red.")])
def test_with_history_tokens_equal_generate(
    engine: Engine, rows: list[int], index: int, age: float, answer: str
) -> None:
    picture = taken(index)
    sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
    engine.first_look(sent, QUESTION, picture.size, NEVER)
    line = with_history(TEMPLATE, QUESTION, age, answer)
    whole = len(engine.prepare(sent, line, picture.size, NEVER).prompt.ids)
    del rows[:]
    look = engine.first_look(sent, line, picture.size, NEVER).look
    assert list(look.token_ids) == generated(sent, line)
    [computed] = rows
    assert computed < whole - look.visual_tokens  # the question alone: the picture's rows are there


def test_the_second_question_of_a_frame_computes_its_own_rows_only(
    engine: Engine, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole service: one client, one picture, one prefix."""
    monkeypatch.setattr(Engine, "context", TEMPLATE)

    async def scenario() -> None:
        cloud = ScriptedCloud()
        chosen = method(sure=0.0, key_frames=KeyFrames("busy"))
        async with streams(engine, cloud, method=chosen) as (service, client):
            name = await opened(client, QUESTION)
            watching = Watching(service, name)
            for number in range(3):
                picture = taken(number)
                jpeg = picture.global_image(engine.card.global_view).jpeg
                header = FrameHeader(
                    frame=number, captured=number / 2, width=picture.size.width, height=picture.size.height
                )
                del rows[:]
                reply = await service.frame(name, header, jpeg)
                sent = decode_jpeg(jpeg)
                first = len(engine.prepare(sent, QUESTION, picture.size, NEVER).prompt.ids)
                if number == 0:
                    assert reply.source == "picture"
                    assert rows == [first]
                    await until(lambda: 0 in cloud.asked)
                    cloud.answer(0, "75")
                    await until(lambda: ("cloud", 0) in watching.kinds())
                    continue
                line = f"{QUESTION} ({number / 2:.1f} s ago: 75)"
                prompt = engine.prepare(sent, line, picture.size, NEVER).prompt
                assert rows == [first, len(prompt.ids) - prompt.shared]
                assert prompt.shared > prompt.visual_tokens
                alone = Engine(engine.model).first_look(sent, line, picture.size, NEVER).look
                assert (reply.source, reply.answer) == ("history", "75")  # where nothing is sure enough
                assert reply.context_uncertainty == pytest.approx(alone.uncertainty, abs=1e-4)

    run(scenario)


def test_the_focus_is_a_second_look_of_the_same_frame(engine: Engine, rows: list[int]) -> None:
    async def scenario() -> None:
        async with streams(engine, method=method(sure=0.0, focus="crop")) as (service, client):
            name = await opened(client, QUESTION)
            picture, region = taken(0), Region(100, 80, 400, 380)
            card = engine.card
            box = {"left": 100, "top": 80, "right": 400, "bottom": 380}
            header = FrameHeader.model_validate(
                {"frame": 0, "captured": 0.0, "width": picture.size.width, "height": picture.size.height}
                | {"focus": box, "details": [Detail(frame=9)]}
            )
            whole = picture.global_image(card.global_view).jpeg
            closer = picture.local_image(region, card.local_view).jpeg
            reply = await service.frame(name, header, whole, closer, [b"of a frame that nobody asked about"])
            options = AnswerOptions(
                threshold=0.0, second_look="always", arbitration=True, region=header.focus
            )
            asked = Engine(engine.model)
            first = asked.first_look(decode_jpeg(whole), QUESTION, picture.size, options)
            assert first.pending is not None
            assert first.pending.region == region
            final = asked.second_look(first.pending, decode_jpeg(closer))
            assert (reply.status, reply.answer) == ("answered", final.look.text)
            assert reply.uncertainty == pytest.approx(final.look.uncertainty, abs=1e-4)
            assert len(rows) >= 4  # ours and theirs, two looks each

    run(scenario)


def test_a_region_of_the_cloud_makes_the_next_frames_focus(engine: Engine) -> None:
    """Where the camera's motion is not known, by the small model's own map."""

    async def scenario() -> None:
        cloud, region = ScriptedCloud(), Region(100, 80, 400, 380)
        chosen = method(sure=0.0, focus="crop", key_frames=KeyFrames("busy"))
        async with streams(engine, cloud, method=chosen, deadline=PATIENT) as (service, client):
            name = await opened(client, QUESTION)
            watching = Watching(service, name)
            picture = taken(0)
            jpeg = picture.global_image(engine.card.global_view).jpeg
            width, height = picture.size.width, picture.size.height
            headers = [
                FrameHeader(frame=number, captured=number / 5, width=width, height=height)
                for number in range(2)
            ]
            await service.frame(name, headers[0], jpeg)
            await until(lambda: 0 in cloud.asked)
            cloud.asked[0].set_result(CloudAnswer("75", 0.0, region, 10, 0.1))
            await until(lambda: ("cloud", 0) in watching.kinds())
            reply = await service.frame(name, headers[1], jpeg)
            assert reply.focus is not None
            box = reply.focus.region
            placed = Region(box.left, box.top, box.right, box.bottom)
            assert placed.size == widened(region, Size(width, height)).size
            assert placed.within(Size(width, height))

    run(scenario)
