"""Reports against their schema, renderings of the same dictionary, atomic files, the manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console

import example_report as example
import toy_onnx
from example_report import judged, planted
from report_schema import SCHEMA, undescribed
from ssmpress.bundle.manifest import verify_manifest, write_manifest
from ssmpress.errors import BadInputError
from ssmpress.files import read_json, write_bytes, write_json, write_text
from ssmpress.gate.judge import judge
from ssmpress.measure.interleaved import MeasureSettings, Variant, host_environment, measure_host
from ssmpress.measure.metrics import parity, retention
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.prune import PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.report.html import render_html
from ssmpress.report.markdown import render_markdown
from ssmpress.report.prose import quality
from ssmpress.report.schema import build_report, json_types, with_verdict
from ssmpress.report.tables import command, comparison, formats, gates, number, size, zeros
from ssmpress.report.tables import matrices as table_of_matrices
from ssmpress.report.terminal import print_report
from ssmpress.results.quality import Quality
from ssmpress.results.sizes import StoredShape
from ssmpress.runtime.loading import open_session
from ssmpress.tasks.perplexity import perplexity


def validate(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    json.dumps(report, allow_nan=False)


def test_a_real_report_fits_the_schema(tmp_path: Path) -> None:
    """Everything measured for real, on the toy: sessions, workers, gate."""
    model = toy_onnx.toy_model(tmp_path / "m.onnx")
    variants = {name: Variant(model, None) for name in ("dense", "stock", "compressed")}
    measured = measure_host(variants, MeasureSettings(8, 8, 8, 1))
    session = open_session(model, threads=1, library=None)
    windows = np.random.default_rng(0).integers(50, size=(9, 12))
    quality = perplexity(session.predict, windows)
    logits = {"logits": session.predict(windows)[0]}
    report = build_report(
        example.recipe(),
        example.results(
            measurements=measured,
            quality=Quality(quality, quality, retention(quality, quality)),
            parity=parity(logits, logits),
            environment=host_environment(threads=1, library=None),
        ),
    )
    validate(report)
    report = with_verdict(report, judge(report, GateSettings(0.9, 1e6, 1e-4)))
    validate(report)
    assert undescribed(report, SCHEMA) == []
    assert report["verdict"]["status"] == "pass", report["verdict"]["sentence"]
    assert report["quality"]["retention"] == 1
    assert report["latency"]["decode"]["speedup"] > 0


def test_numbers_of_the_report() -> None:
    report = judged()
    assert report["schema_version"] == 1
    assert report["sparsity"]["prunable"] == pytest.approx(113_200 / 160_000)
    assert report["sparsity"]["model"] == pytest.approx(113_200 / 400_000)
    assert report["sparsity"]["by_component"]["x_proj"] == pytest.approx(28_300 / 40_000)
    assert [layer["layer"] for layer in report["sparsity"]["by_layer"]] == [0, 1]
    assert report["sparsity"]["by_layer"][1]["sparsity"] == pytest.approx(0.715)
    assert "embedding" not in report["sparsity"]["by_component"]
    assert report["size"]["ratio"] == 4
    assert report["size"]["by_format"]["bitmask-int8"]["bytes"] == 72_000
    assert report["latency"]["decode"]["speedup"] == pytest.approx(2, rel=0.02)
    assert report["memory"]["dense_peak_rss_bytes"] == 90 << 20
    assert len(report["latency"]["samples"]["stock"]) == 11
    assert report["data"]["calibration"]["default_text"] is True
    assert "default text" in report["data"]["calibration"]["description"]
    assert report["quality"]["retention_interval"]["low"] == pytest.approx(30 / 31)


@pytest.mark.parametrize("changes", example.GAPS)
def test_reports_with_gaps_are_valid_and_rendered(changes: dict[str, Any]) -> None:
    report = judged(**changes)
    validate(report)
    assert render_markdown(report)
    print_report(report, Console(file=io.StringIO(), width=80))
    gap = ("measurements" in changes and not changes["measurements"]) or "compressed" in changes
    if gap:
        assert report["verdict"]["status"] != "pass"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("quality.retention", "1"),
        ("quality.retention", KeyError),
        ("verdict.status", "maybe"),
        ("sparsity.prunable", 1.2),
        ("latency.decode.dense.p50_ms", KeyError),
        ("schema_version", 2),
        ("size.model_bytes", -1),
        ("matrices", {}),
        ("parity", KeyError),
    ],
)
def test_the_schema_refuses_damage(path: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(planted(judged(), path, value))


def test_json_types() -> None:
    assert json_types({1: (np.float32(0.5), float("nan"), np.int64(3), True, None)}) == {
        "1": [0.5, None, 3, True, None]
    }
    with pytest.raises(TypeError, match="object has no JSON form"):
        json_types(object())


def test_markdown_says_everything() -> None:
    text = render_markdown(judged(compressed=40.0))
    assert text.startswith("# toy at 70.0 % sparsity\n\n**Fail: The quality kept is 75.0 %")
    for part in (
        "| perplexity | 30.00 | - | 40.00 | 75.0 % kept |",
        "| decode p50 ms | ",
        "| 1 | 71.5 % | 71.5 % | 71.5 % | 71.5 % | 71.5 % |",
        "| bitmask-int8 | 72,000 | 640,000 | 8 | 160,000 |",
        "smallest that is not slower",
        "compress models/toy --sparsity 0.7",
        "a\\|cpu",
        "the default text",
        "10 interleaved rounds",
        "| min_speedup | 1.500 |",
    ):
        assert part in text, part
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.endswith(" |")


def test_markdown_of_a_failed_parity_names_the_tensor() -> None:
    text = render_markdown(judged(parity=parity({"layers.3": np.ones(2)}, {})))
    assert "**Failed:** layers.3: is missing" in text


def test_hostile_text_stays_in_its_cell() -> None:
    environment = {"cpu": "x\n\n# heading <script>|[a](b)`"}
    text = render_markdown(judged(environment=environment))
    assert "| cpu | x # heading \\<script\\>\\|\\[a\\](b)\\` |" in text


@pytest.mark.parametrize("changes", [{}, {"compressed": 1e30}, {"dense": 1e9}])
def test_terminal_fits_80_columns(changes: dict[str, Any]) -> None:
    file = io.StringIO()
    print_report(judged(**changes), Console(file=file, width=200))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["dense", "stock", "compressed", "change"]
    assert any("decode p50 ms" in line and line.endswith("x faster") for line in lines)
    assert "\x1b" not in file.getvalue()


def test_terminal_colour_follows_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    for no_color, expected in ((None, True), ("1", False)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        file = io.StringIO()
        print_report(judged(), Console(file=file, force_terminal=True, color_system="standard"))
        assert ("\x1b[1;32m" in file.getvalue()) is expected


def test_sizes_add_up_to_the_model_and_the_bundle() -> None:
    changed = judged()
    changed["size"] |= {"bundle_bytes": 512_345, "runtime_bytes": 25_000_001}
    heading, *rows = formats(changed)
    assert heading == ["format", "stored bytes", "dense fp32 bytes", "matrices", "weights"]
    named = {row[0]: row for row in rows}

    def total(names: list[str], column: int) -> int:
        return sum(int(named[name][column].replace(",", "")) for name in names)

    parts = [name for name in named if named[name][3]] + ["norms, scan, graph"]
    assert len(parts) == 3
    for column, key in ((1, "model_bytes"), (2, "dense_fp32_bytes")):
        assert total(parts, column) == total(["model.onnx"], column) == changed["size"][key]
    assert total(["model.onnx", "library, tokenizer"], 1) == total(["bundle"], 1) == 512_345
    assert named["runtime"][1] == "25,000,001"
    for key, value in (
        ("bundle_bytes", None),
        ("by_format", {"x": {"matrices": 1, "weights": 2, "bytes": None, "dense_fp32_bytes": 8}}),
    ):
        changed["size"][key] = value
        assert "-" in {row[1] for row in formats(changed)}


def test_shape_zeros_and_bytes_of_a_matrix_are_those_that_are_stored() -> None:
    (one, *others) = example.matrices()
    smaller = replace(one, stored=StoredShape(80, 150, 6_000))
    report = example.report(matrices=(smaller, *others))
    validate(report)
    _, first, second, *_ = table_of_matrices(report)
    assert first[1:4] == ["80 x 150 of 100 x 200", "50.0 %", "bitmask-int8"]
    assert second[1:3] == ["100 x 200", "70.0 %"]
    for matrix in report["matrices"]:  # a report of before
        del matrix["stored"]
    validate(report)
    assert table_of_matrices(report)[1][1:3] == ["100 x 200", "70.0 %"]


def test_all_and_nothing_are_only_what_is_exactly_that() -> None:
    shares = (None, 0, 0.0004, 0.0006, 0.7, 0.996, 0.9996, 1, 1.0)
    shown = ["-", "0.0 %", "0.1 %", "0.1 %", "70.0 %", "99.6 %", "99.9 %", "100.0 %", "100.0 %"]
    assert [zeros(share) for share in shares] == shown


def test_sizes_have_one_unit() -> None:
    sizes = (None, 0, 999, 4_830_000, 12_345_678, 125_294_592)
    assert [size(n) for n in sizes] == ["-", "0.0 kB", "1.0 kB", "4.83 MB", "12.3 MB", "125.3 MB"]
    text = render_html(judged()) + render_markdown(judged())
    assert not re.search(r"\d [KMG]iB", text)


def test_what_was_asked_stands_before_what_was_measured_besides() -> None:
    metrics = {"word_perplexity": {"dense": 900.0, "compressed": 950.0}}
    report = example.report()
    report["quality"]["also"] = metrics
    rows = [row[0] for row in comparison(report)]
    assert rows[1:3] == ["perplexity", "model"]
    assert rows[-1] == "word perplexity"


def test_retention_is_in_percent_with_a_named_interval() -> None:
    report = judged()
    kept = next(row for row in gates(report) if row[0] == "min_retention")
    assert kept[1:4] == ["95.0 %", "96.8 %", "96.8 % to 96.8 %, 99.8 %"]
    assert "quality kept 96.8 % to 96.8 % (95 % interval over the windows)" in quality(report)


def test_number() -> None:
    shown = [number(v) for v in (None, 0.9677419, 31.74, 1234.5, 9.9e8, 1e9, 0)]
    assert shown == ["-", "0.9677", "31.74", "1,234", "990,000,000", "1.00e+09", "0.000"]


def test_evaluation_on_the_calibration_text_is_said() -> None:
    results = example.results()
    report = build_report(example.recipe(), results)
    assert "served for calibration" not in quality(report)
    report["data"]["calibration"]["files"] = ["other.txt", "./text.txt"]
    assert quality(report).endswith(
        " text.txt served for calibration too: on data that was not seen the quality may be lower."
    )
    assert "served for calibration" in render_html(report)
    assert "served for calibration" in render_markdown(report)


def test_command_reproduces_what_is_not_default() -> None:
    recipe = example.recipe(
        prune=PruneSettings(sparsity=0.6, prunable=("in_proj", "out_proj")),
        recover=RecoverSettings(steps=0),
        data=DataSettings(evaluation=(Path("a b.txt"), Path("c.xz")), evaluation_tokens=500),
        gate=GateSettings(min_retention=0.5, min_speedup=2.0),
        seed=7,
    )
    line = command(build_report(recipe, example.results()))
    assert line.startswith("compress models/toy --sparsity 0.6 --prunable in_proj,out_proj ")
    assert "--recover none --evaluation 'a b.txt' --evaluation c.xz" in line
    assert "--evaluation-tokens 500" in line
    assert "--seed 7 --min-retention 0.5 --min-speedup 2.0 --out build/toy" in line


def test_command_repeats_the_limits_of_a_policy() -> None:
    gate = GateSettings(None, Relative(1.05), max_rss_bytes=5e7, baseline=Path("old/report.json"))
    line = command(build_report(example.recipe(gate=gate), example.results()))
    assert "--min-retention 0 --max-decode-ms 1.05x" in line
    assert "--max-rss-bytes 50000000.0 --baseline old/report.json" in line


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BadInputError, match="No space left on device"):
        write_json(path, {"a": 2})
    monkeypatch.undo()
    assert read_json(path) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "report.md", "text")
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    with pytest.raises(BadInputError, match="cannot be written"):
        write_bytes(tmp_path / "none" / "file", b"x")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000]
)
def test_read_json_is_strict(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="expected a JSON object"):
        read_json(path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "lib").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "lib" / "ops.so").write_bytes(b"library")
    write_manifest(folder, ["model.onnx", "lib/ops.so"], example.recipe(seed=5), {"ö": 1.0})
    return folder


def test_manifest_lists_and_seals(bundle: Path) -> None:
    manifest = verify_manifest(bundle)
    assert manifest["files"]["model.onnx"] == {
        "bytes": 5,
        "sha256": hashlib.sha256(b"model").hexdigest(),
    }
    assert manifest["seed"] == 5
    assert manifest["recipe"]["prune"]["sparsity"] == 0.7
    assert manifest["versions"]["ssmpress"]
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert manifest["manifest_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and give it a hash that fits, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest.pop("manifest_sha256")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["manifest_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_changed_files_are_named(bundle: Path) -> None:
    (bundle / "lib" / "ops.so").write_bytes(b"Library")
    with pytest.raises(BadInputError, match=r"lib/ops\.so: expected 7 bytes, sha256"):
        verify_manifest(bundle)
    (bundle / "lib" / "ops.so").unlink()
    with pytest.raises(BadInputError, match=r"lib/ops\.so: the manifest names it, but"):
        verify_manifest(bundle)


def test_a_changed_manifest_is_noticed(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(BadInputError, match="the manifest was changed"):
        verify_manifest(bundle)
    path.unlink()
    with pytest.raises(BadInputError, match="there is none"):
        verify_manifest(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "lib/../../secret",
        "",
        ".",
        "lib",
        "./model.onnx",
        "a\\b",
        "lib//ops.so",
        "manifest.json",
        "x\0y",
        "link",
    ],
)
def test_names_cannot_leave_the_folder(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_bytes(b"model")
    (bundle / "link").symlink_to(bundle.parent / "secret")
    with pytest.raises(BadInputError):
        write_manifest(bundle, [name], example.recipe())
    verify_manifest(bundle)
    entry = {"bytes": 5, "sha256": hashlib.sha256(b"model").hexdigest()}
    reseal(bundle, lambda manifest: manifest.update(files={name: entry}))
    with pytest.raises(BadInputError):
        verify_manifest(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files={}),
        lambda m: m.update(files=[]),
        lambda m: m.pop("files"),
        lambda m: m.update(manifest_version=2),
        lambda m: m["files"].update({"model.onnx": None}),
        lambda m: m["files"]["model.onnx"].update(bytes="5"),
    ],
)
def test_resealed_nonsense_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    reseal(bundle, change)
    with pytest.raises(BadInputError):
        verify_manifest(bundle)


@pytest.mark.parametrize(("speedup", "words"), [(2.0, "2.00x faster"), (0.8, "1.25x slower")])
def test_a_loss_is_not_told_as_a_gain(speedup: float, words: str) -> None:
    slower = judged()
    slower["latency"]["decode"]["speedup"] = speedup
    file = io.StringIO()
    print_report(slower, Console(file=file, width=80))
    row = next(line for line in file.getvalue().splitlines() if "decode p50 ms" in line)
    assert row.endswith(words)
