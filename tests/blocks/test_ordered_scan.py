"""Byte-identical training on a GPU. Every test needs one, and mamba-ssm's CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import mamba1_config
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.ordered_scan import ordered_kernels
from ssmpress.blocks.selective_scan import selective_scan
from ssmpress.prune.distill import final_hidden
from tolerances import FUSED_GRADIENT_TOLERANCE

pytestmark = pytest.mark.skipif(
    ordered_kernels() is None, reason="needs a CUDA GPU and mamba-ssm's CUDA kernels"
)


def _inputs(length: int) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    b, d, n = 3, 48, 16

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda").requires_grad_()

    u, delta, z = (draw(b, length, d) for _ in range(3))
    A = -torch.rand(n, d, generator=generator, device="cuda") - 0.1
    B, C = draw(b, length, n), draw(b, length, n)
    return [u, delta, draw(d), A.requires_grad_(), B, C, draw(d), z]


@pytest.mark.parametrize("length", [1, 130, 1024, 2500])
def test_values_and_gradients_equal_the_definition(length: int) -> None:
    inputs = _inputs(length)
    state = torch.zeros(3, 16, 48, device="cuda")
    scan = ordered_kernels()
    assert scan is not None
    grad = torch.randn(3, length, 48, device="cuda")
    results = []
    for function in (scan, selective_scan):
        y = function(*inputs, state)[0]
        results.append((y, *torch.autograd.grad(y, inputs, grad)))
    for ours, expected in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        assert float((ours - expected).abs().max()) <= FUSED_GRADIENT_TOLERANCE * scale


def test_gradients_of_a_model_are_the_same_bytes_every_time() -> None:
    config = mamba1_config(d_model=128, n_layer=4, vocab_size=512, d_inner=256, dt_rank=8)
    torch.manual_seed(0)
    model = Mamba(config).cuda()
    tokens = torch.randint(512, (16, 700), device="cuda")

    def gradients(ordered: bool) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            loss = final_hidden(model, tokens, ordered=ordered).float().square().mean()
        return list(torch.autograd.grad(loss, list(model.backbone.parameters())))

    first = gradients(ordered=True)
    for _ in range(5):
        again = gradients(ordered=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    unordered = [gradients(ordered=False) for _ in range(5)]
    same = [all(torch.equal(a, b) for a, b in zip(unordered[0], g, strict=True)) for g in unordered]
    assert not all(same), "the fused kernels repeat to the byte: this option is no longer needed"
