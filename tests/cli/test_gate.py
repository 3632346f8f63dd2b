"""ssmpress-gate: planted regressions of every rule, JUnit, job summary, exit codes, no torch."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from junitparser import Error, Failure, JUnitXml

import example_report as example
from blocked_imports import HEAVY, python
from ssmpress.cli import gate as gate_cli
from ssmpress.files import write_json
from ssmpress.gate.judge import judge
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import RULES, GateSettings
from ssmpress.report.junit import render_junit
from ssmpress.report.schema import with_verdict
from ssmpress.report.summary import SUMMARY_LIMIT, cut

REGRESSIONS: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
    "min_retention": (0.95, lambda: example.report(compressed=40.0)),
    "max_perplexity_increase": (0.05, lambda: example.report(compressed=40.0)),
    "max_decode_ms": (6.0, lambda: slower(2.0)),
    "max_decode_p99_ms": (6.0, lambda: slower(2.0)),
    "min_speedup": (1.5, lambda: slower(2.0)),
    "max_bundle_bytes": (600_000, lambda: larger("size", "bundle_bytes")),
    "max_rss_bytes": (100 << 20, lambda: larger("memory", "compressed_peak_rss_bytes")),
}
"""By rule: a limit that the example keeps, and a report that breaks it."""


def slower(factor: float) -> dict[str, Any]:
    rows = {
        "dense": example.measurement(10.0, seed=1),
        "stock": example.measurement(12.0, seed=2),
        "compressed": example.measurement(5.0 * factor, seed=3),
    }
    return example.report(measurements=rows)


def larger(block: str, key: str) -> dict[str, Any]:
    report = copy.deepcopy(example.report())
    report[block][key] *= 2
    return report


def expected_code(rule: str) -> int:
    return 3 if rule in ("min_retention", "max_perplexity_increase") else 4


@pytest.fixture
def gate(monkeypatch, capfd, tmp_path):
    """Run `ssmpress-gate ARGUMENTS`: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write_json(tmp_path / "good.json", example.report())

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ssmpress-gate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            gate_cli.main()
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def test_every_rule_has_a_planted_regression() -> None:
    assert set(REGRESSIONS) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_regression_is_caught(gate, rule: str) -> None:
    limit, make = REGRESSIONS[rule]
    write_json(Path("bad.json"), make())
    Path("policy.toml").write_text(f"{rule} = {limit}\n")
    assert gate("good.json", "--policy", "policy.toml")[0] == 0
    code, out, _ = gate("bad.json", "--policy", "policy.toml", "--junit", "j.xml")
    assert code == expected_code(rule)
    assert "bad.json: fail" in out
    (case,) = next(iter(JUnitXml.fromfile("j.xml")))
    assert case.name == rule
    assert [type(result) for result in case.result] == [Failure]
    assert "is asked." in case.result[0].message


@pytest.mark.parametrize("rule", RULES)
def test_a_regression_against_the_baseline_is_caught(gate, rule: str) -> None:
    write_json(Path("bad.json"), REGRESSIONS[rule][1]())
    Path("policy.toml").write_text(f'{rule} = "{0.9 if rule.startswith("min") else 1.1}x"\n')
    arguments = ("--policy", "policy.toml", "--baseline", "good.json")
    code, out, _ = gate("good.json", *arguments)
    assert code == 0, out
    code, out, _ = gate("bad.json", *arguments)
    assert code == expected_code(rule)
    assert "times the baseline's" in out


@pytest.mark.parametrize("rule", RULES)
def test_a_missing_metric_is_inconclusive(gate, rule: str) -> None:
    report = copy.deepcopy(example.report())
    report["latency"] = report["memory"] = None
    report["quality"]["retention"] = report["quality"]["compressed"] = None
    del report["size"]["bundle_bytes"]
    write_json(Path("gaps.json"), report)
    code, _, _ = gate(
        "gaps.json", "--" + rule.replace("_", "-"), REGRESSIONS[rule][0], "--junit", "j.xml"
    )
    assert code == 5
    (case,) = next(iter(JUnitXml.fromfile("j.xml")))
    assert [type(result) for result in case.result] == [Error]


@pytest.mark.parametrize(
    ("path", "value", "limits"),
    [
        ("latency.cpu", "another", {"max_decode_ms": Relative(9)}),
        ("latency.threads", 64, {"min_speedup": Relative(0.1)}),
        ("quality.tokens", 5, {"min_retention": Relative(0.5)}),
        ("memory.compressed_peak_rss_bytes", None, {"max_rss_bytes": Relative(9)}),
    ],
)
def test_a_baseline_of_another_setup_is_inconclusive(
    path: str, value: Any, limits: dict[str, Any]
) -> None:
    settings = GateSettings(**{"min_retention": None, "baseline": Path("b"), **limits})
    baseline = copy.deepcopy(example.report())
    assert judge(example.report(), settings, baseline=baseline).status == "pass"
    block, key = path.split(".")
    baseline[block][key] = value
    verdict = judge(example.report(), settings, baseline=baseline)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 5)
    assert path in verdict.sentence
    assert judge(example.report(), settings).exit_code == 5, "without a baseline"


def test_flags_override_the_policy_and_json_is_printed(gate) -> None:
    Path("policy.toml").write_text("min_retention = 0.99\n")
    assert gate("good.json", "--policy", "policy.toml")[0] == 3
    code, out, _ = gate("good.json", "--policy", "policy.toml", "--min-retention", "0.9", "--json")
    assert code == 0
    assert json.loads(out)["good.json"]["rules"][0]["limit"] == 0.9


def test_the_gravest_report_decides(gate) -> None:
    write_json(Path("slow.json"), slower(3.0))
    write_json(Path("poor.json"), example.report(compressed=40.0))
    limits = ("--min-retention", "0.95", "--max-decode-ms", "6")
    assert gate("good.json", "slow.json", *limits)[0] == 4
    assert gate("slow.json", "poor.json", *limits)[0] == 3
    assert gate("good.json", "good.json", *limits)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["good.json"], 2, "a gate without a limit would always pass"),
        (["good.json", "--min-speedup", "1.1x"], 2, "--baseline: expected a report.json"),
        (["none.json", "--min-speedup", "1"], 6, "none.json: expected a JSON file"),
        (["good.json", "--policy", "none.toml"], 6, "none.toml: cannot be read"),
        (["empty.json", "--min-speedup", "1"], 6, "recipe, quality, size is missing"),
        (["new.json", "--min-speedup", "1"], 6, "expected a report of schema_version 1; got 2"),
        (["good.json", "--min-retenton", "1"], 2, "--min-retention"),
    ],
)
def test_wrong_use_teaches(gate, arguments: list[str], code: int, message: str) -> None:
    Path("empty.json").write_text("{}")
    write_json(Path("new.json"), {**example.report(), "schema_version": 2})
    found, out, err = gate(*arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.replace("\u2502", " ").split())


def test_the_job_summary_is_appended_and_stays_below_1_mib(gate, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("before\n")
    gate("good.json", "--min-retention", "0.9")
    text = Path("summary.md").read_text()
    assert text.startswith("before\n## toy at 70.0 % sparsity\n\n**Pass: The quality kept")
    assert "| decode p50 ms |" in text
    Path("summary.md").write_text("x" * (SUMMARY_LIMIT - 300))
    gate("good.json", "--min-retention", "0.9")
    assert Path("summary.md").stat().st_size <= SUMMARY_LIMIT < 1 << 20
    assert Path("summary.md").read_text().endswith("at most 1 MiB.\n")


def test_cut_keeps_whole_lines_and_characters() -> None:
    text = "äöü\n" * 1000
    for limit in (0, 50, 100, 1000, 1001, 1002):
        short = cut(text, limit)
        assert len(short.encode()) <= limit
        assert not short or set(short.partition("\n\nThe rest")[0].split("\n")) <= {"äöü"}
    assert cut(text, 7000) == text


def test_junit_of_hostile_text_is_xml() -> None:
    report = example.report()
    report["recipe"]["model"] = "<x>&\"'\x00\x1b]]>\ud800"
    judged = with_verdict(report, judge(report, GateSettings(0.99)))
    text = render_junit({"a\x00<b>": judged})
    text.encode()
    (suite,) = JUnitXml.fromstring(text.encode())
    assert "<x>&\"'\ufffd\ufffd]]>\ufffd" in suite.name
    assert suite.failures == 1


def test_no_limit_is_a_skipped_test() -> None:
    report = with_verdict(example.report(), judge(example.report(), GateSettings(None)))
    (suite,) = JUnitXml.fromstring(render_junit({"r": report}).encode())
    assert (suite.tests, suite.skipped) == (1, 1)


def test_it_runs_without_torch_and_onnxruntime(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", example.report())
    code = (
        f"import sys\nsys.argv = ['ssmpress-gate', {str(tmp_path)!r}, '--min-speedup', '1.5', "
        f"'--junit', {str(tmp_path / 'j.xml')!r}]\nfrom ssmpress.cli.gate import main\nmain()"
    )
    done: subprocess.CompletedProcess[str] = python(code, (*HEAVY, "onnxruntime", "scipy"))
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout
    assert (tmp_path / "j.xml").is_file()


def test_version(gate) -> None:
    from ssmpress import __version__

    assert gate("--version") == (0, f"ssmpress {__version__}\n", "")
