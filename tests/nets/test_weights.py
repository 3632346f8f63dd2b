"""Weights in every wrapping people save them in, for a module that says what it needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from ssmpress.errors import BadInputError, UsageError
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.weights import read_weights_for

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")

Tensors = dict[str, Tensor]


class Net(nn.Module):
    """What networks have: a 1x1 convolution, a block, norms with buffers, tables, a tied matrix."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv1d(3, width, 1)
        self.blocks = nn.ModuleList([Mamba(width, d_state=2, d_conv=2) for _ in range(2)])
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3, bias=False)
        self.tied = nn.Linear(width, 3, bias=False)
        self.tied.weight = self.head.weight
        self.register_buffer("order", torch.arange(4))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("made", torch.ones(2), persistent=False)


def trained(net: nn.Module | None = None) -> Tensors:
    """A state dict of other values than a new net has."""
    state = (net or Net()).state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not name.endswith("mask"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return {name: tensor.clone() for name, tensor in state.items()} | {
        name: state["head.weight"] for name in ("head.weight", "tied.weight") if name in state
    }


def saved(value: Any, folder: Path, name: str = "weights.pt") -> Path:
    torch.save(value, folder / name)
    return folder / name


def same(tensors: Tensors, expected: Tensors) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        wide = tensor.float() if tensor.is_floating_point() else tensor
        torch.testing.assert_close(tensors[name], wide, rtol=0, atol=0, msg=name)


def refusal(path: Path, net: nn.Module | None = None, weights_of: str | None = None) -> str:
    with pytest.raises(BadInputError) as caught:
        read_weights_for(path, net or Net(), weights_of)
    return str(caught.value)


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


# ---- wrappers ----

BEFORE = ("module.", "_orig_mod.", "model.", "net.", "_fsdp_wrapped_module.", "base_model.model.")
BETWEEN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")
KEYS = ("state_dict", "model_state_dict", "model", "net", "params", "ema", "model_ema", "0")


def wrapped(name: str, before: list[str], between: dict[str, str]) -> str:
    """A name with wrappers before it and before some of its parts."""
    inner = "".join(between.get(part, "") + part + "." for part in name.split("."))
    return "".join(before) + inner.removesuffix(".")


@given(
    before=st.lists(st.sampled_from(BEFORE), max_size=4),
    between=st.dictionaries(
        st.sampled_from(["0", "conv1d", "in_proj", "norm"]), st.sampled_from(BETWEEN), max_size=3
    ),
    keys=st.lists(st.sampled_from(KEYS), max_size=3),
    beside=st.sets(st.sampled_from(["optimizer", "scheduler", "epoch", "loss", "grad_scaler"])),
    without=st.sets(st.sampled_from(["norm.num_batches_tracked", "order", "tied.weight"])),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_nesting_of_wrappers(
    tmp_path: Path,
    before: list[str],
    between: dict[str, str],
    keys: list[str],
    beside: set[str],
    without: set[str],
) -> None:
    state = trained()
    value: Any = {wrapped(n, before, between): t for n, t in state.items() if n not in without}
    moments = {n: torch.zeros_like(t) for n, t in value.items()}  # an optimiser's, by equal names
    others = {"epoch": 3, "loss": torch.tensor(0.5)}
    for key in reversed(keys):
        value = {key: value} | {name: others.get(name, {"state": moments}) for name in beside}
    tensors, _ = read_weights_for(saved(value, tmp_path), Net())
    expected = state | {"norm.num_batches_tracked": tensors["norm.num_batches_tracked"]}
    same(tensors, expected)


def test_notes_say_where_the_weights_were(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in trained().items()}
    state |= {"criterion.weight": torch.ones(2), "model.norm.old": torch.ones(2)}
    del state["model.order"]
    value = {"state_dict": state, "optimizer_states": [], "epoch": 3}
    tensors, notes = read_weights_for(saved(value, tmp_path, "last.ckpt"), Net())
    assert torch.equal(tensors["order"], torch.arange(4))
    assert notes == (
        "state dict found under 'state_dict'; not used: optimizer_states, epoch",
        "prefix 'model.' removed",
        "tensors of the file that the network has not, not used: norm.old, criterion.weight",
        "not in the file, taken as build makes them: order",
    )


def test_a_module_around_the_net_that_was_saved(tmp_path: Path) -> None:
    outer = nn.ModuleDict({"inner": nn.ModuleDict({"net": Net()})})
    state = trained()
    tensors, _ = read_weights_for(saved(state, tmp_path), outer)
    same(tensors, {f"inner.net.{name}": tensor for name, tensor in state.items()})


def test_a_module_that_is_wrapped_itself(tmp_path: Path) -> None:
    net = nn.DataParallel(Net())
    state = trained()
    for value in (state, {f"module.{name}": tensor for name, tensor in state.items()}):
        tensors, _ = read_weights_for(saved(value, tmp_path), net)
        same(tensors, {f"module.{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize("kind", ["keys", "names"])
def test_a_model_and_its_average(tmp_path: Path, kind: str) -> None:
    state = trained()
    average = {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}
    if kind == "keys":
        value: Any = {"model": state, "model_ema": average}
    else:
        value = {f"model.{n}": t for n, t in state.items()}
        value |= {f"model_ema.{n}": t for n, t in average.items()} | {"step": torch.tensor(5)}
    path = saved(value, tmp_path)
    count = len(state) - 3  # without a counter, a table and a tied tensor
    assert refusal(path) == (
        f"{path}: expected one set of weights for the network; got several: 'model' ({count} of "
        f"{count} tensors), 'model_ema' ({count} of {count} tensors). Say which: --weights-of "
        "model_ema."
    )
    same(read_weights_for(path, Net(), "model")[0], state)
    same(read_weights_for(path, Net(), "model_ema")[0], average)
    with pytest.raises(UsageError, match="--weights-of: expected one of the models in"):
        read_weights_for(path, Net(), "emma")


def test_one_model_under_two_keys_is_one(tmp_path: Path) -> None:
    state = trained()
    path = saved({"model": state, "state_dict": dict(state)}, tmp_path)
    same(read_weights_for(path, Net())[0], state)


# ---- objects of other classes ----


class Bomb:
    """An object that does something when it is unpickled or made."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


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


# ---- files and folders ----


def test_safetensors_without_the_second_name_of_a_tied_tensor(tmp_path: Path) -> None:
    state = trained()
    for left_out in ("head.weight", "tied.weight"):
        kept = {n: t.contiguous() for n, t in state.items() if n != left_out}
        save_file(kept, tmp_path / "model.safetensors")
        for path in (tmp_path, tmp_path / "model.safetensors"):
            same(read_weights_for(path, Net())[0], state)


def test_arrays_of_numpy(tmp_path: Path) -> None:
    state = trained()
    path = tmp_path / "weights.npz"
    np.savez(path, **{n.replace(".", "/"): t.numpy() for n, t in state.items()})
    same(read_weights_for(path, Net())[0], state)
    np.savez(
        path, **{n: t.numpy().astype(">f8") for n, t in state.items()} | {"order": [0, 1, 2, 3]}
    )
    same(read_weights_for(tmp_path, Net())[0], state)


def test_pickles_in_arrays_of_numpy_are_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.npz", tmp_path / "touched"
    np.savez(path, weight=np.array([Bomb(marker)], dtype=object))
    assert "got: an array of Python objects, which only a pickle can hold. Write it" in refusal(
        path
    )
    assert not marker.exists()
    np.savez(path, weight=np.array(["text"]))
    assert "weight: expected an array of numbers; got <U4." in refusal(path)


def test_parts_of_a_folder(tmp_path: Path) -> None:
    state = trained()
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in shards.items():
        save_file({f"model.{n}": state[n].clone() for n in own}, tmp_path / file)
    places = {f"model.{name}": file for file, own in shards.items() for name in own}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    same(read_weights_for(tmp_path, Net())[0], state)
    first = tmp_path / next(iter(shards))
    assert refusal(first).endswith(f"got one part of several. Give the folder: {tmp_path}.")
    index.write_text(json.dumps({"weight_map": places | {"model.more": first.name}}))
    assert "model.more: expected this tensor here, the index says so; got none" in refusal(tmp_path)


def test_a_folder_with_several_files_or_none(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: expected one file of weights in it; got none."
    for name in ("a.ckpt", "b.ckpt"):
        saved(trained(), tmp_path, name)
    assert refusal(tmp_path) == (
        f"{tmp_path}: expected one file of weights in it; got a.ckpt, b.ckpt. Give the file "
        f"itself, such as {tmp_path / 'a.ckpt'}."
    )


def test_what_a_training_loop_writes_beside_the_weights(tmp_path: Path) -> None:
    saved(trained(), tmp_path, "best.pth.tar")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        saved({"state": torch.ones(1)}, tmp_path, name)
    same(read_weights_for(tmp_path, Net())[0], trained())


def test_no_weights_at_all(tmp_path: Path) -> None:
    assert "got: No such file or directory" in refusal(tmp_path / "none.pt")
    assert "expected tensors by name" in refusal(saved({"epoch": 3}, tmp_path))


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
