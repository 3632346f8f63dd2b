"""A module's tensors are found in whatever wrapping they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ssmpress.errors import UsageError
from ssmpress.nets.weights import read_weights_for
from weight_checks import Net, refusal, same, saved, trained

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
