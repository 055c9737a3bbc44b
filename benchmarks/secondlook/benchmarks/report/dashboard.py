"""The panels of deploy/grafana/secondlook.json as Prometheus sees a server now, in one picture:

python -m secondlook.benchmarks.report.dashboard --prometheus http://127.0.0.1:9090 --output FILE.png
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from PIL import Image

from secondlook.benchmarks.report.plots import STYLE
from secondlook.edge.errors import SettingsError

__all__ = ["draw", "panels"]

_COLUMNS: Final = 3
_POINTS: Final = 90
_RATE: Final = "20s"
"""For Grafana's $__rate_interval: some scrapes."""

_UNITS: Final = {"Bps": "B/s", "bytes": "B", "s": "s"}
"""Those with prefixes."""


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """A dashboard's panels with something to draw, in order."""
    return [panel for panel in dashboard["panels"] if panel.get("targets")]


def expression(target: dict[str, Any]) -> str:
    """A target's query, for all servers and models."""
    text: str = target["expr"]
    for name, value in {"$instance": ".*", "$model": ".*", "$__rate_interval": _RATE}.items():
        text = text.replace(name, value)
    return text


def series(client: httpx.Client, target: dict[str, Any], begin: float, end: float) -> list[tuple[str, Any]]:
    """What a target draws: a name, and [points, 2] of seconds and values, for each line.

    Raises:
        SettingsError: Prometheus refuses the query.
    """
    asked: dict[str, str | float] = {
        "query": expression(target),
        "start": begin,
        "end": end,
        "step": (end - begin) / _POINTS,
    }
    reply = client.get("/api/v1/query_range", params=asked).json()
    if reply["status"] != "success":
        raise SettingsError(f"Prometheus refuses {asked['query']!r}: {reply.get('error')}")
    lines = []
    for found in reply["data"]["result"]:
        name = target.get("legendFormat", "")
        for label, value in found["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        values = np.array([[float(when), float(value)] for when, value in found["values"]])
        lines.append((name, values))
    return lines


def draw(dashboard: dict[str, Any], prometheus: str, seconds: float) -> Figure:
    """Each panel that has data of the last `seconds`."""
    end = time.time()
    with httpx.Client(base_url=prometheus) as client:
        told = []
        for panel in panels(dashboard):
            found = [series(client, target, end - seconds, end) for target in panel["targets"]]
            lines = [line for some in found for line in some]
            if any(np.isfinite(at[:, 1]).any() for _, at in lines):
                told.append((panel, lines))
    if not told:
        raise SettingsError(f"{prometheus} has nothing of secondlook's from the last {seconds:g} s")
    rows = -(-len(told) // _COLUMNS)
    with rc_context(fname=STYLE):
        figure = Figure(figsize=(4 * _COLUMNS, 2.3 * rows), layout="constrained", dpi=80)
        for place, (panel, lines) in enumerate(told):
            axes = figure.add_subplot(rows, _COLUMNS, place + 1)
            for name, at in lines:
                axes.plot(at[:, 0] - end, at[:, 1], label=name, linewidth=1.2)
            unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
            if unit == "percentunit":
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            elif unit in _UNITS:
                axes.yaxis.set_major_formatter(EngFormatter(_UNITS[unit]))
            told_unit = {"reqps": ", a second", "nats": ", nats"}.get(unit, "")
            axes.set_title(f"{panel['title']}{told_unit}", loc="left", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=6, loc="best", frameon=True, framealpha=0.8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--dashboard", type=Path, default=Path("deploy/grafana/secondlook.json"))
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    dashboard = json.loads(chosen.dashboard.read_text(encoding="utf-8"))
    drawn = io.BytesIO()
    draw(dashboard, chosen.prometheus, chosen.seconds).savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(64).save(chosen.output, optimize=True)


if __name__ == "__main__":
    main()
