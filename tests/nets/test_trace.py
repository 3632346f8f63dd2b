"""Tracing a user's module: which parameters are matrices, what became of flips, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from inspect import getsourcelines
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exported import expected, other_sizes, packed, traced
from ssmpress.errors import BadInputError
from ssmpress.graph.traced import build_network
from ssmpress.nets import trace as nets_trace
from ssmpress.nets.permutes import PERMUTES
from ssmpress.nets.products import matrix_spec
from ssmpress.nets.trace import Traced, trace
from thoroughness import examples
from zoo import D, network, sequence

OPS = torch.ops.ssmpress


def count(graph: Traced, *targets: object) -> int:
    return sum(node.target in targets for node in graph.program.graph.nodes)


def flips(graph: Traced) -> int:
    return count(graph, torch.ops.aten.flip.default)


# ---- matrices ----


def test_parameters_in_products_alone_are_matrices() -> None:
    _, _, graph = traced("products")
    transposed = {name: spec.transposed for name, spec in graph.matrices.items()}
    assert transposed == {
        "left": False,
        "summed": True,
        "stacked": True,
        "twice.weight": False,
        "tied.weight": False,
    }
    assert "tied_too.weight" not in graph.shapes
    assert graph.shapes["fused.weight"] == (3 * D, D)


def test_what_reads_the_input_itself_is_known() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv1d(D, D, 1)
            self.middle, self.normal, self.again = (nn.Linear(D, D) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.middle(self.embed(x.transpose(1, 2)).transpose(1, 2))
            return y + self.normal(x - x.mean(-1, keepdim=True)) + self.again(x.flatten(0, 1))[:1]

    matrices = trace(sequence(Net), Net()).matrices
    assert {name for name, spec in matrices.items() if spec.reads_input} == {
        "embed.weight",
        "again.weight",
    }


def test_1x1_convolutions_are_matrices_and_others_are_not() -> None:
    assert set(traced("vision")[2].matrices) == {
        "patches.2.weight",
        *(f"layers.0.block.{part}.weight" for part in ("in_proj", "x_proj", "dt_proj", "x_proj_b")),
        *(f"layers.0.block.{part}.weight" for part in ("dt_proj_b", "out_proj")),
        "head.weight",
    }
    assert "enter.weight" not in traced("spectrogram")[2].matrices


def test_every_parameter_and_buffer_has_its_shape() -> None:
    _, module, graph = traced("pooled")
    named = [*module.named_parameters(), *module.named_buffers()]
    assert graph.shapes == {name: tuple(tensor.shape) for name, tensor in named}


@pytest.mark.parametrize(
    ("name", "component", "layer"),
    [
        ("blocks.3.mixer.in_proj.weight", "in_proj", 3),
        ("head.weight", "head", None),
        ("mlp.2.weight", "mlp", 2),
        ("W", "W", None),
        ("stages.1.blocks.0.W_in", "W_in", 1),
        ("weight", "weight", None),
    ],
)
def test_a_matrix_is_called_after_its_module(name: str, component: str, layer: int | None) -> None:
    spec = matrix_spec(name)
    assert (spec.component, spec.layer) == (component, layer)


SPELLINGS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "x @ W": ((5, 3), lambda x, W: x @ W),
    "x @ W.T": ((3, 5), lambda x, W: x @ W.T),
    "W @ x": ((3, 5), lambda x, W: (W @ x.mT).mT),
    "W.T @ x": ((5, 3), lambda x, W: (W.mT @ x.transpose(-1, -2)).mT),
    "steps flat": ((5, 3), lambda x, W: (x.flatten(0, 1) @ W).view(*x.shape[:2], 3)),
    "steps as columns": (
        (3, 5),
        lambda x, W: (W @ x.permute(2, 0, 1).flatten(1)).view(3, *x.shape[:2]).permute(1, 2, 0),
    ),
    "einsum": ((3, 5), lambda x, W: torch.einsum("rc,blc->blr", W, x)),
    "conv1d": ((3, 5, 1), lambda x, W: nn.functional.conv1d(x.mT, W).mT),
    "conv2d": ((3, 5, 1, 1), lambda x, W: nn.functional.conv2d(x.mT[..., None], W)[..., 0].mT),
    "cast": ((3, 5), lambda x, W: nn.functional.linear(x, W.float().contiguous())),
    "three axes": ((5, 1, 3), lambda x, W: nn.functional.linear(x, W.squeeze(1).t())),
}
"""Shape of W, and y (b, l, 3) of x (b, l, 5)."""


class Spelled(nn.Module):
    """A product in one of its spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        shape, self.product = SPELLINGS[spelling]
        self.W = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.W)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_product(spelling: str) -> None:
    torch.manual_seed(0)
    net = sequence(lambda: Spelled(spelling), channels=5)
    module = net.build()
    graph = trace(net, module)
    if spelling != "three axes":  # neither a matrix nor a convolution's weight
        assert set(graph.matrices) == {"W"}
        assert count(graph, OPS.linear.default) == 1
        assert graph.matrices["W"].transposed is (module.W.shape[:2] == (5, 3))
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(graph.program.module()(x)["output"], module(x))


@settings(max_examples=examples(6))
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), left=st.booleans(), turned=st.booleans())
def test_a_product_of_any_size(rows: int, columns: int, left: bool, turned: bool) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shape = (rows, columns) if turned is left else (columns, rows)
            self.W = nn.Parameter(torch.randn(shape if not turned else shape[::-1]))

        def forward(self, x: Tensor) -> Tensor:
            W = self.W.T if turned else self.W
            return (W @ x.mT).mT if left else x @ W

    net = sequence(Product, channels=0)
    module = Product()
    c = module.W.shape[(1 if left else 0) ^ turned]
    net = sequence(Product, channels=c)
    graph = trace(net, module)
    x = torch.randn(2, 5, c)
    torch.testing.assert_close(graph.program.module()(x)["output"], module(x))
    assert count(graph, OPS.linear.default) == 1


# ---- flips ----


def test_flips_around_a_scan_become_a_scan_backwards() -> None:
    for name, scans in (("two scans summed", 4), ("bare, backwards", 2), ("tokens", 2)):
        _, _, graph = traced(name)
        assert flips(graph) == 0, name
        directions = [
            node.args[10]
            for node in graph.program.graph.nodes
            if node.target is OPS.selective_scan.default
        ]
        assert len(directions) == scans
        assert any(directions)


def test_flips_around_a_convolution_stay() -> None:
    assert flips(traced("both ways, one block")[2]) == 4


class Flipped(nn.Module):
    """Flips that do not come in pairs, or along another axis."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.axes, self.layer = (first, second), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(x.flip(self.axes[0])))
        return x.flip(self.axes[1])


@pytest.mark.parametrize(
    ("first", "second", "left"), [(1, 1, 0), (1, 0, 2), (2, 2, 2), (-2, 1, 0), (0, 0, 0)]
)
def test_only_what_treats_all_steps_alike_is_passed(first: int, second: int, left: int) -> None:
    net = sequence(lambda: Flipped(first, second))
    module = net.build()
    graph = trace(net, module)
    assert flips(graph) == left
    x = torch.randn(3, 5, D)
    torch.testing.assert_close(graph.program.module()(x)["output"], module(x))


# ---- permutes ----


def test_axes_that_are_turned_to_and_fro_stay() -> None:
    _, _, graph = traced("as mamba-ssm writes it")
    assert len(graph.matrices) == 8
    turned = [node for node in graph.program.graph.nodes if node.target in PERMUTES]
    assert all("s" not in str(node.meta["val"].shape) for node in turned), "only weights are"
    for name in ("two scans summed", "mamba", "bare, backwards"):
        assert count(traced(name)[2], *PERMUTES) == 0, name


class TurnedAndAdded(nn.Module):
    """A permuted input and a weight of another rank."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.permute(2, 0, 1) * self.weight)


@pytest.mark.parametrize("shape", [(), (1,), (5, 1, 1), (1, 1), (2, 5, 1, 1), (1, 1, 1)])
def test_a_weight_beside_permuted_axes_keeps_its_place(shape: tuple[int, ...]) -> None:
    module = TurnedAndAdded(*shape)
    graph = trace(sequence(lambda: module, channels=5), module)
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(graph.program.module()(x)["output"], module(x))


@settings(max_examples=examples(12))
@given(order=st.permutations(range(3)), merge=st.booleans(), data=st.data())
def test_a_reshape_of_permuted_axes_is_kept(
    order: list[int], merge: bool, data: st.DataObject
) -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.permute(order)
            first, second, third = y.shape
            y = y.reshape(first * second, third) if merge else y.reshape(first, 1, second, third)
            return torch.tanh(y).movedim(0, -1)

    net = sequence(Turned, channels=4)
    graph = trace(net, Turned())
    x = torch.randn(data.draw(st.integers(2, 4)), data.draw(st.integers(2, 5)), 4)
    torch.testing.assert_close(graph.program.module()(x)["output"], Turned()(x))


# ---- ports ----


def test_ports_have_the_users_names() -> None:
    inputs, outputs = traced("tokens")[2].ports
    assert [(p.name, p.type, p.shape, p.low, p.high) for p in inputs] == [
        ("input", "int64", ("batch", "length"), 0, 20)
    ]
    assert [(p.name, p.shape, p.example) for p in outputs] == [
        ("scores", ("batch", "length", 3), (1, 9, 3))
    ]
    _, outputs = traced("pooled")[2].ports
    assert [(p.name, p.shape) for p in outputs] == [
        ("scores", ("batch", 4)),
        ("attention", ("batch", "length")),
    ]


def test_tracing_changes_no_weight() -> None:
    net, module, graph = traced("pooled")
    inputs = other_sizes(net)
    wanted = expected(net, module, inputs)
    for name, tensor in graph.program.module()(*inputs.values()).items():
        torch.testing.assert_close(tensor, torch.from_numpy(wanted[name]))


class Pooling(nn.MaxPool1d):
    """Over the steps of (batch, steps, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (3,), "stride": 2, "padding": (1,)},
        {"kernel_size": 2, "dilation": 2},
    ],
)
def test_max_pooling_keeps_the_length_free(options: dict[str, Any]) -> None:
    net = sequence(lambda: Pooling(**options))
    module = net.build()
    graph = trace(net, module)
    x = torch.randn(3, 7, D)
    torch.testing.assert_close(graph.program.module()(x)["output"], module(x))


# ---- what cannot be exported ----


class Branches(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return super().forward(x)
        return x


class Loops(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0]
        for t in range(x.shape[1]):
            h = h * 0.5 + x[:, t]
        return super().forward(h)


class Counts(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / len(x)


class Fails(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., :3])


class HasNoTranslation(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.linalg.eigvalsh(x.mT @ x)


def line(kind: type, number: int) -> str:
    """FILE:LINE of a class here. number: of the line, the class's own being 0."""
    return f"{Path(__file__)}:{getsourcelines(kind)[1] + number}"


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        (Branches, line(Branches, 2), "depends on a tensor's values"),
        (Loops, line(Loops, 4), "is a Python loop over it. Write it with tensor operations"),
        (Counts, "axis 0 of x", "any batch, .* not len"),
        (Fails, line(Fails, 2), "forward cannot be exported: RuntimeError"),
    ],
)
def test_the_line_is_named(
    kind: type[nn.Linear], where: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    net = sequence(lambda: kind(D, D))
    with pytest.raises(BadInputError, match=f"^Network: .*{message}") as refused:
        trace(net, net.build())
    assert where in str(refused.value)
    assert capfd.readouterr() == ("", "")  # torch.export prints its graph


def test_a_loop_over_a_fixed_length_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets_trace, "MOST_OF_A_LINE", 10)
    net = network(lambda: Loops(D, D), {"x": torch.zeros(1, 11, D)}, {})
    where = re.escape(line(Loops, 4))
    with pytest.raises(BadInputError, match=f"at most 10 .* got 11 of {where}: a Python loop"):
        trace(net, net.build())


def test_what_onnx_lacks_is_named() -> None:
    net = sequence(lambda: HasNoTranslation(D, D))
    module = net.build()
    graph = trace(net, module)
    where = re.escape(line(HasNoTranslation, 3))
    with pytest.raises(BadInputError, match=rf"got aten\..*eig.* at {where}\. Compute this in"):
        build_network(graph, packed(graph, module), {})


class CrossMerge(nn.Linear):
    """A map whose rows and columns change places, as scans in four directions leave them."""

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, _ = x.shape
        y = super().forward(x).flatten(1, 2).transpose(1, 2).flip(-1)
        turned = y.reshape(b, -1, height, width).transpose(2, 3).contiguous()
        return turned.view(b, -1, height * width).transpose(1, 2).contiguous().view(x.shape)


def test_a_view_of_what_was_made_contiguous() -> None:
    """Its permute may move behind the contiguous copy, and then no view fits."""
    x = torch.zeros(1, 3, 4, D)
    net = network(lambda: CrossMerge(D, D), {"x": x}, {"x": {0: "batch"}})
    module = net.build()
    graph = trace(net, module)
    build_network(graph, packed(graph, module), {})
    x = torch.randn(2, 3, 4, D)
    with torch.no_grad():
        (y,) = graph.program.module()(x).values()
        torch.testing.assert_close(y, module(x))


def test_an_operation_whose_graph_cannot_be_taken_apart_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What torch.onnx fails at, the search for its line fails at too."""
    net = sequence(lambda: HasNoTranslation(D, D))
    module = net.build()
    graph = trace(net, module)

    def fails(self: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(type(graph.program), "run_decompositions", fails)
    with pytest.raises(BadInputError, match=r"^Network: forward cannot be exported: expected"):
        build_network(graph, packed(graph, module), {})


class WritesIntoViews(nn.Linear):
    """The second write changes what the first view shows, the third an output of abs alone."""

    def forward(self, x: Tensor) -> Tensor:
        turned = super().forward(x).transpose(1, 2)
        laid = turned.contiguous()
        rows = laid.view(laid.shape[0], -1)
        rows.mul_(0.5)
        rows[:, 3] = 1.0
        other = turned.abs()
        other[:, 0] = 4.0
        return (laid + turned + other).transpose(1, 2)


def test_writes_reach_all_that_shows_the_same_memory() -> None:
    net = sequence(lambda: WritesIntoViews(D, D))
    module = net.build()
    graph = trace(net, module)
    inputs = other_sizes(net)
    with torch.no_grad():
        (y,) = graph.program.module()(*inputs.values()).values()
    torch.testing.assert_close(y, torch.from_numpy(expected(net, module, inputs)["output"]))
    assert list(graph.matrices) == ["weight"]


class WritesIntoInput(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu_())


class WritesIntoBuffer(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.fill_(1.0)
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(WritesIntoInput, "its input x"), (WritesIntoBuffer, "the buffer seen")],
)
def test_writes_into_what_is_given_are_refused(kind: type[nn.Linear], what: str) -> None:
    net = sequence(lambda: kind(D, D))
    with pytest.raises(BadInputError, match=f"got code that writes into {what}. Write x = x "):
        trace(net, net.build())


class Cell(nn.Linear):
    """One step of a network that is called again and again."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = (super().forward(x) + h).tanh()
        return h.sum(-1), h, h[:, :2]


@pytest.mark.parametrize(
    ("outputs", "after", "sentence"),
    [
        (("y", "new", "part"), "old", "states: h: expected one of the outputs y, new, part; got"),
        (("y", "new", "part"), "part", r"float32 \(batch, 8\); got float32 \(batch, 2\) of part"),
        (("x", "new", "part"), "new", "outputs: expected other names than the inputs'; got 'x'"),
    ],
)
def test_states_and_names_of_outputs_are_checked(
    outputs: tuple[str, ...], after: str, sentence: str
) -> None:
    inputs = {"x": torch.zeros(1, 8), "h": torch.zeros(1, 8)}
    net = network(lambda: Cell(8, 8), inputs, {name: {0: "batch"} for name in inputs})
    net = replace(net, outputs=outputs, states={"h": after})
    with pytest.raises(BadInputError, match=sentence):
        trace(net, net.build())


def test_a_size_that_forward_fixes_is_told_what_varies() -> None:
    class Fixed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).reshape(1, 9, D)

    net = sequence(lambda: Fixed(D, D))
    with pytest.raises(BadInputError, match=r"Sizes that vary \(batch, length\) are to be taken"):
        trace(net, net.build())


def test_an_output_whose_sizes_depend_on_values_is_refused() -> None:
    class Chosen(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = super().forward(x)
            return y, y[y > 0]

    net = sequence(lambda: Chosen(D, D))
    with pytest.raises(BadInputError, match="output_1: expected an output whose sizes follow from"):
        trace(net, net.build())
