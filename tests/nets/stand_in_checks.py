"""What tests of stand-ins share: drawn tensors, and equality with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tolerances import STAND_IN_FLOAT32, assert_close

B, L, D, N = 2, 7, 6, 4
"""Batch, steps, channels and states."""


def close(actual: Any, expected: Any, what: str = "") -> None:
    """Equal tensors, or as many of them."""
    if isinstance(actual, tuple):
        for one, other in zip(actual, expected, strict=True):
            close(one, other, what)
    else:
        assert actual.dtype == expected.dtype
        assert_close(actual.detach(), expected.detach(), STAND_IN_FLOAT32, what)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same_with_gradients(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor | None
) -> None:
    """Both functions give one result, and one gradient for every input."""
    results, gradients = [], []
    for function in (ours, theirs):
        given = [t if t is None else t.clone().requires_grad_() for t in inputs]
        results.append(function(*given))
        (results[-1] * drawn(*results[-1].shape, seed=99)).sum().backward()
        gradients.append([t.grad for t in given if t is not None])
    close(*results)
    for own, other in zip(*gradients, strict=True):
        close(own, other)


def twin(ours: nn.Module, theirs: nn.Module) -> None:
    """The other block's weights in ours; both have the same names and shapes."""
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(theirs.state_dict())


def same_blocks(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Equal results and gradients of every weight."""
    twin(ours, theirs)
    same_with_gradients(ours, theirs, x)
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, others[name].grad, name)
