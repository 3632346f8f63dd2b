"""Mamba-2 and attention as a GPU runs them: the kernels get what they want, by their own
references of them; toolchain/experiments/gpu_kernels.py compares them by themselves."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import mamba_ssm_reference
from conftest import random_checkpoint
from families import FAMILIES, model
from ssmpress.blocks import gpu, mamba2
from ssmpress.blocks.attention import Attention
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.fused_mamba2 import Mamba2Kernels, mamba2_kernels
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.model import Mamba, State
from tolerances import REFERENCE_LOGITS, assert_close

CUDA = torch.device("cuda")
ONE_NORM = model(
    LayerConfig(mixer=Mamba2Config(heads=6, head_dim=10, d_state=7, n_groups=3, norm_groups=1))
)
CONFIGS = FAMILIES | {"groups of B and C alone": ONE_NORM}


@pytest.fixture(scope="module")
def mamba_ssm() -> SimpleNamespace:
    return mamba_ssm_reference.load()


@pytest.fixture
def calls(mamba_ssm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels called, which are mamba-ssm's references."""
    names: list[str] = []

    def seen(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            names.append(name)
            return function(*arguments, **options)

        return call

    kernels = Mamba2Kernels(
        seen("conv", mamba_ssm_reference.causal_conv1d_ref),
        seen("scan", mamba_ssm.scan_of_heads),
        seen("norm", mamba_ssm.gated_norm_ref),
    )
    monkeypatch.setattr(gpu, "fused_kernels", lambda: None)
    monkeypatch.setattr(gpu, "mamba2_kernels", lambda: kernels)
    return names


def _blocks(config: ModelConfig) -> list[tuple[torch.nn.Module, tuple[Tensor, ...]]]:
    """The blocks of a random model, each with its states before the first token."""
    layers = Mamba.from_checkpoint(random_checkpoint(config)).backbone.layers
    result = []
    for layer, states in zip(layers, State.zeros(config, 2).layers, strict=True):
        given = 0
        for part in layer.parts:
            count = len(part.block.states())
            result.append((getattr(layer, part.name), states[given : given + count]))
            given += count
    return result


def _values_and_gradients(
    call: gpu.BlockCall, block: torch.nn.Module, x: Tensor, states: tuple[Tensor, ...]
) -> list[Tensor]:
    y = call(block, x, *states)[0]
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *block.parameters()])]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_way_of_a_gpu_is_the_definition(name: str, calls: list[str]) -> None:
    """Outputs, and gradients of the input and of every parameter."""
    torch.manual_seed(0)
    call = gpu.block_call(gpu.How(), CUDA)
    for block, states in _blocks(CONFIGS[name]):
        x = torch.randn(2, 19, CONFIGS[name].d_model, requires_grad=True)
        calls.clear()
        results = [_values_and_gradients(way, block, x, states) for way in (call, gpu.call_block)]
        for got, expected in zip(*results, strict=True):
            assert_close(got.detach(), expected.detach(), REFERENCE_LOGITS, type(block).__name__)
        norm = ["norm"] * (isinstance(block, mamba2.Mixer) and block.config.gated_norm)
        assert calls == (["conv", "scan", *norm] if isinstance(block, mamba2.Mixer) else [])


@pytest.mark.parametrize("taps", [1, 2, 4, 5])
def test_a_convolution_that_the_kernel_cannot_do_is_left_to_the_definition(
    taps: int, calls: list[str]
) -> None:
    [(block, states)] = _blocks(
        model(LayerConfig(mixer=Mamba2Config(heads=8, head_dim=5, d_state=7, d_conv=taps)))
    )
    gpu.block_call(gpu.How(), CUDA)(block, torch.randn(2, 19, 20), *states)
    assert bool(calls) == (taps in (2, 4))


def test_sums_in_a_fixed_order_and_a_cpu_are_left_to_the_definition(calls: list[str]) -> None:
    [(block, states)] = _blocks(ONE_NORM)
    for how, device in ((gpu.How(ordered=True), CUDA), (gpu.How(), torch.device("cpu"))):
        gpu.block_call(how, device)(block, torch.randn(2, 19, 20), *states)
    assert not calls


def test_attention_from_the_start_is_without_a_mask(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mask PyTorch has no flash attention."""
    config = FAMILIES["granite"]
    block, states = next(pair for pair in _blocks(config) if isinstance(pair[0], Attention))
    monkeypatch.setattr(Attention, "forward", None)
    y, keys, values = gpu.block_call(gpu.How(), CUDA)(block, torch.randn(2, 19, 20), *states)
    assert y.shape == (2, 19, 20) and keys is states[0] and values is states[1]


def test_the_kernels_are_there_on_a_gpu_with_both_packages_in_mixed_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product of float32 in them would be one of TF32."""
    there = SimpleNamespace(causal_conv1d_fn=1, mamba_chunk_scan_combined=2, rmsnorm_fn=3)

    def kernels_with(gpu_there: bool, mixed: bool, missing: str) -> Mamba2Kernels | None:
        def imported(name: str) -> SimpleNamespace:
            if name.split(".")[0] == missing:
                raise ImportError
            return there

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_there)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: mixed)
        with monkeypatch.context() as patched:
            patched.setattr(importlib, "import_module", imported)
            return mamba2_kernels()

    assert kernels_with(True, True, "") == Mamba2Kernels(1, 2, 3)  # type: ignore[arg-type]
    assert kernels_with(False, True, "") is None
    assert kernels_with(True, False, "") is None
    assert kernels_with(True, True, "mamba_ssm") is None
    assert kernels_with(True, True, "causal_conv1d") is None
