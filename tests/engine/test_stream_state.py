"""One stream's verdicts, on paper: what each rests on, and what it never knows."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.geometry import Rectangle, Region, Size
from secondlook.edge.wire import Fixed, View
from secondlook.engine.stream.focus import narrowed, widened
from secondlook.engine.stream.history import MOST_ANSWERS, MOST_FRAMES
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.rules import Newest
from secondlook.engine.stream.state import Ask, FrameInfo, Method, Said, Stream, Verdict

VIEW = View(size=Fixed(width=168, height=168))
ORIGINAL = Size(1200, 600)
QUESTION = "What number?"
TEMPLATE = "{question} ({age:.1f} s ago: {answer})"
PLACE = Region(500, 200, 640, 340)
PLAIN = Newest(sure=0.2, own=0.1, cloud=0.3)
SURE, UNSURE = Said("own", 0.05, 0.05), Said("guess", 1.0, 1.0)


def frame(number: int, **more: object) -> FrameInfo:
    return replace(FrameInfo(number, number / 5, ORIGINAL), **more)  # type: ignore[arg-type]


def stream(**method: object) -> Stream:
    return Stream(QUESTION, Method(**{"rule": PLAIN, "sure": 0.2, **method}), VIEW)  # type: ignore[arg-type]


def driven(one: Stream, info: FrameInfo, *said: Said | None) -> tuple[Verdict, list[Ask]]:
    """A frame's verdict, the model saying so in turn, and what it was asked."""
    steps, asks = one.frame(info), list[Ask]()
    try:
        asks.append(next(steps))
        for each in said:
            asks.append(steps.send(each))
    except StopIteration as stopped:
        return stopped.value, asks
    raise AssertionError(f"it asks more: {asks}")


def test_a_sure_answer_stands() -> None:
    verdict, asks = driven(stream(), frame(3), SURE)
    assert (verdict.text, verdict.source, verdict.uncertainty, verdict.age) == ("own", "picture", 0.05, 0.0)
    assert [(ask.question, ask.focus, ask.relevance) for ask in asks] == [(QUESTION, None, False)]


def test_an_unsure_answer_gives_way_to_the_newest_sure_one() -> None:
    one = stream()
    assert driven(one, frame(0), UNSURE)[0].text == "guess"  # there is no other
    driven(one, frame(1), SURE)
    verdict, _ = driven(one, frame(2), UNSURE)
    assert (verdict.text, verdict.source, verdict.uncertainty) == ("own", "history", 1.0)
    assert verdict.entry is not None
    assert (verdict.entry.frame, verdict.entry.by, verdict.age) == (1, "own", pytest.approx(0.2))
    assert one.answered(0, 0.0, "old", 0.0, None)  # for an earlier frame: not the newest
    assert driven(one, frame(3), UNSURE)[0].text == "own"
    assert one.answered(2, 0.4, "late", 0.0, None)
    assert driven(one, frame(4), UNSURE)[0].text == "late"
    assert driven(one, frame(60), UNSURE)[0].text == "guess"  # all of it is too old


def test_what_is_neither_sure_nor_of_doubt_is_not_remembered() -> None:
    one = stream()
    driven(one, frame(0), Said("half", 0.15, 0.15))
    assert driven(one, frame(1), UNSURE)[0].source == "picture"
    assert not one.answered(0, 0.0, "doubtful", 0.31, None)
    assert not one.answered(0, 0.0, "  ", 0.0, None)
    assert driven(one, frame(2), UNSURE)[0].source == "picture"
    free = stream(memory=False, rule=replace(PLAIN, cloud=None))
    driven(free, frame(0), SURE)
    assert driven(free, frame(1), UNSURE)[0].source == "picture"
    assert free.answered(0, 0.0, "doubtful", 9.0, None)


def test_history_stands_behind_the_question_where_the_checkpoint_reads_it() -> None:
    one = stream(context=TEMPLATE)
    driven(one, frame(0), SURE)
    verdict, asks = driven(one, frame(4), UNSURE, Said("read", 0.15, 0.15))
    assert [ask.question for ask in asks] == [QUESTION, f"{QUESTION} (0.8 s ago: own)"]
    assert (verdict.text, verdict.source) == ("read", "context")
    assert (verdict.uncertainty, verdict.context_uncertainty) == (1.0, 0.15)
    # What was read with history is not remembered: its age would begin anew for ever.
    again, _ = driven(one, frame(5), UNSURE, None)  # nor does a failure of that question fail the frame
    assert (again.text, again.source, again.context_uncertainty) == ("own", "history", None)


def test_a_look_that_failed_leaves_what_held() -> None:
    one = stream()
    assert driven(one, frame(0), None)[0] == Verdict("", "nothing")
    driven(one, frame(1), UNSURE)
    verdict, _ = driven(one, frame(2), None)
    assert (verdict.text, verdict.source, verdict.uncertainty) == ("guess", "history", None)
    assert one.held(frame(3)).text == "guess"
    assert one.held(frame(51)).text == "guess"  # 10 s later
    assert one.held(frame(52)) == Verdict("", "nothing")
    assert one.held(frame(1)) == Verdict("", "nothing")  # it came before what is known


def test_the_cloud_alone_is_held() -> None:
    one = stream(own=False, key_frames=KeyFrames("busy"))
    verdict, asks = driven(one, frame(0))
    assert (verdict, asks) == (Verdict("", "nothing"), [])
    one.asked(0)
    one.answered(0, 0.0, "75", 0.1, None)
    assert driven(one, frame(1))[0].text == "75"


def test_the_cloud_has_room_for_so_many_frames() -> None:
    one = stream(in_flight=2)
    for number in range(4):
        driven(one, frame(number), UNSURE)
    assert one.wants_cloud(0)
    one.asked(0)
    assert not one.wants_cloud(0)  # it is under way
    one.asked(1)
    assert not one.wants_cloud(2)
    one.lost(0)
    one.lost(0)
    assert one.in_flight == 1
    assert one.wants_cloud(2)
    one.answered(1, 0.2, "75", 0.1, None)
    one.answered(1, 0.2, "75", 0.1, None)
    assert one.in_flight == 0
    assert not one.wants_cloud(99)  # no such frame


def test_sure_frames_are_no_key_frames_by_doubt() -> None:
    one = stream()
    driven(one, frame(0), SURE)
    assert not one.wants_cloud(0)
    driven(one, frame(1), Said("read closer", 0.05, 1.0, closer=True))
    assert not one.wants_cloud(1)


def test_the_next_frame_is_looked_at_closer_where_the_last_was_doubtful() -> None:
    one = stream(focus="crop")
    window = Rectangle(0, 0, 1200, 600)
    driven(one, frame(0, window=window), SURE)
    one.answered(0, 0.0, "75", 0.1, PLACE)
    shifted = frame(1, window=Rectangle(100, 50, 1300, 650))
    verdict, asks = driven(one, shifted, UNSURE)
    assert not asks[0].relevance  # motion is known
    assert verdict.focus is not None
    assert (verdict.focus.frame, verdict.focus.region) == (1, Region(330, 80, 610, 360))
    looked, asks = driven(one, frame(2, window=window, focus=PLACE), Said("read closer", 0.05, 1.0, True))
    assert asks[0].focus == PLACE
    assert looked.focus is not None  # the whole frame alone was doubtful: go on looking closer
    assert looked.text == "read closer"
    gone, _ = driven(one, frame(3, window=Rectangle(5000, 0, 6200, 600)), UNSURE)
    assert gone.focus is None
    assert driven(one, frame(4, window=window), SURE)[0].focus is None


def test_a_place_is_lost_with_the_size_of_the_frames() -> None:
    one = stream(focus="crop")
    driven(one, frame(0), UNSURE)
    one.answered(0, 0.0, "75", 0.1, PLACE)
    verdict, _ = driven(one, frame(1, original=Size(600, 300)), UNSURE)
    assert verdict.focus is None


@pytest.mark.parametrize("told", [Said(" ", 0.0, 0.0), Said("57", 0.9, 0.9)])
def test_what_is_said_to_history_stands_if_it_is_sure_and_something(told: Said) -> None:
    one = stream(context=TEMPLATE)
    driven(one, frame(0), UNSURE)
    one.answered(0, 0.0, "75", 0.1, None)
    verdict, asks = driven(one, frame(1), UNSURE, told)
    assert len(asks) == 2
    assert (verdict.text, verdict.source) == ("75", "history")
    assert verdict.context_uncertainty == told.uncertainty


def test_without_known_motion_a_place_follows_attention() -> None:
    one = stream(focus="crop")
    cells = [[0] * 12 for _ in range(12)]
    driven(one, frame(0), UNSURE)
    one.answered(0, 0.0, "75", 0.1, PLACE)
    cells[5][7] = 255  # 700 to 800 across, 250 to 300 down
    verdict, asks = driven(one, frame(1), replace(UNSURE, relevance=cells))
    assert asks[0].relevance
    assert verdict.focus is not None
    assert verdict.focus.region.size == Size(280, 280)  # twice as much, whatever cells tell
    assert verdict.focus.region.centre == (750, 275)
    still = stream(focus="still")
    driven(still, frame(0), UNSURE)
    still.answered(0, 0.0, "75", 0.1, PLACE)
    kept, asks = driven(still, frame(1), replace(UNSURE, relevance=cells))
    assert not asks[0].relevance
    assert kept.focus is not None
    assert kept.focus.region == widened(PLACE, ORIGINAL)
    assert narrowed(kept.focus.region) == PLACE


@dataclass(frozen=True)
class Late:
    """A cloud's answer, and after which frame it comes."""

    about: int
    after: int
    doubt: float
    region: Region | None


SAID = st.sampled_from((SURE, UNSURE, Said("half", 0.15, 0.15), None))
LATE = st.builds(
    Late,
    st.integers(0, 19),
    st.integers(0, 19),
    st.sampled_from((0.0, 0.2, 0.9)),
    st.sampled_from((None, PLACE)),
)


@given(
    st.lists(st.tuples(SAID, SAID), min_size=20, max_size=20),
    st.lists(LATE, max_size=20),
    st.sampled_from((None, TEMPLATE)),
    st.integers(0, 19),
)
def test_a_frame_knows_nothing_of_itself_or_later(
    said: list[tuple[Said | None, Said | None]], late: list[Late], context: str | None, at: int
) -> None:
    """Answers about frame n or later, the cloud's and those of later frames, change nothing of frame n."""

    def run(before: bool) -> tuple[Verdict, list[Ask]]:
        one = stream(context=context, focus="crop")
        for number in range(at + 1):
            if before:  # as if the cloud knew the future
                for answer in late:
                    if answer.about >= at:
                        text = f"about {answer.about}"
                        one.answered(answer.about, answer.about / 5, text, answer.doubt, None)
            for answer in late:
                if answer.after < number and answer.about < number:
                    text = f"about {answer.about}"
                    one.answered(answer.about, answer.about / 5, text, answer.doubt, answer.region)
            if number < at and not before:
                one.held(frame(19))  # asking what would hold is no answer
            first, second = said[number]
            steps, asks = one.frame(frame(number)), []
            try:
                asks.append(next(steps))
                asks.append(steps.send(first))
                asks.append(steps.send(second))
            except StopIteration as stopped:
                verdict = stopped.value
        return verdict, asks

    known, asks = run(before=False)
    assert run(before=True)[0].text == known.text
    assert [ask.question for ask in run(before=True)[1]] == [ask.question for ask in asks]
    entry = known.entry
    assert entry is None or entry.frame < at


@given(st.lists(LATE, max_size=12), st.randoms(use_true_random=False), st.sampled_from((None, TEMPLATE)))
def test_order_and_number_of_answers_do_not_matter(
    late: list[Late], chance: random.Random, context: str | None
) -> None:
    def run(answers: list[Late]) -> tuple[Verdict, list[Ask]]:
        one = stream(context=context)
        for number in range(20):
            driven(
                one,
                frame(number),
                UNSURE,
                *([None] if one.history.before(number, number / 5) and context else []),
            )
        for answer in answers:
            one.answered(answer.about, answer.about / 5, f"about {answer.about}", answer.doubt, None)
        more = [SURE] if one.history.before(20, 4.0) and context else []
        return driven(one, frame(20), UNSURE, *more)

    expected = run(late)
    shuffled = late + [answer for answer in late if chance.random() < 0.5]
    chance.shuffle(shuffled)
    assert run(shuffled) == expected
    lost = [answer for answer in late if chance.random() < 0.5]
    sure = [answer for answer in lost if answer.doubt <= 0.3]
    verdict, _ = run(lost)
    newest = max((answer.about for answer in sure), default=None)
    assert (verdict.entry.frame if verdict.entry else None) == newest


@pytest.mark.parametrize("step", [0.2, 0.0])
def test_memory_is_bounded(step: float) -> None:
    """Also where a camera's clock stands still."""
    one = stream(focus="crop", in_flight=2)
    for number in range(10_000):
        info = replace(frame(number), captured=number * step)
        driven(one, info, SURE if number % 3 else replace(UNSURE, relevance=[[0] * 4] * 4))
        if one.wants_cloud(number):
            one.asked(number)
        if number % 7 == 0:
            one.answered(number, info.captured, "75", 0.1, PLACE)
    most = 51 if step else MOST_FRAMES
    assert len(one._frames) == len(one._order) == most
    assert len(one.history) <= MOST_ANSWERS
    assert one.in_flight <= 2
