"""ssmpress.Network: what is checked when it is made, and how a module is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets import samples as samples_module
from ssmpress.nets.network import Network
from ssmpress.nets.samples import read_samples


class TwoInputs(nn.Module):
    """By keyword or in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * self.weight * mask).sum(-1)


class Both(NamedTuple):
    mean: Tensor
    spread: Tensor


def squared(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target).square().mean()


def network(**changes: Any) -> Network:
    """Two inputs, of which the first axis varies."""
    fields: dict[str, Any] = {
        "build": TwoInputs,
        "inputs": {"x": torch.zeros(2, 3), "mask": torch.ones(2, 3)},
        "dynamic": {"x": {0: "batch"}, "mask": {0: "batch"}},
        "samples": lambda split: [((torch.ones(4, 3), torch.ones(4, 3)), torch.full((4,), 3.0))],
        "loss": squared,
        "metric": squared,
    }
    return Network(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": 3}, "loss: expected a function; got 3."),
        ({"inputs": {}}, "inputs: expected an example of each input by name; got {}."),
        ({"inputs": {"x": [1]}}, "inputs: expected tensors by name; got {'x': 'list'}."),
        ({"dynamic": {"y": {0: "batch"}}}, "dynamic: expected one of the inputs x, mask; got 'y'."),
        ({"dynamic": {"masc": {}}}, "got 'masc'. Did you mean mask?"),
        ({"dynamic": {"x": {2: "batch"}}}, "names of sizes by axis, 0 to 1, for x"),
        ({"dynamic": {"x": {0: "a size"}}}, "names of sizes by axis"),
        ({"states": {"h": "h"}}, "states: expected one of the inputs"),
        ({"outputs": ("a", "a")}, "outputs: expected different names; got ['a', 'a']."),
        ({"outputs": "ab"}, "outputs: expected names; got 'ab'."),
        ({"metric_name": " "}, "metric_name: expected a name; got ' '."),
        ({"distill": 1}, "distill: expected a function; got 1."),
        ({"dynamic": ["x"]}, "dynamic: expected a dict by the inputs' names; got ['x']."),
        ({"dynamic": {"x": "batch"}}, "names of sizes by axis, 0 to 1, for x; got 'batch'."),
        ({"dynamic": {"x": ["batch"]}}, "0 to 1, for x; got ['batch']."),
        ({"states": ["x"]}, "states: expected a dict by the inputs' names; got ['x']."),
        ({"metric_name": "x" * 61}, "metric_name: expected 1 to 60 printable characters; got"),
        ({"higher_is_better": "no"}, "higher_is_better: expected True or False; got 'no'."),
        (
            {"inputs": {"x": torch.zeros(1, dtype=torch.uint8)}, "dynamic": {}},
            "inputs: x: expected one of the types float32, float16, int64, int32, bool; got uint8",
        ),
    ],
)
def test_fields_are_checked_when_it_is_made(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInputError) as error:
        network(**changes)
    assert str(error.value).startswith("Network: ")
    assert sentence in str(error.value)


@pytest.mark.parametrize("names", [("x", "mask"), ("first", "second")])
def test_inputs_go_in_by_keyword_or_in_order(names: tuple[str, str]) -> None:
    examples = dict(zip(names, (torch.full((2, 3), 2.0), torch.ones(2, 3)), strict=True))
    net = network(inputs=examples, dynamic={})
    assert net.call(TwoInputs(), examples).tolist() == [6.0, 6.0]


def test_a_keyword_beats_the_order() -> None:
    class Swapped(nn.Module):
        def forward(self, mask: Tensor, x: Tensor) -> Tensor:
            return x - mask

    net = network()
    assert net.call(Swapped(), net.inputs).tolist() == [[-1.0] * 3] * 2


def test_the_inputs_of_a_sample_have_the_examples_types_and_sizes() -> None:
    net = network()
    longer = torch.zeros(9, 3)
    assert net.bound({"mask": longer, "x": longer}).keys() == {"x", "mask"}
    assert net.bound([longer, longer])["x"] is longer
    for inputs, sentence in (
        ((longer,), "expected 2 inputs (x, mask); got 1."),
        ({"x": longer}, "expected the inputs x, mask; got x."),
        ((torch.zeros(9, 4), longer), "expected x float32 (batch, 3); got float32 (9, 4)."),
        ((longer, longer.double()), "expected mask float32 (batch, 3); got float64 (9, 3)."),
        ((longer[0], longer), "expected x float32 (batch, 3); got float32 (3,)."),
    ):
        with pytest.raises(BadInputError) as error:
            net.bound(inputs)
        assert sentence in str(error.value)


def test_a_state_that_is_not_given_is_zero_for_every_sample() -> None:
    net = network(
        inputs={"x": torch.zeros(1, 3), "h": torch.ones(1, 5)},
        dynamic={"x": {0: "batch"}, "h": {0: "batch"}},
        states={"h": "h_next"},
    )
    x, h = torch.ones(4, 3), torch.full((4, 5), 2.0)
    for inputs in (x, (x,), {"x": x}):
        assert net.bound(inputs)["h"].tolist() == torch.zeros(4, 5).tolist()
    for inputs in ((x, h), {"h": h, "x": x}):
        assert list(net.bound(inputs)) == ["x", "h"]
        assert net.bound(inputs)["h"] is h
    with pytest.raises(BadInputError, match=r"expected 1 inputs \(x\); got 3"):
        net.bound((x, h, h))


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (torch.zeros(1), ["output"]),
        ((torch.zeros(1), torch.ones(1)), ["output_0", "output_1"]),
        ({"a": torch.zeros(1), "b": torch.ones(1)}, ["a", "b"]),
        (Both(torch.zeros(1), torch.ones(1)), ["output_0", "output_1"]),
        ({"a": torch.zeros(1), "none": None}, ["a"]),
        ({"a": {"y": torch.zeros(1)}, "b": {"y": torch.ones(1)}}, ["output_0", "output_1"]),
        (
            {"output_1": torch.zeros(1), "b": [torch.ones(1), torch.ones(2)]},
            [
                "output_0",
                "output_1",
                "output_2",
            ],
        ),
    ],
)
def test_outputs_have_names_and_keep_their_structure(outputs: Any, names: list[str]) -> None:
    net = network()
    flat = net.flat(outputs)
    assert list(flat) == names
    again = net.structured({name: value + 5 for name, value in flat.items()}, outputs)
    assert type(again) is type(outputs)
    assert [v.tolist() for v in net.flat(again).values()] == [
        (v + 5).tolist() for v in flat.values()
    ]


def test_the_users_names_of_outputs_count() -> None:
    both = (torch.zeros(1), torch.ones(1))
    assert list(network(outputs=("low", "high")).flat(both)) == ["low", "high"]
    with pytest.raises(BadInputError, match="expected 2 names, one of each tensor"):
        network(outputs=("low",)).flat(both)
    with pytest.raises(BadInputError, match="expected forward to return tensors; got float"):
        network().flat(1.0)


def test_samples_are_read_once_and_judged_by_the_users_functions() -> None:
    net = network()
    samples = read_samples(net, "evaluation", TwoInputs())
    assert (samples.count, samples.sizes) == (1, (4,))
    inputs, target = samples.batch(0)
    outputs = samples.call(TwoInputs(), inputs)
    assert samples.metric(outputs, target) == 0.0
    assert samples.distance(outputs, outputs).item() == 0.0
    again = samples.structured({"output": outputs.detach().numpy() + 1})
    assert samples.metric(again, target) == 1.0
    other = read_samples(
        replace(net, samples=lambda split: [*net.samples(split)] * 2), "", TwoInputs()
    )
    assert samples.digest() != other.digest()
    assert samples.part_in(other) == 1.0
    assert other.some([1]).digest() == samples.digest()


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (lambda split: [], 'samples("calibration"): expected at least one batch; got none.'),
        (lambda split: [3], "expected pairs (inputs, target); got int."),
        (lambda split: torch.zeros(3), "expected batches (inputs, target), one after the other"),
        (lambda split: 1 / 0, f'samples("calibration") failed at {__file__}:'),
        (lambda split: (1 / 0 for _ in range(3)), "ZeroDivisionError: division by zero"),
        (
            lambda split: [((torch.ones(4, 3), torch.ones(3, 3)), None)],
            f"forward failed at {__file__}:",
        ),
    ],
)
def test_samples_of_another_kind_are_refused(samples: Any, sentence: str) -> None:
    with pytest.raises(BadInputError) as error:
        read_samples(network(samples=samples), "calibration", TwoInputs())
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (
            lambda outputs, target: 3.0,
            "expected a tensor with one floating-point number; got float",
        ),
        (lambda outputs, target: outputs, "got a tensor of float32 (4,). Return the mean"),
        (lambda outputs, target: outputs.detach().sum(), "with gradients; got one without."),
        (lambda outputs, target: outputs.nothing, f"loss failed at {__file__}:"),
    ],
)
def test_a_loss_is_a_scalar_with_gradients(loss: Any, sentence: str) -> None:
    with pytest.raises(BadInputError) as error:
        read_samples(network(loss=loss), "calibration", TwoInputs())
    assert sentence in str(error.value)
    distill = {"distill": loss}
    with pytest.raises(BadInputError) as error:
        read_samples(network(**distill), "calibration", TwoInputs())
    assert sentence.replace("loss", "distill") in str(error.value)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (lambda o, t: o, "metric: expected a number; got a tensor of float32"),
        (lambda o, t: float("nan"), "expected a finite number for the first batch; got nan."),
        (lambda o, t: 1 / 0, f"metric failed at {__file__}:"),
    ],
)
def test_a_metric_is_a_finite_number(metric: Any, sentence: str) -> None:
    with pytest.raises(BadInputError) as error:
        read_samples(network(metric=metric), "calibration", TwoInputs())
    assert sentence in str(error.value)


def test_a_network_that_is_frozen_has_a_loss_with_gradients() -> None:
    module = TwoInputs().requires_grad_(False)
    assert read_samples(network(), "calibration", module).count == 1
    assert not any(parameter.requires_grad for parameter in module.parameters())


class Noisy(TwoInputs):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5), mask)


class Writes(TwoInputs):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x.mul_(2.0), mask)


class Keeps(TwoInputs):
    kept: Any = 0.0

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        self.kept = self.kept + super().forward(x, mask).detach()
        return super().forward(x, mask) + self.kept


@pytest.mark.parametrize("kind", [Noisy, Writes, Keeps])
def test_a_second_call_returns_the_same(kind: type[TwoInputs]) -> None:
    torch.manual_seed(0)
    with pytest.raises(BadInputError, match=r"forward: expected the same output for the same inp"):
        read_samples(network(), "calibration", kind())


def test_batches_that_are_filled_again_are_copied() -> None:
    x, target = torch.ones(4, 3), np.zeros(4)

    def fill(split: str) -> Any:
        for value in (1.0, 2.0):
            x.fill_(value)
            target.fill(value)
            yield (x, torch.ones(4, 3)), target

    net = network(samples=fill, loss=lambda o, t: o.sum(), metric=lambda o, t: t.sum())
    samples = read_samples(net, "calibration", TwoInputs())
    assert [float(samples.batch(i)[0]["x"].mean()) for i in (0, 1)] == [1.0, 2.0]
    assert [float(samples.batch(i)[1].mean()) for i in (0, 1)] == [1.0, 2.0]


def test_samples_that_seem_to_have_no_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(split: str) -> Any:
        for _ in range(50):
            yield (torch.ones(4, 3), torch.ones(4, 3)), torch.full((4,), 3.0)

    for name, most in (("MAX_BATCHES", 3), ("MAX_BYTES", 1000)):
        with monkeypatch.context() as patch:
            patch.setattr(samples_module, name, most)
            with pytest.raises(BadInputError, match="expected an end after at most"):
                read_samples(network(samples=long), "calibration", TwoInputs())


def test_the_distance_of_outputs_has_the_unit_of_their_spread() -> None:
    samples = read_samples(network(), "calibration", TwoInputs())
    teacher = torch.tensor([1.0, 3.0, -torch.inf])
    for scale in (1.0, 1000.0):
        student = scale * torch.tensor([1.5, 3.0, -torch.inf])
        distance = samples.distance(student.requires_grad_(), scale * teacher)
        assert distance.item() == 0.125
    constant = torch.ones(1)
    assert samples.distance((constant + 0.5).requires_grad_(), constant).item() == 0.25


class Box:
    """A target of the user's own kind, whose repr has an address."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values)


def test_a_digest_is_that_of_the_values() -> None:
    def digest(target: Any) -> bytes:
        batch = [((torch.ones(4, 3), torch.ones(4, 3)), target)]
        changes = {"loss": lambda o, t: o.sum(), "metric": lambda o, t: 0.0}
        net = network(samples=lambda split: batch, **changes)
        return read_samples(net, "calibration", TwoInputs()).digest()

    assert digest(Box([1.0])) == digest(Box([1.0])) != digest(Box([2.0]))
    long = [float(i) for i in range(5000)]
    assert digest(np.array(long)) != digest(np.array([*long[:2000], -1.0, *long[2001:]]))
    assert digest({"a": [1, None]}) != digest({"a": [None, 1]})
