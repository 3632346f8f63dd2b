"""Weights in every form people save them in, for a module that says what it needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from ssmpress.nets.weights import read_weights_for
from weight_checks import Bomb, Net, refusal, same, saved, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


def test_a_state_dict(tmp_path: Path) -> None:
    state = trained()
    tensors, notes = read_weights_for(saved(state, tmp_path), Net())
    same(tensors, state)
    assert notes == ()
    Net().load_state_dict(tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in trained().items()}
    tensors, _ = read_weights_for(saved(state, tmp_path), Net())
    same(tensors, state)
    assert tensors["head.weight"].dtype == torch.float32


def test_a_modules_float64_stays(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).double().state_dict()
    tensors, _ = read_weights_for(saved(state, tmp_path), nn.Linear(2, 2).double())
    assert torch.equal(tensors["weight"], state["weight"])


# ---- objects of other classes ----


def test_lightnings_namespace_and_a_hostile_object_are_never_called(tmp_path: Path) -> None:
    state = trained()
    marker = tmp_path / "touched"
    value = {
        "state_dict": {f"net.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": argparse.Namespace(width=6, bomb=Bomb(marker)),
        "callbacks": {"early": Bomb(marker)},
    }
    tensors, notes = read_weights_for(saved(value, tmp_path, "epoch=3.ckpt"), Net())
    same(tensors, state)
    assert not marker.exists()
    assert any("neither imported nor called" in note for note in notes)


def test_a_pickled_module(tmp_path: Path) -> None:
    net = Net()
    net.load_state_dict(trained())
    same(read_weights_for(saved(net, tmp_path), Net())[0], trained())


# ---- parts of weights ----


def with_masks(net: Net) -> None:
    prune.random_unstructured(net.blocks[0].in_proj, "weight", 0.5)
    prune.random_unstructured(net.patch, "weight", 0.5)


def with_weight_norm(net: Net) -> None:
    nn.utils.weight_norm(net.blocks[0].in_proj)
    parametrizations.weight_norm(net.patch)


@pytest.mark.parametrize("change", [with_masks, with_weight_norm])
def test_weights_in_parts_are_put_together(tmp_path: Path, change: Callable[[Net], None]) -> None:
    net = Net()
    change(net)
    state = {f"module.{name}": tensor for name, tensor in trained(net).items()}
    net.load_state_dict({n.removeprefix("module."): t for n, t in state.items()})
    tensors, notes = read_weights_for(saved(state, tmp_path), Net())
    for module, name in (
        (net.blocks[0].in_proj, "blocks.0.in_proj.weight"),
        (net.patch, "patch.weight"),
    ):
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        torch.testing.assert_close(tensors[name], module.weight.detach())
    assert any("masks applied" in n or "weight_norm: 2 weights" in n for n in notes)


@pytest.mark.parametrize("change", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("saved_as", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_a_module_with_weight_norm_gets_its_parts(
    tmp_path: Path, change: Callable[..., nn.Module], saved_as: Callable[..., nn.Module]
) -> None:
    """By both names that PyTorch has for them."""
    module, source = (
        nn.Sequential(f(nn.Linear(3, 2)), nn.Linear(2, 2)) for f in (change, saved_as)
    )
    tensors, notes = read_weights_for(saved(source.state_dict(), tmp_path), module)
    module.load_state_dict(tensors)
    x = torch.randn(4, 3)
    torch.testing.assert_close(module(x), source(x))
    assert not notes


@pytest.mark.parametrize("peft", [False, True])
def test_lora_pairs_are_added(tmp_path: Path, peft: bool) -> None:
    state = trained()
    A, B = torch.randn(2, 6), torch.randn(24, 2)
    name = "blocks.0.in_proj.weight"
    changed = dict(state)
    if peft:
        changed["blocks.0.in_proj.base_layer.weight"] = changed.pop(name)
        pair = {"lora_A.default.weight": A, "lora_B.default.weight": B}
        changed |= {f"blocks.0.in_proj.{part}": tensor for part, tensor in pair.items()}
        changed = {f"base_model.model.{n}": tensor for n, tensor in changed.items()}
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4}))
        value: Any = changed
    else:
        changed |= {"blocks.0.in_proj.lora_A": A, "blocks.0.in_proj.lora_B": B}
        value = {"state_dict": changed, "lora_alpha": 4}
    tensors, notes = read_weights_for(saved(value, tmp_path), Net())
    expected = state | {name: state[name] + 4 / 2 * B @ A}
    torch.testing.assert_close(tensors, expected)
    assert any(note.startswith("LoRA: 1 pairs of rank 2 merged with alpha 4") for note in notes)


# ---- what does not fit ----


def test_a_missing_tensor_is_named_with_the_nearest(tmp_path: Path) -> None:
    state = trained()
    state["blocks.0.xproj.weight"] = state.pop("blocks.0.x_proj.weight")
    del state["norm.bias"]
    path, count = saved(state, tmp_path), len(state) - 2
    assert refusal(path) == (
        f"{path}: blocks.0.x_proj.weight: expected this tensor (5, 12) of the network that build "
        f"makes; got none (2 of {count} are missing, 1 of the file are not used). The nearest that "
        "is there is blocks.0.xproj.weight. Let build make the network that was trained, or give "
        "its weights."
    )


def test_another_networks_weights(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 2).state_dict(), tmp_path)
    assert "patch.weight: expected this tensor (6, 3, 1)" in refusal(path)


def test_another_shape_is_named(tmp_path: Path) -> None:
    path = saved(trained(Net(8)), tmp_path)
    assert refusal(path) == (
        f"{path}: patch.weight: expected (6, 3, 1), as build makes it; got (8, 3, 1). Give build "
        "the sizes that the network was trained with."
    )


def test_a_missing_buffer_of_floats_is_no_table(tmp_path: Path) -> None:
    state = trained()
    del state["norm.running_var"]
    assert "norm.running_var: expected this tensor (6,)" in refusal(saved(state, tmp_path))


def test_tied_tensors_that_differ(tmp_path: Path) -> None:
    state = trained()
    state["tied.weight"] = state["tied.weight"] + 1
    assert refusal(saved(state, tmp_path)).endswith(
        "tied.weight: expected the values of head.weight, which build makes one tensor with it; "
        "got others. Let build make the network that was trained."
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    state = trained()
    state["patch.bias"][1] = bad
    message = refusal(saved(state, tmp_path))
    assert message.startswith("patch.bias: expected finite float32 values; got 1 that are not")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("patch.bias", lambda t: t.to(torch.int8)),
        ("patch.bias", lambda t: t.to(torch.float8_e4m3fn)),
        ("order", lambda t: t + 0.5),
        ("head.weight", lambda t: t.to_sparse()),
    ],
)
def test_other_kinds_of_values(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    state = trained()
    del state["tied.weight"]
    state[name] = change(state[name])
    assert f"{name}: expected dense " in refusal(saved(state, tmp_path))


def test_quantised_weights_are_said_to_be_that(tmp_path: Path) -> None:
    state = trained()
    state["head.qweight"] = state.pop("head.weight")
    del state["tied.weight"]
    assert "got AWQ or GPTQ." in refusal(saved(state, tmp_path))


def test_flat_parameters_of_fsdp(tmp_path: Path) -> None:
    assert "got FSDP's flat ones" in refusal(saved({"_flat_param": torch.ones(9)}, tmp_path))


def test_a_lazy_module_has_no_sizes(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 2).state_dict(), tmp_path)
    assert "weight: expected a tensor whose sizes are known" in refusal(path, nn.LazyLinear(2))
