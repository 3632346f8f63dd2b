"""Mamba-2 and attention as a GPU runs them: the kernels get what they want, by their own
references of them on a CPU, and by themselves on a GPU."""

from __future__ import annotations

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
        for name, _, count in layer.parts:
            result.append((getattr(layer, name), states[given : given + count]))
            given += count
    return result


def _values_and_gradients(
    call: gpu.BlockCall, block: torch.nn.Module, x: Tensor, states: tuple[Tensor, ...]
) -> list[Tensor]:
    y = call(block, x, *states)[0]
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).reshape(y.shape)
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


def test_there_are_no_kernels_without_a_gpu_or_in_float32() -> None:
    if torch.cuda.is_available():
        assert mamba2_kernels() is None
        with torch.autocast("cuda", torch.bfloat16, enabled=False):
            assert mamba2_kernels() is None
    else:
        with torch.autocast("cpu", torch.bfloat16):
            assert mamba2_kernels() is None


def _kernels_there() -> bool:
    if not torch.cuda.is_available():
        return False
    with torch.autocast("cuda", torch.bfloat16):
        return mamba2_kernels() is not None


@pytest.mark.skipif(not _kernels_there(), reason="needs a CUDA GPU, mamba-ssm and causal-conv1d")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernels_are_as_near_as_mixed_precision(name: str) -> None:
    """To the definition in float32, relative to the largest value of each gradient."""
    torch.manual_seed(0)
    for block, states in _blocks(CONFIGS[name]):
        block, states = block.cuda(), tuple(state.cuda() for state in states)
        x = torch.randn(2, 300, CONFIGS[name].d_model, device="cuda", requires_grad=True)
        exact = _values_and_gradients(gpu.call_block, block, x, states)
        with torch.autocast("cuda", torch.bfloat16):
            call = gpu.block_call(gpu.How(), CUDA)
            ours = _values_and_gradients(call, block, x, states)
        for got, expected in zip(ours, exact, strict=True):
            scale = float(expected.detach().abs().max())
            assert float((got - expected).detach().abs().max()) <= KERNEL_PRECISION * scale
