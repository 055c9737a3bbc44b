"""From logs and a target to a policy file, with a bound on how many answers without a second look are wrong.

What is guaranteed. Let the questions of the log and those to come be independent draws from one
distribution. Then, with probability at least `confidence` over the draw of the log, the share of wrong
answers among the questions to come that get no second look is at most `bound`. (Exchangeability of
each question with the rest, which conformal methods ask for, would bound the expectation alone.) It says
nothing of a stream whose difficulty has shifted since, or of a threshold that moves. Questions about one
picture may go wrong together: of several, one is counted, drawn at random; as the threshold is chosen on all
of them, the guarantee is then nearly that.

How. Let the thresholds tried be order statistics of the doubts, at ranks fixed beforehand. Given its value,
the questions below an order statistic are independent draws of a question below that value; how many of them
are wrong is a binomial count, bounded by Clopper & Pearson (Biometrika 26, 1934). A threshold for a rate is
one such order statistic. One for bytes or for accuracy is chosen among `candidates` of them by looking at the
answers, and so each is tested at (1 - confidence) / candidates: the union bound of Learn then Test
(Angelopoulos et al., arXiv 2110.01052). Ties among doubts, which continuous measures hardly have, are not
treated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.calibration.thresholds import Answers, choose
from secondlook.benchmarks.run_log import LogError, RunHeader, check_same_run, read_log
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import CalibratedOn, Estimate, PolicyFile, Target, WrongShare

_WRONG_BELOW = 0.5
"""An answer is wrong if its score is below a half, as everywhere in the evaluation."""


def wrong_share(answers: Answers, threshold: float, confidence: float, candidates: int) -> WrongShare:
    """The bound at one of so many thresholds."""
    drawn = np.random.default_rng(0).permutation(len(answers.picture))
    _, place = np.unique(answers.picture[drawn], return_index=True)
    one_each = drawn[place]  # of each picture one question, the same ones each time
    unrefined = one_each[answers.doubt[one_each] < threshold]
    wrong = int((answers.first[unrefined] < _WRONG_BELOW).sum())
    total = len(unrefined)
    bound = binomial_upper_bound(wrong, total, (1 - confidence) / candidates)
    return WrongShare(bound=bound, confidence=confidence, unrefined=total, wrong=wrong, candidates=candidates)


def binomial_upper_bound(successes: int, trials: int, risk: float) -> float:
    """The p at which `successes` or fewer of `trials` have the probability `risk`; 1 without any failure.

    The upper end of Clopper & Pearson's one-sided interval, to 1e-12, by bisection.
    """
    if successes >= trials:
        return 1.0
    counts = np.arange(successes + 1)
    ways = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
    )
    low, high = successes / trials, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        logs = ways + counts * math.log(middle or 1e-300) + (trials - counts) * math.log1p(-middle)
        if np.exp(logs).sum() > risk:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class ReadLogs:
    """One run's answers, from one log or from those of its shards.

    Attributes:
        digests: SHA-256 of each log's bytes, its first 16 hexadecimal digits.
    """

    header: RunHeader
    columns: Columns
    digests: tuple[str, ...]


def read_logs(paths: Sequence[Path]) -> ReadLogs:
    """The logs that belong together."""
    runs = {path: read_log(path) for path in dict.fromkeys(paths)}
    check_same_run({path: run.header for path, run in runs.items()})
    seen: dict[int, Path] = {}
    for path, run in runs.items():
        if not run.records:
            raise LogError(f"{path} has no answers yet; finish it with the command that began it")
        for index in {record.index for record in run.records}:
            if index in seen:
                raise LogError(f"{path} and {seen[index]} both have picture {index}; name each log once")
            seen[index] = path
    first = next(iter(runs))
    columns = Columns.of(record for run in runs.values() for record in run.records)
    if not columns.possible.any():
        raise LogError(f"{first} has no second look: no picture had detail to gain, and no threshold matters")
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in runs)
    return ReadLogs(runs[first].header, columns, digests)


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
    """
    found = read_logs(logs)
    answers = Answers.of(found.columns, policy)
    choice = choose(answers, target, confidence=confidence, resamples=resamples, seed=seed)
    threshold = choice.threshold.value
    return PolicyFile(
        **asdict(replace(policy, threshold=threshold)),
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
            questions=len(found.columns),
        )
    except (KeyError, TypeError) as error:
        raise LogError(f"the log's header does not say what was asked: {error} is missing") from error
