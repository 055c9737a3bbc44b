"""The dashboard in `deploy/`: every expression names metrics and labels that real servers have."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.fake_engine import FakeEngine
from engine.serving_harness import first_look, second_look, serving, session
from engine.streaming import opened, shown, site
from repository import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/secondlook.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:secondlook:\w+|process_\w+)")
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself gives to what it scrapes."""


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Of every sample that a site's /metrics has after questions and frames, its labels."""

    async def main() -> str:
        async with serving(site(FakeEngine())) as client:
            await first_look(client, "sure")
            await second_look(client, await session(client))
            await shown(client, await opened(client, "sure"), 0)
            return (await client.get("/metrics")).text

    samples = [s for family in text_string_to_metric_families(asyncio.run(main())) for s in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_what_there_is(expression: str, labels: dict[str, set[str]]) -> None:
    names = set(NAME.findall(expression))
    assert names
    assert names <= labels.keys()
    there = set.intersection(*(labels[name] for name in names)) | OF_PROMETHEUS
    grouped = [label for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(", ")]
    chosen = re.findall(r"(\w+)=~?\"", expression)
    assert {*grouped, *chosen} - {"decision", "look"} <= there
    assert {*grouped, *chosen} <= set.union(*(labels[name] for name in names)) | OF_PROMETHEUS


def test_every_metric_of_ours_that_is_no_detail_is_shown(labels: dict[str, set[str]]) -> None:
    shown_names = {name for expression in EXPRESSIONS for name in NAME.findall(expression)}
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in labels}
    missing = {
        name
        for name in families
        if name.startswith("secondlook:")
        and not any(shown_name.startswith(name.removesuffix("_total")) for shown_name in shown_names)
    }
    assert missing <= {"secondlook:build_info", "secondlook:model_info", "secondlook:kv_cache_usage_perc"}


def test_panels_are_told_apart_and_lie_beside_each_other() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert all(x < 24 for x, _ in taken)
