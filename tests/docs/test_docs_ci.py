"""docs/ci: the action and the workflow fit GitHub's schemas, and the action's script runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import example_report as example
from paths import ROOT
from ssmpress.files import write_json
from ssmpress.gate.policy import read_policy

CI = ROOT / "docs" / "ci"
ACTION = CI / "ssmpress-gate" / "action.yml"
WORKFLOW = CI / "workflows" / "compress.yml"


def lint(path: Path, kind: str) -> subprocess.CompletedProcess[str]:
    """check-jsonschema with the schema that comes with it; nothing is downloaded."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{kind}", path],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("path", "kind"), [(ACTION, "github-actions"), (WORKFLOW, "github-workflows")]
)
def test_the_files_fit_githubs_schemas(path: Path, kind: str, tmp_path: Path) -> None:
    done = lint(path, kind)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / path.name
    broken.write_text(path.read_text().replace("runs", "rnus"))
    assert lint(broken, kind).returncode != 0


def test_the_workflow_gives_the_action_inputs_it_has() -> None:
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["compress"]["steps"]
    (given,) = [s["with"] for s in steps if s.get("uses", "").endswith("/ssmpress-gate")]
    assert set(given) <= set(inputs)
    assert {name for name, item in inputs.items() if item["required"]} <= set(given)


@pytest.mark.parametrize(
    ("package", "files", "installed"),
    [
        (None, ["ssmpress-0.1.0-py3-none-any.whl"], "wheels/ssmpress-0.1.0-py3-none-any.whl"),
        ("ssmpress", [], "ssmpress"),
        (None, [], None),
    ],
)
def test_the_workflow_installs_a_wheel_of_the_repository(
    tmp_path: Path, package: str | None, files: list[str], installed: str | None
) -> None:
    """Nothing has to be published; a wheel that is missing ends the job there."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["compress"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Install"]
    for name in files:
        (tmp_path / "wheels").mkdir()
        (tmp_path / "wheels" / name).touch()
    said = tmp_path / "said"
    pip = f'pip() {{ printf "%s\\n" "${{@: -1}}" >> {said}; }}\n'
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", pip + step["run"]],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={"PACKAGE": package or step["env"]["PACKAGE"]},
    )
    assert (done.returncode == 0) == (installed is not None), done.stderr
    last = said.read_text().splitlines()[1:]
    assert last == ([f"{installed}[compress]"] if installed else [])


@pytest.mark.parametrize(("perplexity", "code"), [(31.0, 0), (40.0, 3)])
def test_the_actions_script_runs(tmp_path: Path, perplexity: float, code: int) -> None:
    for name in ("a b.json", "c.json"):
        write_json(tmp_path / name, example.report(compressed=perplexity))
    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "ssmpress-gate"
    command.write_text(f"#!{sys.executable}\nfrom ssmpress.cli.gate import main\nmain()\n")
    command.chmod(0o755)
    script = yaml.safe_load(ACTION.read_text())["runs"]["steps"][0]["run"]
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "BASELINE": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "REPORTS": "a b.json\n\nc.json\n",
            "POLICY": str(CI / "policy.toml"),
            "JUNIT": "j.xml",
            "GITHUB_OUTPUT": "out",
            "GITHUB_STEP_SUMMARY": "summary.md",
        },
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "out").read_text() == f"exit-code={code}\n"
    assert (tmp_path / "summary.md").read_text().count("## toy") == 2
    assert (tmp_path / "j.xml").is_file()


def test_the_example_policy_is_read() -> None:
    assert read_policy(CI / "policy.toml")["min_retention"] == 0.95
