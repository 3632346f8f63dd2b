"""The examples of docs/examples run as they are, in the order a reader would; the public names."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssmpress
from blocked_imports import HEAVY, python
from paths import DEMO, ROOT
from ssmpress.errors import COMPRESS_PACKAGES, EXIT_LATENCY_OR_SIZE, EXIT_USAGE

EXAMPLES = ROOT / "docs" / "examples"


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    done = run(folder, "compress_lm.py", str(DEMO), "bundle", "--quick")
    assert done.returncode == 0, done.stderr
    assert re.search(r"kept \d+\.\d% of the quality, \d\.\d\dx smaller", done.stdout)
    assert "Pass: The quality kept is" in done.stdout
    return folder / "bundle"


def test_stream_text_repeats_with_its_seed(bundle: Path) -> None:
    done = [run(bundle.parent, "stream_text.py", "bundle", "The list of", "30") for _ in range(2)]
    assert done[0].returncode == 0, done[0].stderr
    assert done[0].stdout.startswith("The list of")
    assert len(done[0].stdout) > 40
    assert done[0].stdout == done[1].stdout


def test_streamed_pieces_are_whole_characters_and_the_whole_text(bundle: Path) -> None:
    """The session's part is played by a text of characters that are several tokens each."""
    model = ssmpress.open_bundle(bundle, threads=1)
    text = " Zürich → 東京, naïve 🙂!"
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > len(text), "characters of several tokens"

    class Reciting:
        def generate(self, tokens: object, max_tokens: int, **_: object) -> list[int]:
            return ids[:max_tokens]

    reciting = ssmpress.TextModel(Reciting(), model.tokenizer)  # type: ignore[arg-type]
    pieces = list(reciting.stream("In", len(ids)))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    with pytest.raises(ssmpress.BadInputError, match="expected at least one token"):
        next(model.stream("", 3))


def test_a_changed_bundle_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ssmpress.BadInputError, match="was changed after the bundle was made"):
        ssmpress.open_bundle(tmp_path)


def test_gate_in_ci(bundle: Path) -> None:
    done = run(bundle.parent, "gate_in_ci.py", "bundle", "--baseline=bundle")
    assert done.returncode in (0, 5), done.stderr  # 5: too noisy a machine to decide
    assert done.stdout.startswith("bundle: ")
    assert "baseline" in done.stdout, done.stdout
    report = json.loads((bundle / "report.json").read_text())
    report["size"]["bundle_bytes"] //= 2
    (bundle.parent / "old").mkdir()
    (bundle.parent / "old" / "report.json").write_text(json.dumps(report))
    done = run(bundle.parent, "gate_in_ci.py", "bundle", "--baseline=old")
    assert done.returncode == EXIT_LATENCY_OR_SIZE, done.stdout
    assert "1.050 times the baseline's" in done.stdout


def test_stages(tmp_path: Path, small_demo: Path) -> None:
    done = run(tmp_path, "stages.py", str(small_demo), "model.onnx")
    assert done.returncode == 0, done.stderr
    assert "likeliest token after 3 steps" in done.stdout
    assert (tmp_path / "model.onnx").stat().st_size > 100_000


def test_sweep_and_pick(tmp_path: Path, small_demo: Path) -> None:
    done = run(tmp_path, "sweep_and_pick.py", str(small_demo), "out", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pass: Picked s50-int8, the fastest of 2" in done.stdout or "Picked s30" in done.stdout
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_every_example_is_run_and_listed() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    # The tasks' examples run where their data is made.
    tests = ("docs/test_examples.py", "tasks/test_losses.py")
    run_here = "".join((ROOT / "tests" / name).read_text() for name in tests)
    for file in EXAMPLES.glob("*.py"):
        assert f'"{file.name}"' in run_here
        assert f"(examples/{file.name})" in page


def test_public_names_are_documented_and_typed() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for name in ssmpress.__all__:
        if name == "__version__":
            continue
        found = getattr(ssmpress, name)
        assert inspect.getdoc(found), name
        if name not in ("SweepResult", "Result", "State", "Session", "TextModel", "Values"):
            assert re.search(rf"`{name}\b", page), f"{name} is not in docs/api.md"
    assert set(ssmpress.__all__) == {*ssmpress._PUBLIC, "__version__"}
    source = Path(ssmpress.__file__).read_text()
    for name in set(ssmpress.__all__) - {"__version__"}:
        assert re.search(rf" as {name}\n", source), f"{name} has no type"
    assert (Path(ssmpress.__file__).parent / "py.typed").exists()


def test_names_without_torch_in_the_table_need_none() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.endswith("| no |")]
    names = [n for row in rows for n in re.findall(r"`(\w+)", row[1])]
    names = [name for name in names if hasattr(ssmpress, name)]
    assert len(names) > 12
    code = "import ssmpress\n" + "\n".join(f"ssmpress.{name}" for name in names)
    done = python(code, HEAVY)
    assert done.returncode == 0, done.stderr
    done = python("import ssmpress\nssmpress.compress", HEAVY)
    assert "ImportError: compressing a model needs torch, which is not installed" in done.stderr


@pytest.mark.parametrize("package", COMPRESS_PACKAGES)
def test_the_plain_install_says_what_compressing_needs(package: str, tmp_path: Path) -> None:
    """One sentence and a documented code before any work, whichever package is missing."""
    code = (
        f"import sys\nsys.argv = ['compress', {str(DEMO)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "from ssmpress.cli.compress import main\nmain()"
    )
    done = python(code, (package,))
    assert done.returncode == EXIT_USAGE, done.stderr
    assert done.stderr.startswith(f"error: compressing a model needs {package}, which is not")
    assert "pip install 'ssmpress[compress]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_name_is_no_name_for_a_type_checker(tmp_path: Path) -> None:
    (tmp_path / "ssmpress").symlink_to(Path(ssmpress.__file__).parent)
    (tmp_path / "use.py").write_text(
        "import ssmpress\nssmpress.compres\nreveal_type(ssmpress.GateSettings)\n"
        "ssmpress.GateSettings(min_retention='1.05x')\n"
    )
    # Not the packages that it imports: reading numpy and torch takes 20 s.
    alone = ("--follow-imports=silent", "--no-site-packages", "--ignore-missing-imports")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *alone, "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert 'use.py:2: error: Module has no attribute "compres"' in done.stdout
    assert "Found 1 error" in done.stdout, done.stdout
