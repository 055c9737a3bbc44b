"""The Grafana dashboard's panels as a picture, without Grafana: their own expressions, asked of a Prometheus.

    python -m secondlook.benchmarks.report.dashboard PROMETHEUS OUT [--minutes 3]

Runs in the repository's root.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter
from PIL import Image

from secondlook.benchmarks.report.plots import SERIES, STYLE

__all__ = ["draw_dashboard"]

DASHBOARD: Final = Path("deploy/grafana/secondlook.json")

_VARIABLES: Final = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*"}
"""What stands for Grafana's variables."""

_STEPS: Final = 90
_COLUMNS: Final = 3
_COLOURS: Final = 32
_HEADROOM: Final = 1.35
"""For the legend."""
_DRAWN_UNITS: Final = {"percentunit": PercentFormatter(1), "s": EngFormatter("s"), "bytes": EngFormatter("B")}


def draw_dashboard(prometheus: str, minutes: float) -> Figure:
    """Every panel over the last minutes, in the dashboard's order.

    Args:
        prometheus: its URL.
    """
    end = time.time()
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    rows = -(-len(panels) // _COLUMNS)
    with rc_context(fname=STYLE), httpx.Client(base_url=prometheus, timeout=30) as client:
        figure = Figure(figsize=(13, 2.35 * rows))
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, _COLUMNS, place)
            _draw(axes, panel, client, end - 60 * minutes, end)
        return figure


def _draw(axes: Axes, panel: dict[str, Any], client: httpx.Client, start: float, end: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    curves = [curve for target in panel["targets"] for curve in _curves(target, client, start, end)]
    at = np.linspace(0, (end - start) / 60, _STEPS)
    # Grafana lists what is zero all the time too; here that would hide the rest.
    seen = [(label, values) for label, values in curves if np.nanmax(np.nan_to_num(values)) > 0] or curves[:1]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        colours = [SERIES[number % len(SERIES)] for number in range(len(seen))]
        heights = [np.nan_to_num(values) for _, values in seen]
        axes.stackplot(at, heights, labels=[label for label, _ in seen], colors=colours, alpha=0.75)
    else:
        for number, (label, values) in enumerate(seen):
            axes.plot(at, values, label=label, color=SERIES[number % len(SERIES)])
    unit = defaults["unit"]
    axes.set_title(
        {"reqps": "{} (a second)", "nats": "{} (nats)", "Bps": "{} (bytes a second)"}.get(unit, "{}").format(
            panel["title"]
        ),
        loc="left",
        fontweight="bold",
    )
    axes.yaxis.set_major_formatter(_DRAWN_UNITS.get(unit, FuncFormatter(_number)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda minute, _: f"{minute:g} min"))
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)
    axes.set_xlim(0, at[-1])
    axes.legend(loc="upper left", fontsize=7, handlelength=1.2, labelspacing=0.25)


def _number(value: float, _place: int) -> str:
    return f"{value:g}" if value < 1000 else f"{value / 1000:g}k"


def _curves(
    target: dict[str, Any], client: httpx.Client, start: float, end: float
) -> list[tuple[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    expression = target["expr"]
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    step = (end - start) / (_STEPS - 1)
    asked = {"query": expression, "start": start, "end": end, "step": step}
    reply = client.get("/api/v1/query_range", params={k: str(v) for k, v in asked.items()})
    reply.raise_for_status()
    curves = []
    for series in reply.json()["data"]["result"]:
        values = np.full(_STEPS, np.nan)
        for moment, value in series["values"]:
            values[min(_STEPS - 1, round((float(moment) - start) / step))] = float(value)
        legend = target["legendFormat"]
        for label, text in series["metric"].items():
            legend = legend.replace(f"{{{{{label}}}}}", text)
        curves.append((legend, values))
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("prometheus", help="its URL")
    parser.add_argument("out", type=Path, help="the picture's file")
    parser.add_argument("--minutes", type=float, default=3.0)
    given = parser.parse_args()
    drawn = io.BytesIO()
    draw_dashboard(given.prometheus, given.minutes).savefig(drawn, format="png", dpi=72)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
