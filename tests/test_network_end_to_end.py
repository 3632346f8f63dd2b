"""A network of one's own through the whole command: its file, its weights, a bundle that runs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

import small_network
import ssmrun_bundle as sb
from paths import ROOT
from report_schema import SCHEMA
from small_network import TwoWays, network, trained
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.devices.plan import find_runtime_library
from ssmpress.errors import BadInputError, DeviceError, ParityError, UsageError
from ssmpress.machine import get_runner_path
from ssmpress.nets.user_file import load_network
from ssmpress.parity import check_parity
from ssmpress.pipeline import Result, Watch, compress, compress_network
from ssmpress.plan import make_plan
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.deploy import Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.prune import Method, PruneSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.runtime.loading import open_session
from ssmpress.stages.bundle import Dense, export_bundle
from ssmpress.stages.packed import pack_weights
from ssmpress.stages.pruned import prune_weights
from ssmpress.stages.source import load
from ssmpress.tasks import NetworkTask
from target_bundle import require_emulator

FILE = """\
import small_network

net = small_network.network()
other = small_network.network(metric_name="part of the waves that are known")
"""


def recipe(folder: Path, **changes: Any) -> Recipe:
    """Half of the weights, a few steps."""
    return Recipe(
        **{
            "model": folder / "best.ckpt",
            "out": folder / "bundle",
            "net": str(folder / "my_net.py"),
            "prune": PruneSettings(sparsity=0.5, alpha=0.5),
            "recover": RecoverSettings(steps=30, learning_rate=1e-2),
            "gate": GateSettings(min_retention=0.9),
            "threads": 1,
            "save_checkpoint": folder / "pruned",
        }
        | changes
    )


def write_files(folder: Path) -> None:
    """The user's file, and the weights as a training loop left them."""
    (folder / "my_net.py").write_text(FILE)
    state = {f"module.{name}": tensor for name, tensor in trained().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, folder / "best.ckpt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, library: Path) -> tuple[Path, Result, list[str]]:
    """A folder, what its run gave, and what was noted."""
    folder, notes = tmp_path_factory.mktemp("network"), list[str]()
    write_files(folder)
    return folder, compress(recipe(folder), Watch(note=notes.append)), notes


def test_the_report_tells_the_users_metric_and_every_matrix(
    made: tuple[Path, Result, list[str]],
) -> None:
    _, result, notes = made
    report = result.report
    jsonschema.validate(report, SCHEMA)
    assert result.exit_code == 0, report["verdict"]
    assert report["quality"]["metric"] == "accuracy"
    assert report["quality"]["dense"] > 0.9
    assert report["quality"]["guess"]["value"] < 0.6
    assert report["sparsity"]["prunable"] == pytest.approx(0.5, abs=1e-3)
    assert {m["component"] for m in report["matrices"]} >= {"embed", "head", "first", "in_proj"}
    assert not any("second" in m["name"] for m in report["matrices"])  # it is tied to the first
    assert report["parity"]["ok"]
    assert report["latency"]["decode"]["stock"]["p50_ms"] > 0
    assert any("model_state_dict" in note for note in notes), notes
    assert "TwoWays" in report["model"]["architecture"]["name"]


def test_the_bundle_runs_here_and_without_python(made: tuple[Path, Result, list[str]]) -> None:
    folder, result, _ = made
    verify_manifest(result.out)
    library = result.out / "libssmpress_ops.so"
    session = open_session(result.out / "model.onnx", threads=1, library=library)
    assert isinstance(session.interface.task, NetworkTask)
    x, kind = next(small_network.batches(7, 1))
    logits = session.run({"x": x.numpy()})["output"]
    assert (logits.argmax(-1) == kind.numpy()).mean() > 0.7
    np.save(folder / "x.npy", x.numpy())
    sb.runner()
    options = ["--input", folder / "x.npy", "--output", folder / "y.npy"]
    done = sb.ssmrun("run", result.out, "--runtime", sb.runtime(), *options)
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.load(folder / "y.npy"), logits)


@pytest.mark.slow
def test_pruned_weights_go_in_again(made: tuple[Path, Result, list[str]]) -> None:
    """What --save-checkpoint wrote is --pruned of another run, and of the module itself."""
    folder, result, _ = made
    saved = folder / "pruned" / "network.safetensors"
    again = replace(recipe(folder), out=folder / "again", pruned=saved, save_checkpoint=None)
    report = compress(again).report
    assert (folder / "again" / "model.onnx").read_bytes() == (
        result.out / "model.onnx"
    ).read_bytes()
    assert report["quality"] == result.report["quality"]


@pytest.mark.slow
def test_arm64_computes_the_same(made: tuple[Path, Result, list[str]], library: Path) -> None:
    """Under QEMU: the outputs of a batch, and the user's metric of them."""
    try:
        get_runner_path(Target.ARM64.machine)
        find_runtime_library(Target.ARM64.machine)
    except DeviceError as error:
        pytest.skip(str(error))
    require_emulator()
    folder, result, _ = made
    arm = replace(
        recipe(folder),
        out=folder / "arm",
        target=Target.ARM64,
        pruned=folder / "pruned" / "network.safetensors",
        save_checkpoint=None,
    )
    report = compress(arm).report
    (device,) = report["devices"]
    assert device["parity"]["ok"]
    assert device["sample"]["device"] == device["sample"]["host"]
    assert device["sample"]["tokens"] == 8
    assert report["quality"]["compressed"] == pytest.approx(
        result.report["quality"]["compressed"], abs=0.02
    )


@pytest.mark.slow
def test_a_module_in_memory_gives_the_same_model(
    made: tuple[Path, Result, list[str]], tmp_path: Path
) -> None:
    _, result, _ = made
    module = TwoWays()
    module.load_state_dict(trained())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = replace(recipe(tmp_path), net=None, model=Path("waves"), save_checkpoint=None)
    report = compress_network(module, network(), plain).report
    assert report["quality"]["compressed"] == result.report["quality"]["compressed"]
    assert report["size"]["model_bytes"] == result.report["size"]["model_bytes"]
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


def test_a_plan_tells_what_the_run_will_do(made: tuple[Path, Result, list[str]]) -> None:
    """Where the pruned weights are known, but for what a layout's prediction is off."""
    folder, result, _ = made
    saved = folder / "pruned" / "network.safetensors"
    plan = make_plan(
        replace(recipe(folder), out=folder / "new", save_checkpoint=None, pruned=saved)
    )
    assert plan.model_bytes == pytest.approx(result.report["size"]["model_bytes"], rel=0.01)
    assert "TwoWays" in plan.model
    assert plan.evaluation["tokens"] == 320


def run_command(folder: Path, net: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`compress best.ckpt --net my_net.py:NET`."""
    command = [sys.executable, "-m", "ssmpress", str(folder / "best.ckpt"), *options]
    path = ":".join(filter(None, sys.path))
    return subprocess.run(
        [*command, "--net", f"{folder / 'my_net.py'}:{net}", "--out", str(folder / "new")],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path},
    )


@pytest.mark.slow
def test_another_network_of_the_file_on_the_command_line(tmp_path: Path) -> None:
    write_files(tmp_path)
    with (tmp_path / "my_net.py").open("a") as file:
        file.write("print('something')\n")
    done = run_command(tmp_path, "other", "--dry-run", "--json")
    assert "something" in done.stderr
    assert done.returncode == 0, done.stderr
    task = json.loads(done.stdout)["config"]["task"]
    assert task["metric_name"] == "part of the waves that are known"


def test_a_network_that_the_file_has_not(tmp_path: Path) -> None:
    write_files(tmp_path)
    done = run_command(tmp_path, "net2")
    assert done.returncode == 6
    assert "got no net2. It has net, other" in " ".join(done.stderr.split())


def test_the_ten_lines_of_the_page_make_a_network(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    lines = page.partition("## Ten lines")[2].partition("| field |")[0].splitlines()
    code = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    (tmp_path / "my_net.py").write_text("\n".join(code))
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "MyNet = lambda: torch.nn.Linear(32, 2)\n"
        "batches = lambda split: [(torch.zeros(3, 2048, 32), torch.zeros(3, 2048, 2))]\n"
    )
    net = load_network(tmp_path / "my_net.py")
    assert net.call(net.build(), net.inputs).shape == (1, 2048, 2)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DataSettings(calibration=(Path("x"),)), "--calibration: expected nothing, .* got x[.]"),
        (DataSettings(evaluation_tokens=99), "--evaluation-tokens: expected nothing"),
    ],
)
def test_data_of_other_tasks_is_refused(tmp_path: Path, data: DataSettings, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        recipe(tmp_path, data=data)


def test_methods_that_know_blocks_only_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path)
    wanda = recipe(tmp_path, prune=PruneSettings(method=Method.WANDA))
    with pytest.raises(UsageError, match="--method wanda"):
        compress(wanda)


def test_a_metric_that_is_not_positive_is_told(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "my_net.py").write_text(
        "import small_network\n"
        "net = small_network.network(metric=lambda outputs, target: -1.0, metric_name='SI-SDR')\n"
    )
    with pytest.raises(BadInputError, match=r"metric: expected .* above 0.*; got -1"):
        compress(recipe(tmp_path))


def test_a_graph_that_computes_something_else_is_told_with_its_line(
    tmp_path: Path, library: Path
) -> None:
    """As if the exporter had written another bias: the layer and the user's line are named."""
    write_files(tmp_path)
    plain = recipe(tmp_path, save_checkpoint=None, recover=RecoverSettings(steps=0))
    source = load(plain)
    packed = pack_weights(plain, source, prune_weights(plain, source))
    wrong = dict(packed.tensors) | {"first.bias": packed.tensors["first.bias"] + 300}
    bundle = export_bundle(
        source, Dense(tmp_path / "dense.onnx"), replace(packed, tensors=wrong), tmp_path
    )
    with pytest.raises(ParityError) as error:
        check_parity(source, packed, bundle, plain)
    line, first = inspect.getsourcelines(TwoWays.forward)
    number = first + next(i for i, text in enumerate(line) if "self.first(" in text)
    assert f"at {small_network.__file__}:{number}: by" in str(error.value)
