"""The results of `secondlook bench budget` as the README shows them."""

from __future__ import annotations

from typing import Any

__all__ = ["budget_markdown"]


def budget_markdown(report: dict[str, Any]) -> str:
    """A table of streams and rates, and what it was measured on."""
    rates = list(dict.fromkeys(rate for stream in report["streams"].values() for rate in stream))
    titles = " | ".join(f"{float(rate):.0%}" for rate in rates)
    lines = [
        f"| stream | {titles} |",
        f"| --- |{' ---: |' * len(rates)}",
        *(
            f"| {name} | {' | '.join(_cell(stream.get(rate)) for rate in rates)} |"
            for name, stream in report["streams"].items()
        ),
    ]
    on = report["environment"]
    text = (
        f"Points that the retransmission rate was off its target at worst, over any {report['window']} "
        f"questions after the first {report['warm_up']}; in brackets points of accuracy lost to thresholds "
        f"fixed for each {report['window']} questions at the same rates. {report['repeats']} streams of each "
        f"kind, drawn from {report['questions']} questions. At most half a point is lost in "
        f"{report['within_half_a_point']} of {report['cells']} cases, "
        f"{100 * report['mean_loss_in_blocks']:.2f} points in the mean. Commit {on['commit'] or 'unknown'}."
    )
    return f"{text}\n\n" + "\n".join(lines) + "\n"


def _cell(cell: dict[str, float] | None) -> str:
    if cell is None:
        return ""
    return f"{100 * cell['worst_deviation']:.1f} ({100 * cell['loss_in_blocks']:.1f})"
