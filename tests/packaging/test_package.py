"""The wheel and the sdist, built, installed in a fresh environment outside the project, and run.

The fresh environment has pip's own packages and the wheel. What the wheel depends on is not
installed a second time (torch alone takes minutes): a .pth file appends this environment's packages
behind the fresh one's, so that the wheel's files are found first; the test asserts that.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from paths import DEMO, ROOT

pytestmark = pytest.mark.slow


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, without this project's paths."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build_wheel(source: Path, folder: Path) -> Path:
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
        folder=folder,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "-o",
        folder,
        ROOT,
        folder=folder,
    )
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that both are known to be complete."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return build_wheel(source, folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_sdist_has_what_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "runtimes/CMakeLists.txt",
        "toolchain/ssmpress/report/templates/report.html.j2",
    ):
        assert name in names
    assert not any(name.startswith(("build/", ".venv", ".git/")) for name in names)
    assert not any(name.endswith((".so", ".pyc")) for name in names)


def test_the_wheel_is_of_this_machine_and_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(
            archive.read(next(name for name in names if name.endswith(".dist-info/METADATA")))
        )
    for name in (
        "py.typed",
        "report/templates/report.css",
        "report/templates/sweep.html.j2",
        "lib/x86_64/libssmpress_ops.so",
        "lib/x86_64/ssmrun",
        "lib/aarch64/libssmpress_ops.so",
        "lib/aarch64/ssmrun",
        "demo/config.json",
        "demo/pytorch_model.bin",
        "demo/tokenizer.json",
    ):
        assert f"ssmpress/{name}" in names
    assert wheel.stat().st_size < 8_000_000, "the demo is 2.3 MB of it"
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
    assert re.search(r"-py3-none-manylinux_2_28_(x86_64|aarch64)\.whl$", wheel.name)
    assert metadata["License-Expression"] == "Apache-2.0"
    needs = [need.partition(";") for need in metadata.get_all("Requires-Dist") or []]
    plain = {re.split(r"[^\w-]", name)[0] for name, _, marker in needs if not marker}
    assert {"numpy", "onnxruntime", "tokenizers", "typer"} <= plain
    assert not plain & {"torch", "scipy", "vl-convert-python", "onnx", "onnx-ir", "safetensors"}
    extra = re.compile(r"""extra == ["']compress["']""")
    compress = [name for name, _, marker in needs if extra.fullmatch(marker.strip())]
    assert any(name.startswith("torch>=2.6") for name in compress)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_wheel_is_for_every_python(wheel: Path, python: str, tmp_path: Path) -> None:
    """pip takes it for each; it has no extension module, so that nothing else could differ."""
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        "there",
        "--python-version",
        python,
        "--only-binary=:all:",
        "--platform",
        "manylinux_2_28_x86_64",
        "--platform",
        "manylinux_2_28_aarch64",
        wheel,
        folder=tmp_path,
    )
    names = [path.name for path in (tmp_path / "there").rglob("*.so")]
    assert set(names) <= {"libssmpress_ops.so", "libssmpress_count.so"}


def find_python(version: str) -> Path | None:
    """An interpreter of that version that runs: this one, one that pyenv built, or one on the
    path, where pyenv has names of all that it knows, whether they run or not."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return Path(sys.executable)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    built = sorted(root.glob(f"versions/{version}.*/bin/python"))
    named = filter(None, [shutil.which(f"python{version}")])
    for path in (*built, *map(Path, named)):
        if subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


@pytest.fixture(scope="module")
def bundle(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo, made by the installed command."""
    folder = tmp_path_factory.mktemp("bundle")
    options = "--sparsity 0.5 --recover none --evaluation-tokens 12000 --min-retention 0"
    run(installed / "compress", DEMO, *options.split(), "--out", "bundle", folder=folder)
    return folder / "bundle"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_plain_install_judges_and_runs(
    wheel: Path, bundle: Path, version: str, tmp_path: Path
) -> None:
    """Without torch, scipy, vl-convert and the ONNX packages, in an environment from the index."""
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"Python {version} is not installed: the wheel was not run with it")
    run(interpreter, "-m", "venv", "env", folder=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no package index answers: {done.stderr[-200:]}")
    listed = json.loads(
        run(python, "-m", "pip", "list", "--format", "json", folder=tmp_path).stdout
    )
    names = {package["name"].lower() for package in listed}
    assert not names & {"torch", "scipy", "vl-convert-python", "onnx", "onnx-ir", "safetensors"}
    run(python.parent / "ssmpress-gate", bundle, "--min-retention", "0.01", folder=tmp_path)
    text = (
        "import sys, ssmpress; "
        "print(*ssmpress.open_bundle(sys.argv[1], threads=1).stream('The', 4))"
    )
    assert run(python, "-c", text, bundle, folder=tmp_path).stdout.strip()
    refused = subprocess.run(
        [python.parent / "compress", DEMO], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: compressing a model needs torch, which is not")


def test_the_installed_command_compresses(installed: Path, tmp_path: Path) -> None:
    code = "import ssmpress; print(ssmpress.__file__); print(ssmpress.get_library_path())"
    places = run(installed / "python", "-c", code, folder=tmp_path).stdout.split()
    assert all(Path(place).is_relative_to(installed.parent) for place in places), places
    done = run(
        installed / "compress",
        "--demo",
        "--sparsity",
        "0.5",
        "--recover",
        "none",
        "--evaluation-tokens",
        "2000",
        "--min-retention",
        "0",
        "--out",
        "bundle",
        "--json",
        folder=tmp_path,
    )
    report = json.loads(done.stdout)
    assert report["verdict"]["status"] == "pass"
    assert (tmp_path / "bundle" / "README.md").is_file()
    run(installed / "ssmpress-gate", "bundle", "--max-bundle-bytes", "1e9", folder=tmp_path)
    text = (
        "import ssmpress\n"
        "model = ssmpress.open_bundle('bundle', threads=1)\n"
        "print(''.join(model.stream('The list of', 8)))\n"
    )
    assert run(installed / "python", "-c", text, folder=tmp_path).stdout.strip()
