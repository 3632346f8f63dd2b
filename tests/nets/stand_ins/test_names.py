"""The names that stand-ins answer under, for how long, and what is imported after."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from ssmpress.nets.stand_ins import PACKAGES, stand_ins
from ssmpress.nets.stand_ins.names import MODULES

PUBLIC = """
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.modules.mamba_simple import Mamba, Block
from mamba_ssm.modules.mamba2 import Mamba2
from mamba_ssm.modules.block import Block
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, mamba_inner_fn
from mamba_ssm.ops.selective_scan_interface import selective_scan_ref, mamba_inner_ref
from mamba_ssm.ops.selective_scan_interface import SelectiveScanFn, bimamba_inner_fn
from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.models.mixer_seq_simple import create_block, _init_weights, MixerModel
from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.utils.generation import GenerationMixin, InferenceParams
from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.cpp_functions import causal_conv1d_fwd_function
import causal_conv1d_cuda
import selective_scan_cuda
import selective_scan_cuda_core
import selective_scan_cuda_oflex
from mambapy.pscan import pscan
from mambapy.mamba import MambaBlock, Mamba, MambaConfig
import mamba_ssm.ops.triton.layer_norm
"""
"""Imports as public code has them."""


def of_packages() -> dict[str, object]:
    return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in PACKAGES}


def test_what_public_code_imports_is_there_and_gone_after() -> None:
    before = of_packages()
    with stand_ins(always=True) as absent:
        assert absent == PACKAGES
        exec(PUBLIC, {})
        for name in PACKAGES:
            assert importlib.util.find_spec(name) is not None
    assert of_packages() == before


def test_modules_are_attributes_of_their_packages() -> None:
    with stand_ins(always=True):
        mamba_ssm = importlib.import_module("mamba_ssm")
        update = mamba_ssm.ops.triton.selective_state_update
        assert update.selective_state_update is MODULES[update.__name__]["selective_state_update"]


@pytest.mark.parametrize("name", ["mamba_ssm.modules.mha", "causal_conv1d.cpp", "mamba_ssm.x.y"])
def test_a_module_that_is_not_stood_in_for_is_not_found(name: str) -> None:
    """Of the installed package neither."""
    with stand_ins(always=True), pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module(name)


def test_after_an_error_all_is_as_before() -> None:
    before = of_packages()
    with pytest.raises(ZeroDivisionError), stand_ins(always=True):
        raise ZeroDivisionError
    assert of_packages() == before


def test_one_in_another() -> None:
    before = of_packages()
    with stand_ins(always=True):
        outer = of_packages()
        with pytest.raises(KeyError), stand_ins(always=True):
            assert sys.modules["mamba_ssm"] is not outer["mamba_ssm"]
            raise KeyError
        assert of_packages() == outer
    assert of_packages() == before


def test_a_class_of_the_user_is_one_of_theirs() -> None:
    with stand_ins(always=True):
        from mamba_ssm import Mamba

        class Own(Mamba):
            def __init__(self) -> None:
                super().__init__(8)
                self.after = nn.LayerNorm(8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.after(super().forward(x))

        net = Own()
    assert net(torch.randn(2, 5, 8)).shape == (2, 5, 8)
    assert {"A_log", "after.weight"} <= set(net.state_dict())


# ---- with and without the real package ----


@pytest.fixture
def real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source of a package causal_conv1d that can be imported."""
    source = tmp_path / "causal_conv1d" / "__init__.py"
    source.parent.mkdir()
    source.write_text("causal_conv1d_fn = 'the real one'")
    monkeypatch.syspath_prepend(tmp_path)
    yield source
    for name in [n for n in sys.modules if n.partition(".")[0] == "causal_conv1d"]:
        del sys.modules[name]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch says that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("real_package", "gpu")
def test_on_a_gpu_the_real_package_answers() -> None:
    with stand_ins() as absent:
        from causal_conv1d import causal_conv1d_fn

        assert causal_conv1d_fn == "the real one"
    assert set(absent) == {*PACKAGES} - {"causal_conv1d"}  # these lack triton, or are not there


@pytest.mark.usefixtures("gpu")
def test_a_compiled_scan_is_not_hidden_by_another_ones_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "selective_scan_cuda_core.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with stand_ins() as absent:
            assert not [name for name in absent if name.startswith("selective_scan_cuda")]
    finally:
        sys.modules.pop("selective_scan_cuda_core", None)


@pytest.mark.usefixtures("real_package", "gpu")
def test_always_is_instead_of_the_real_package_too() -> None:
    before = importlib.import_module("causal_conv1d")
    with stand_ins(always=True):
        assert importlib.import_module("causal_conv1d") is not before
    assert sys.modules["causal_conv1d"] is before


@pytest.mark.usefixtures("real_package")
def test_without_a_gpu_its_kernels_would_not_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with stand_ins() as absent:
        assert absent == PACKAGES


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("fault", ["raise ImportError('undefined symbol')", "1 / 0"])
def test_a_package_that_fails_when_imported_is_stood_in_for(real_package: Path, fault: str) -> None:
    inner = "import causal_conv1d.inner\n"
    (real_package.parent / "inner.py").touch()
    real_package.write_text(inner + fault)
    with stand_ins() as absent:
        assert "causal_conv1d" in absent
        from causal_conv1d import causal_conv1d_fn

        assert callable(causal_conv1d_fn)
    assert not [name for name in sys.modules if name.startswith("causal_conv1d")]
