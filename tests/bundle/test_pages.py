"""The charts come last, from a process of their own; where they fail, the bundle is whole."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import example_report as example
from example_sweep import example_sweep
from ssmpress import files
from ssmpress.bundle import pages
from ssmpress.bundle.manifest import verify_manifest, write_manifest
from ssmpress.report.html import render_html
from ssmpress.report.sweep import write_sweep
from tiny_run import tiny_recipe

NO_CHARTS = "This page has no charts."


def finished(out: Path) -> Path:
    """A bundle as a run puts it into its place: complete but for the charts."""
    out.mkdir()
    report = example.judged()
    files.write_json(out / "report.json", report)
    files.write_text(out / "report.html", render_html(report, charts=False))
    (out / "model.onnx").write_bytes(b"a model")
    write_manifest(out, ["model.onnx", "report.json", "report.html"], example.recipe())
    return out


def test_charts_are_put_into_a_finished_bundle(tmp_path: Path) -> None:
    out, notes = finished(tmp_path / "out"), list[str]()
    before = (out / "report.html").read_text()
    assert NO_CHARTS in before
    assert "<svg" not in before
    pages.add_charts(out, notes.append)
    assert not notes
    page = (out / "report.html").read_text()
    assert page == render_html(example.judged())
    assert NO_CHARTS not in page
    verify_manifest(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_charts_of_a_sweep(tmp_path: Path) -> None:
    out, notes = tmp_path / "out", list[str]()
    out.mkdir()
    summary = example_sweep()
    for point in summary["points"]:
        finished(out / point["name"])
    write_sweep(out, summary)
    assert NO_CHARTS in (out / "sweep.html").read_text()
    pages.add_charts(out, notes.append)
    assert not notes
    assert (out / "sweep.html").read_text().count("<svg") == 2
    for point in summary["points"]:
        verify_manifest(out / point["name"])
        assert (out / point["name"] / "report.html").read_text() == render_html(example.judged())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda patch: patch.setattr(pages.sys, "executable", "/nowhere"), "could be started"),
        (lambda patch: patch.setattr(pages, "_SECONDS", 0), "took more than 0 seconds"),
        (lambda patch: patch.setattr(pages, "_MODULE", "no.such.module"), "no.such.module"),
    ],
)
def test_what_fails_is_said_and_changes_nothing(tmp_path: Path, monkeypatch, damage, words) -> None:
    out, notes = finished(tmp_path / "out"), list[str]()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    damage(monkeypatch)
    pages.add_charts(out, notes.append)
    (note,) = notes
    assert note.startswith("report.html has no charts: ")
    assert words in note
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_under_a_limit_of_its_address_space_keeps_its_bundle(tmp_path: Path) -> None:
    """`ulimit -v`: V8 reserves more than any such limit leaves, and ends its process."""
    recipe = tiny_recipe(tmp_path)
    command = [
        sys.executable,
        "-c",
        "from ssmpress.cli.compress import main; main()",
        recipe.model,
        "--recover",
        "none",
        "--min-retention",
        "0",
        "--threads",
        "1",
        "--out",
        recipe.out,
        "--calibration",
        recipe.data.calibration[0],
        "--evaluation",
        recipe.data.evaluation[0],
    ]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    told = " ".join(done.stderr.split())
    assert "report.html has no charts: the process that draws them was ended by signal" in told
    assert "(ulimit -v)" in told
    assert NO_CHARTS in (recipe.out / "report.html").read_text()
    assert "report.html" in verify_manifest(recipe.out)["files"]
    assert done.returncode in (0, 5), done.stderr
