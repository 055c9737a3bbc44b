"""The results of `secondlook eval signs` as the documents show them."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["AIMS", "missed", "results_markdown"]

AIMS: Final = {
    "accuracy_global": "50 to 70 %",
    "accuracy": "98 % of that with always two looks",
    "accuracy_full": "93 %",
    "retransmission_rate": "at most 50 %",
    "auroc": "0.90",
    "region_hit": "92 %",
}
"""What the embedded model was made for, for reading questions."""

_ROWS: Final = {
    "accuracy_global": "accuracy from the global image",
    "accuracy": "accuracy with two looks",
    "accuracy_random": "accuracy with as many second looks at random",
    "accuracy_full": "accuracy with always two looks",
    "retransmission_rate": "retransmission rate",
    "auroc": 'area under the ROC curve of uncertainty for "the first answer is wrong"',
    "region_hit": "the region holds the asked sign's centre",
}
_TYPES: Final = ("read", "exists", "describe")


def missed(report: dict[str, Any]) -> list[str]:
    """Which of the aims a report does not reach, as keys of `AIMS`."""
    reached = {
        "accuracy_global": 0.50 <= report["accuracy_global"] <= 0.70,
        "accuracy": report["of_full"] >= 0.98,
        "accuracy_full": report["accuracy_full"] >= 0.93,
        "retransmission_rate": report["retransmission_rate"] <= 0.50,
        "auroc": report["auroc"] >= 0.90,
        "region_hit": report["region_hit"] >= 0.92,
    }
    return [key for key, yes in reached.items() if not yes]


def results_markdown(report: dict[str, Any]) -> str:
    """A table by type of question, the bytes sent, which aims were missed, and what it was measured on."""
    by_type = [report["by_type"][kind] for kind in _TYPES]
    table = [
        "| | read a number | is there a sign | describe | aim (reading) |",
        "| --- | --- | --- | --- | --- |",
        f"| questions | {' | '.join(str(values['count']) for values in by_type)} | |",
    ]
    for key, label in _ROWS.items():
        cells = " | ".join(_cell(key, values[key]) for values in by_type)
        table.append(f"| {label} | {cells} | {AIMS.get(key, '')} |")
    paragraphs = ["\n".join(table), _bytes(report), _judgement(report), _environment(report)]
    return "\n\n".join(paragraphs) + "\n"


def _bytes(report: dict[str, Any]) -> str:
    sent = {name: f"{count / 1000:.1f} kB" for name, count in report["bytes"].items()}
    times = report["bytes"]["original"] / report["bytes"]["two_looks"]
    return (
        f"A reading question took {sent['two_looks']} with two looks ({sent['global']} for the global image, "
        f"{sent['local']} for each local one); the originals have {sent['original']} each, {times:.0f} times "
        "as much."
    )


def _judgement(report: dict[str, Any]) -> str:
    names = [_ROWS[key] for key in missed(report)]
    return (
        f"Two looks reach {100 * report['of_full']:.1f} % of the accuracy of always two looks; over random "
        "retransmission the least margin, for rates from 5 to 95 %, is "
        f"{100 * report['margin_over_random']:.1f} points. "
    ) + (f"**Not reached: {'; '.join(names)}.**" if names else "Every aim is reached.")


def _environment(report: dict[str, Any]) -> str:
    on = report["environment"]
    return (
        f"Measured on {on['device']} ({on['cores']} cores), {on['dtype']}, torch {on['torch']}, "
        f"transformers {on['transformers']}, commit {on['commit']}, with a threshold of "
        f"{report['threshold']:.4g} nats."
    )


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if key == "auroc" else f"{100 * value:.1f} %"
