"""Sweeps: shared work, the front, the pick, and going on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import example_report as example
from example_sweep import SCHEMA, example_sweep
from paths import DEMO, ROOT
from processes import accept_interrupts
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.errors import UsageError
from ssmpress.formats import Values
from ssmpress.gate.judge import judge
from ssmpress.gate.sweep import judge_sweep
from ssmpress.pipeline import Watch
from ssmpress.recipe.pick import METRICS, parse_pick
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.deploy import DeploySettings
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PruneSettings, Scope
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.recipe.sweep import Sweep
from ssmpress.report import tradeoff as tradeoff_charts
from ssmpress.report.schema import build_report, with_verdict
from ssmpress.report.sweep import pareto_front, tradeoff
from ssmpress.report.sweep_page import render_sweep_html, render_sweep_markdown
from ssmpress.report.tables import command
from ssmpress.stages.bundle import export_dense
from ssmpress.sweep import continues, run_sweep

COMMAND = [sys.executable, "-c", "from ssmpress.cli.compress import main; main()"]


def test_points_have_names_and_ascend() -> None:
    recipe = example.recipe(save_checkpoint=Path("saved"))
    points = Sweep(recipe, (0.725, 0.5), (Values.INT8, Values.FP16)).points()
    assert list(points) == ["s50-int8", "s50-fp16", "s72.5-int8", "s72.5-fp16"]
    last = points["s72.5-fp16"]
    assert (last.prune.sparsity, last.pack.values) == (0.725, Values.FP16)
    assert (last.out, last.save_checkpoint) == (Path("build/toy/s72.5-fp16"), Path("saved/s72.5"))


def test_a_pruned_checkpoint_has_one_sparsity() -> None:
    recipe = example.recipe(pruned=Path("p"))
    Sweep(recipe, (0.7,), (Values.INT8, Values.FP16))
    with pytest.raises(UsageError, match="--pruned: expected one --sparsity"):
        Sweep(recipe, (0.7, 0.8), (Values.INT8,))


def test_an_archive_is_of_one_bundle() -> None:
    recipe = example.recipe(deploy=DeploySettings(archive=True))
    Sweep(recipe, (0.7,), (Values.INT8,))
    with pytest.raises(UsageError, match="--archive: expected one bundle"):
        Sweep(recipe, (0.7,), (Values.INT8, Values.FP16))


def test_the_front_has_what_no_other_point_beats() -> None:
    rows = [(0.9, 5.0), (0.95, 6.0), (0.9, 6.0), (0.8, 5.0), (0.7, 1.0), (None, 1.0), (0.9, None)]
    points = [{"retention": kept, "cost": cost} for kept, cost in rows]
    assert pareto_front(points, "cost") == [True, True, False, False, True, False, False]
    twins = [{"retention": 0.9, "cost": 1.0}] * 2
    assert pareto_front(twins, "cost") == [True, True]


def test_the_pick_decides_the_exit_code() -> None:
    kept = example_sweep("retention>=0.95")
    assert (kept["pick"]["chosen"], kept["exit_code"]) == ("s50-int8", 0)
    assert kept["sentence"].startswith(
        "Pass: Picked s50-int8, the fastest of 1 that meet retention>=0.95."
    )
    poor = example_sweep("retention>=0.9")
    assert (poor["pick"]["chosen"], poor["exit_code"]) == ("s70-int8", 3)


@pytest.mark.parametrize(
    ("pick", "code", "words"),
    [
        ("retention>=0.99", 3, "s50-int8 has retention 0.983607"),
        ("retention>=0.9 and speedup>5", 4, "has speedup"),
        ("rss_bytes<1e9 and decode_ms<0.1", 4, "has decode_ms"),
    ],
)
def test_nothing_to_pick_fails_and_says_what_is_near(pick: str, code: int, words: str) -> None:
    summary = example_sweep(pick)
    assert (summary["pick"]["chosen"], summary["exit_code"]) == (None, code)
    assert words in summary["sentence"]
    assert "All bundles are kept." in summary["sentence"]


def test_a_metric_nobody_measured_is_inconclusive() -> None:
    sweep = Sweep(example.recipe(), (0.5, 0.7), (Values.INT8,), parse_pick("speedup>1"))
    reports = {}
    for name, recipe in sweep.points().items():
        report = build_report(recipe, example.results(measurements={}))
        reports[name] = with_verdict(report, judge(report, GateSettings(None)))
    assert judge_sweep(sweep, reports)["exit_code"] == 5


def test_without_a_pick_one_point_that_passes_is_enough() -> None:
    assert example_sweep()["exit_code"] == 0
    none = example_sweep(s50_int8=40.0)
    assert none["exit_code"] == 3
    assert "The closest is s70-int8" in none["sentence"]


def test_the_comparison_is_rendered() -> None:
    summary = example_sweep("retention>=0.9")
    text = render_sweep_markdown(summary)
    assert "# toy at 50, 70 % sparsity" in text
    assert "| s70-int8 | 90.9 % |" in text
    page = render_sweep_html(summary)
    assert page.count("<svg") == 2
    assert 'href="s50-int8/report.html"' in page
    assert "--sparsity 0.5,0.7" in page
    assert "--pick &#39;retention&gt;=0.9&#39;" in page


def test_every_type_of_values_has_a_colour_and_a_place_in_the_schema() -> None:
    kinds = {str(kind) for kind in Values}
    assert set(tradeoff_charts._COLOURS) == kinds
    assert set(SCHEMA["properties"]["values"]["items"]["enum"]) == kinds
    assert set(SCHEMA["properties"]["points"]["items"]["properties"]["values"]["enum"]) == kinds


def test_hostile_names_are_escaped() -> None:
    summary = example_sweep()
    summary["recipe"]["model"] = "<script>alert(1)"
    summary["sentence"] = "<img src=x onerror=alert(1)>"
    assert "<script" not in render_sweep_html(summary)
    assert "<img" not in render_sweep_html(summary)
    assert "\\<script" in render_sweep_markdown(summary)


def test_the_report_of_a_point_repeats_the_sweep() -> None:
    summary = example_sweep("retention>=0.9")
    report = {**example.report(), "tradeoff": tradeoff(summary, "s70-int8")}
    assert "--sparsity 0.5,0.7" in command(report)
    assert command(report).endswith("--pick 'retention>=0.9'")


@pytest.mark.parametrize(
    ("prune", "recover", "expected"),
    [
        ({}, {}, True),
        ({}, {"steps": 0}, False),
        ({}, {"regrow": True}, False),
        ({"scope": Scope.OWL}, {}, False),
        ({"pattern": "2:4"}, {}, False),
        ({"method": "wanda"}, {}, False),
    ],
)
def test_recovery_goes_on_where_masks_only_tighten(prune, recover, expected) -> None:
    recipe = Recipe(
        DEMO, Path("out"), prune=PruneSettings(**prune), recover=RecoverSettings(**recover)
    )
    assert continues(recipe) is expected


def small(model: Path, out: Path, **changes: Any) -> Recipe:
    return Recipe(
        **{
            "model": model,
            "out": out,
            "recover": RecoverSettings(steps=0),
            "prune": PruneSettings(calibration_batches=2),
            "data": DataSettings(evaluation_tokens=2000, window=200),
            "gate": GateSettings(min_retention=None),
            "pack": PackSettings(),
            "threads": 1,
            **changes,
        }
    )


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssmpress"


def test_work_is_shared_and_the_picked_bundle_is_the_output(
    tmp_path, cache, monkeypatch, small_demo
) -> None:
    calls: list[str] = []
    watch = Watch(progress=lambda what, done, total: calls.append(what) if done == total else None)
    exported = []
    real = export_dense
    monkeypatch.setattr(
        "ssmpress.sweep.export_dense", lambda *given: exported.append(1) or real(*given)
    )
    out = tmp_path / "out"
    recipe, pick = small(small_demo, out), parse_pick("retention>=0.1")
    sweep = Sweep(recipe, (0.6, 0.3), (Values.INT8, Values.FP16), pick)
    result = run_sweep(sweep, watch)
    assert len(exported) == 1
    assert calls.count("calibration") == 1
    assert calls.count("perplexity, dense") == 1
    assert calls.count("perplexity, compressed") == 4
    chosen = result.summary["pick"]["chosen"]
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == {"s30-int8", "s30-fp16", "s60-int8", "s60-fp16"}
    assert {"model.onnx", "report.html"} <= set(verify_manifest(out)["files"])
    assert "scp -r out USER@DEVICE:" in (out / "README.md").read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["tradeoff"]["this"] == chosen
    assert 'class="tradeoff-latency"' in (out / "report.html").read_text()
    for name in folders:
        left = {path.name for path in (out / name).iterdir()}
        assert left == {"report.json", "report.md", "report.html", "junit.xml"}
    jsonschema.validate(json.loads((out / "sweep.json").read_text()), SCHEMA)
    assert not list(cache.iterdir()), "a finished sweep leaves nothing in the cache"


def test_recovery_goes_on_from_the_lower_sparsity(tmp_path, cache, small_demo) -> None:
    recover = RecoverSettings(steps=3, batch=2, window=32)
    out = tmp_path / "out"
    recipe = small(small_demo, out, recover=recover, save_checkpoint=tmp_path / "saved")
    result = run_sweep(Sweep(recipe, (0.4, 0.6), (Values.FP16,)))
    from ssmpress.checkpoint.read import read_checkpoint

    weights = [
        read_checkpoint(tmp_path / "saved" / name / "mamba-ssm").tensors for name in ("s40", "s60")
    ]
    for name, tensor in weights[0].items():
        if name.endswith("_proj.weight"):
            assert not bool(((tensor == 0) & (weights[1][name] != 0)).any()), "masks only grow"
    assert [p["continued_from"] for p in result.summary["points"]] == [None, 0.4]
    assert "Recovery went on" in (out / "sweep.md").read_text()
    for name in ("s40-fp16", "s60-fp16"):
        verify_manifest(out / name)


def test_interrupted_sweep_skips_what_is_finished(tmp_path, small_demo) -> None:
    options = "--sparsity 0.3,0.6 --recover none --evaluation-tokens 2000 --min-retention 0"
    arguments = [str(small_demo), *options.split(), "--threads", "1", "--out", "out"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
            preexec_fn=accept_interrupts,
        )

    process = start()
    assert process.stderr is not None
    while (line := process.stderr.readline()) and "s60-int8, 2 of 2" not in line:
        pass
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "the same command goes on where it stopped" in rest
    assert not (tmp_path / "out").exists()
    again = start()
    told = again.communicate(timeout=300)[1]
    assert again.returncode == 0, told
    first, _, second = told.partition("s60-int8, 2 of 2")
    assert "finished before" in first
    assert "latency" not in first
    assert "latency" in second
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "s30-int8",
        "s60-int8",
        "sweep.json",
        "sweep.md",
        "sweep.html",
    }


def test_the_documentation_lists_every_metric() -> None:
    text = (ROOT / "docs" / "sweep.md").read_text()
    for name, meaning in METRICS.items():
        assert f"| `{name}` | {meaning} |" in text
