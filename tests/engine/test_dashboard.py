"""The Grafana dashboard asks for what servers really tell."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

from engine.fake_engine import FakeEngine
from engine.serving_harness import serving
from engine.streaming import opened, shown, site
from repository import ROOT
from secondlook.benchmarks.report.dashboard import expression, panels

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "secondlook.json").read_text(encoding="utf-8"))
SELECTED = re.compile(r"((?:secondlook:|process_)[a-z0-9_]+)\{([^}]*)\}")


def exposed() -> dict[str, set[str]]:
    """The names that a site's server tells, with their labels."""

    async def main() -> str:
        async with serving(site(FakeEngine())) as client:
            await shown(client, await opened(client), 0)
            return (await client.get("/metrics")).text

    names: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(asyncio.run(main())):
        for sample in family.samples:
            names[sample.name] |= {*sample.labels, "instance"}  # which Prometheus adds
    return names


def test_every_expression_is_of_metrics_and_labels_that_there_are() -> None:
    known = exposed()
    asked = [(panel["title"], target) for panel in panels(DASHBOARD) for target in panel["targets"]]
    assert len(asked) > 30
    for title, target in asked:
        selected = SELECTED.findall(expression(target))
        assert selected, title
        labels = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        for name, selectors in selected:
            assert name in known, f"{title}: {name}"
            labels |= set(re.findall(r"(\w+)=", selectors))
            assert labels <= known[name], f"{title}: {labels - known[name]} of {name}"


def test_its_variables_are_of_metrics_that_there_are() -> None:
    known = exposed()
    queries = [one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert queries
    for query in queries:
        match = re.fullmatch(r"label_values\(([\w:]+), (\w+)\)", query)
        assert match is not None
        assert match[2] in known[match[1]]


def test_panels_have_a_place_and_an_id_each() -> None:
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]})
