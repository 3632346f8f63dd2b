"""The lowest versions that pyproject.toml declares run the demo; older runtimes run its bundle.

A fresh environment has exactly those, each by itself (--no-deps); torch, what they depend on in
their turn, and the installed ssmpress come from this environment, which stands behind. So a lowest
version also meets the newest of what it needs, as with pip: typer before 0.16 fails with click 8.5.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from paths import DEMO, ROOT

pytestmark = pytest.mark.slow

OLDEST_RUNTIME = "1.17.0"
"""That docs/ops.md promises for the bundle. Its wheel lacks the C library that a bundle carries,
which is why the package itself asks for more."""

COMPRESS = "from ssmpress.cli.compress import main; main()"
GATE = "from ssmpress.cli.gate import main; main()"
VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
LOGITS = """
import json, sys
import numpy, onnxruntime
logits = []
for library in (sys.argv[1], None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library + "/libssmpress_ops.so")
    session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options)
    feed = {"input_ids": numpy.arange(1, 20)[None], "logits_positions": numpy.array([18])}
    for item in session.get_inputs()[2:]:
        feed[item.name] = numpy.zeros((1, *item.shape[1:]), numpy.float32)
    logits.append(session.run(["logits"], feed)[0].ravel().tolist())
print(json.dumps([onnxruntime.__version__, *logits]))
"""


def lowest() -> dict[str, str]:
    """Name -> lowest version of everything that `compress` needs but torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["compress"]
    versions = dict(line.split(">=") for line in declared)
    del versions["torch"]
    return versions


def run(*command: object, folder: Path, path: Path | None = None) -> str:
    """stdout of a command that must succeed."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python: Path, *arguments: object) -> None:
    """Wheels only, without what they depend on; skips where this Python has no such wheel."""
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-installed",
        *arguments,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip(f"no wheel for Python {sys.version_info[:2]}: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the environment with the lowest versions."""
    folder = tmp_path_factory.mktemp("lowest")
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    interpreter = folder / "bin" / "python"
    install(interpreter, *(f"{name}=={version}" for name, version in lowest().items()))
    behind = [p for p in sys.path if p.endswith("site-packages")]
    behind.insert(0, sysconfig.get_path("purelib"))
    (packages / "zz_behind.pth").write_text("\n".join(dict.fromkeys(behind)) + "\n")
    return interpreter


@pytest.fixture(scope="module")
def bundle(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo without recovery, compressed there."""
    folder = tmp_path_factory.mktemp("bundle")
    found = json.loads(run(python, "-c", VERSIONS, *lowest(), folder=folder))
    assert {name: found[name].removesuffix(".0") for name in found} == {
        name: version.removesuffix(".0") for name, version in lowest().items()
    }
    run(
        python,
        "-c",
        COMPRESS,
        DEMO,
        "--sparsity",
        "0.3",
        "--recover",
        "none",
        "--evaluation-tokens",
        "9000",
        "--min-retention",
        "0.9",
        "--threads",
        "1",
        "--out",
        "out",
        folder=folder,
    )
    return folder / "out"


def test_the_demo_is_compressed_and_its_bundle_runs(python: Path, bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert report["verdict"]["status"] == "pass"
    assert report["environment"]["onnxruntime"].startswith(lowest()["onnxruntime"])
    for name in ("report.html", "junit.xml", "report.md", "README.md"):
        assert (bundle / name).stat().st_size > 400
    assert "<svg" in (bundle / "report.html").read_text()
    run(bundle / "ssmrun", "info", bundle, folder=bundle.parent)
    run(python, "-c", GATE, bundle, "--min-retention", "0.9", folder=bundle.parent)


def test_the_help_of_every_option_is_there(python: Path, bundle: Path) -> None:
    """typer 0.12.0 to 0.12.3 break every command, the next ones misread options."""
    text = run(python, "-c", COMPRESS, "--help", folder=bundle.parent)
    assert "--recover-seconds" in text
    plan = run(
        python,
        "-c",
        COMPRESS,
        DEMO,
        "--sparsity",
        "0.5",
        "--muon",
        "--dry-run",
        "--json",
        folder=bundle.parent,
    )
    assert json.loads(plan)["sparsity_prunable"] == 0.5


def test_an_older_runtime_runs_the_bundle(python: Path, bundle: Path, tmp_path: Path) -> None:
    """With the op library and without it, in a plain session: the same logits."""
    install(python, "--target", tmp_path / "old", f"onnxruntime=={OLDEST_RUNTIME}")
    new, *expected = json.loads(run(python, "-c", LOGITS, bundle, folder=tmp_path))
    old, *actual = json.loads(
        run(python, "-c", LOGITS, bundle, folder=tmp_path, path=tmp_path / "old")
    )
    assert (old, new) == (OLDEST_RUNTIME, lowest()["onnxruntime"] + ".0")
    for before, now in zip(actual, expected, strict=True):
        assert before == pytest.approx(now, abs=1e-3 * max(map(abs, now)))
