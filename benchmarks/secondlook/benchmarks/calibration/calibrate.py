"""From logs and a target to a policy file, and the same for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secondlook.benchmarks.calibration.answers import ReadLogs, answers_of, read_logs
from secondlook.benchmarks.calibration.bounds import wrong_share
from secondlook.benchmarks.calibration.choosing import choose
from secondlook.benchmarks.run_log import LogError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import CalibratedOn, Estimate, PolicyFile, Target

__all__ = ["calibrate", "calibration_text"]


def calibrate(
    logs: Sequence[Path],
    target: Target,
    policy: Policy,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PolicyFile:
    """The policy for a target.

    Args:
        logs: of one full-retransmission run, or of its shards.
        policy: how doubt is measured and what follows; its threshold is not used.
        confidence: of the intervals and the bound.

    Raises:
        LogError: see `read_logs`.
        SettingsError: see `choose`.
    """
    found = read_logs(logs)
    answers = answers_of(found.records, policy)
    choice = choose(answers, target, confidence=confidence, resamples=resamples, seed=seed)
    threshold = choice.threshold.value
    return PolicyFile(
        threshold=threshold,
        measure=policy.measure,
        aggregation=policy.aggregation,
        first_k=policy.first_k,
        include_eos=policy.include_eos,
        arbitration=policy.arbitration,
        decide_after=policy.decide_after,
        target=target,
        threshold_interval=choice.threshold,
        expected=choice.expected,
        confidence=confidence,
        wrong_unrefined=wrong_share(answers, threshold, confidence, choice.candidates),
        calibrated_on=_described(found, int(answers.picture.max()) + 1),
    )


def calibration_text(found: PolicyFile) -> str:
    """The policy in a few lines."""
    on, wrong, expected = found.calibrated_on, found.wrong_unrefined, found.expected
    asked = f"{on.questions} questions about {on.pictures} pictures ({on.data.get('name')})"
    each = ", one question a picture" if on.pictures < on.questions else ""
    share = f"{wrong.wrong} of {wrong.unrefined} here{each}"
    return "\n".join(
        [
            f"calibrated on {asked}, asked of {on.model} in {on.dtype}",
            f"target: {found.target.kind.replace('_', ' ')} {found.target.value:g}",
            "",
            f"{'':22}{'':>10}   {found.confidence:.0%} interval",
            _line("threshold", found.threshold_interval, 4),
            _line("retransmission rate", expected["retransmission_rate"], 3),
            _line("accuracy", expected["accuracy"], 3),
            _line("bytes a question", expected["bytes"], 0),
            "",
            f"wrong among the answers without a second look: {share},",
            f"so at most {wrong.bound:.1%} with {wrong.confidence:.0%} confidence, of questions like these",
        ]
    )


def _line(name: str, found: Estimate, digits: int) -> str:
    return f"{name:22}{found.value:10.{digits}f}   {found.low:.{digits}f} to {found.high:.{digits}f}"


def _described(found: ReadLogs, pictures: int) -> CalibratedOn:
    settings = found.header.settings
    # A merged log states what each shard was made on.
    made = found.header.made
    name = made["model"] if "model" in made else made.get("shards", [{}])[0].get("model")
    try:
        return CalibratedOn(
            logs=found.digests,
            model=str(name),
            weights=settings["model"]["weights"],
            dtype=settings["model"]["dtype"],
            data=settings["data"],
            jpeg=settings["jpeg"],
            pictures=pictures,
            questions=len(found.records),
        )
    except (KeyError, TypeError) as error:
        raise LogError(f"the log's header does not say what was asked: {error} is missing") from error
