"""A sweep with known numbers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

import example_report as example
from paths import ROOT
from ssmpress.formats import Values
from ssmpress.gate.judge import judge
from ssmpress.gate.sweep import judge_sweep
from ssmpress.recipe.pick import parse_pick
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.schema import build_report, with_verdict

SCHEMA = json.loads((ROOT / "docs" / "sweep.schema.json").read_text())


def example_sweep(pick: str = "", **perplexities: float) -> dict[str, Any]:
    """sweep.json of made-up reports, by point: s50 slower and better than s70."""
    sweep = Sweep(example.recipe(), (0.7, 0.5), (Values.INT8,), parse_pick(pick) if pick else ())
    found = {"s50_int8": 30.5, "s70_int8": 33.0} | perplexities
    times = {"s50_int8": 6.0, "s70_int8": 4.0}
    reports = {}
    for name, recipe in sweep.points().items():
        key = name.replace("-", "_")
        rows = {
            "dense": example.measurement(10.0, seed=1),
            "compressed": example.measurement(times[key], seed=2),
        }
        report = build_report(recipe, example.results(compressed=found[key], measurements=rows))
        reports[name] = with_verdict(report, judge(report, GateSettings(0.95)))
    summary = judge_sweep(sweep, reports)
    jsonschema.validate(summary, SCHEMA)
    return summary
