"""From a log to a gate (`secondlook.engine.method.gate`): a logistic regression, fitted by scikit-learn.

A threshold is chosen on other pictures than a gate is fitted on, for the bound on wrong answers asks for
needs that were fixed before. So the pictures of a log are halved.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, Columns
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.run_log import LogError
from secondlook.engine.method.gate import FEATURES, Aim, Gate
from secondlook.engine.method.policy import Policy


def halves(columns: Columns, seed: int = 0) -> tuple[Columns, Columns]:
    """The questions about one half of the pictures, drawn at random, and about the other.

    Raises:
        LogError: there is but one picture.
    """
    pictures = np.random.default_rng(seed).permutation(np.unique(columns.picture))
    if len(pictures) < 2:
        raise LogError(
            "a gate needs a log of two pictures at least: one to be fitted on, one for a threshold"
        )
    first = np.isin(columns.picture, pictures[: len(pictures) // 2])
    return columns.take(first), columns.take(~first)


def fit_gate(columns: Columns, policy: Policy, aim: Aim) -> Gate:
    """A gate for what a policy decides.

    Args:
        policy: on how many tokens it is decided, and which answer is kept.
        aim: "gain" becomes "change" where no question's truth is known.

    Raises:
        LogError: all second looks come to the same.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    aim = aim if any(columns.truth) else "change"
    possible = columns.possible
    told = columns.first.features(policy.decide_after)[possible]
    reached = _reached(Replay(columns, replace(policy, gate=None)), aim)[possible]
    if reached.all() or not reached.any():
        what = {"gain": "makes the answer better", "change": "changes the answer"}[aim]
        which = "every one" if reached.any() else "none"
        raise LogError(
            f"of {len(reached)} second looks that a gate is to be fitted on {which} {what}: there is nothing "
            "to tell apart"
        )
    scaler, model = StandardScaler(), LogisticRegression(max_iter=1000)
    make_pipeline(scaler, model).fit(told, reached)
    weights = model.coef_[0] / scaler.scale_
    return Gate(
        version=1,
        aim=aim,
        intercept=float(model.intercept_[0] - weights @ scaler.mean_),
        weights=dict(zip(FEATURES, weights.tolist(), strict=True)),
        pictures=len(np.unique(columns.picture[possible])),
        questions=len(reached),
    )


def _reached(replay: Replay, aim: Aim) -> BoolArray:
    """[questions], whether the second look came to what the gate is to tell."""
    if aim == "gain":
        return replay.gain > 0
    texts = zip(replay.columns.first.text, replay.columns.second.text, strict=True)
    return replay.surer & np.array([first != second for first, second in texts], np.bool_)
