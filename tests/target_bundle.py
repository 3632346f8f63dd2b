"""The demo model as a bundle for a machine, with the dense baseline beside it, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from paths import DEMO
from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.devices.check import Expected, make_expected
from ssmpress.devices.plan import Deployment, find_runtime_library
from ssmpress.devices.qemu import lacking
from ssmpress.devices.real import BundleFiles
from ssmpress.errors import DeviceError
from ssmpress.formats import Values
from ssmpress.machine import get_runner_path, host_machine
from ssmpress.parity import PARITY_TOLERANCE
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.deploy import Target
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.results.run import TextUse
from ssmpress.stages.bundle import add_runtime, export_bundle, export_dense
from ssmpress.stages.packed import pack_weights
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source


@dataclass(frozen=True)
class Made:
    """files: for a device. expected: this host's result."""

    machine: str
    files: BundleFiles
    expected: Expected


def make_bundle(folder: Path, target: Target, values: Values) -> Made:
    """70 % of each projection at random to zero: nothing to learn from, everything to compute.

    Skips where the package was not built for the target, or ONNX Runtime for it cannot be had.
    """
    recipe = Recipe(model=DEMO, out=folder, target=target, threads=1, pack=PackSettings(values))
    try:
        get_runner_path(target.machine)
        runtime = find_runtime_library(target.machine)
    except DeviceError as error:
        pytest.skip(str(error))
    folder.mkdir(parents=True)
    checkpoint = read_checkpoint(DEMO)
    tokens = np.random.default_rng(0).integers(0, 1024, (2, 256)).astype(np.int32)
    use = TextUse((), default_text=True, tokens=tokens.size)
    source = Source(checkpoint, DEMO / "tokenizer.json", tokens[0], tokens, use, use)
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor * (torch.rand(tensor.shape, generator=random) > 0.7)
        if name.endswith("_proj.weight")
        else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    pruned = Pruned(tensors, PruneResult((), 0.0, 0, 0, "cpu"))
    dense = export_dense(source, folder / "work")
    packed = pack_weights(recipe, source, pruned)
    deployment = Deployment(target.machine, (), runtime=runtime)
    bundle = export_bundle(source, dense, packed, folder, target.machine)
    bundle = add_runtime(recipe, source, bundle, deployment)
    expected = make_expected(
        bundle.model,
        bundle.host_library,
        tokens,
        folder,
        threads=1,
        tolerance=PARITY_TOLERANCE[values],
    )
    files = BundleFiles(folder, (*bundle.names, MANIFEST_NAME), bundle.dense.model)
    return Made(target.machine, files, expected)


def require_emulator() -> None:
    """Skip where nothing can run an arm64 program."""
    if host_machine() == "aarch64":
        pytest.skip("this machine needs no emulator for arm64")
    if missing := lacking("aarch64"):
        pytest.skip(f"expected {missing}")
