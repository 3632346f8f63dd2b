"""The task of a user's network: its block, its ports, what is timed, and a session that runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from ssmpress.errors import BadInputError, DeviceError
from ssmpress.formats import CONFIG_KEY
from ssmpress.replies import typed_array
from ssmpress.runtime.loading import open_session
from ssmpress.tasks import NetworkTask, bundle_task_of, task_of
from ssmpress.tasks.network_ports import NetPort

X = NetPort("x", "float32", ("batch", 3), (1, 3))
IDS = NetPort("ids", "int64", ("batch", "length"), (1, 5), low=2, high=9)
Y = NetPort("y", "float32", ("batch", 3), (1, 3))


def task(**changes: Any) -> NetworkTask:
    return replace(NetworkTask(inputs=(X,), outputs=(Y,)), **changes)


def test_a_block_becomes_the_task_it_came_from() -> None:
    made = task(inputs=(X, IDS), metric_name="SI-SDR", higher_is_better=False)
    block = json.loads(json.dumps(made.to_dict()))
    assert bundle_task_of({"task": block}) == made
    assert made.metric.article == "a SI-SDR"
    assert made.summary() == " network, x, ids -> y"


def test_a_checkpoint_cannot_say_that_it_is_one() -> None:
    with pytest.raises(BadInputError, match=r"task.kind: expected .*; got 'network'"):
        task_of({"task": task().to_dict()})


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        ("inputs", [], "different names, at least one"),
        ("inputs", [{"name": "x"}], "objects with name, type, shape, example, low, high"),
        ("outputs", [Y.to_dict(), Y.to_dict()], "different names"),
        ("metric_name", "", "1 to 60 printable characters"),
        ("higher_is_better", 1, "true or false"),
        ("states", {"x": "nothing"}, "inputs with outputs of their type"),
        ("states", {"x": "y"}, "an input that is no state"),
        ("states", [], "an object"),
    ],
)
def test_a_damaged_block_is_refused(where: str, value: Any, sentence: str) -> None:
    with pytest.raises(BadInputError) as error:
        bundle_task_of({"task": task().to_dict() | {where: value}})
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a\n"),
        ("type", "float64"),
        ("shape", [1] * 9),
        ("shape", ["batch", -1]),
        ("shape", 3),
        ("example", [1]),
        ("example", [1, 4]),
        ("example", [1 << 31, 3]),
        ("high", 0),
        ("low", True),
    ],
)
def test_a_damaged_port_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=r"task.inputs and outputs"):
        bundle_task_of({"task": task().to_dict() | {"inputs": [X.to_dict() | {field: value}]}})


def test_random_samples_have_the_ports_type_range_and_sizes() -> None:
    random = np.random.default_rng(0)
    ids = IDS.draw(random, batch=400)
    assert (ids.dtype, ids.shape) == (np.int64, (400, 5))
    assert (ids.min(), ids.max()) == (2, 8)
    assert X.draw(random).shape == (1, 3)
    mask = replace(X, type="bool").draw(random, batch=40)
    assert set(np.unique(mask)) == {False, True}
    assert replace(X, type="float16").draw(random).dtype == np.float16


def test_samples_go_together_only_where_every_input_has_a_batch() -> None:
    fixed = replace(X, name="fixed", shape=(1, 3))
    assert task().timing(None).prefills == 8  # type: ignore[arg-type]
    assert task(inputs=(X, fixed)).batches is False
    assert task(inputs=(fixed,)).timing(None).prefills == 1  # type: ignore[arg-type]


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """x + h -> y and h again: a network with a state, as a file."""

    def value(name: str) -> ir.Value:
        shape = ir.Shape(["batch", 3])
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)

    x, h = value("x"), value("h")
    node = ir.node("Add", [x, h], outputs=[value("y")])
    same = ir.node("Identity", [node.outputs[0]], outputs=[value("h_out")])
    graph = ir.Graph(
        [x, h],
        [*node.outputs, *same.outputs],
        nodes=[node, same],
        opset_imports={"": 18},
        name="sum",
    )
    model = ir.Model(graph, ir_version=8)
    states = (replace(X, name="h"), replace(Y, name="h_out"))
    made = task(inputs=(X, states[0]), outputs=(Y, states[1]), states={"h": "h_out"})
    model.metadata_props[CONFIG_KEY] = json.dumps({"vocab_size": 0, "task": made.to_dict()})
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_session_starts_states_at_zero_and_takes_them_back(doubling: Path) -> None:
    session = open_session(doubling, threads=1, library=None)
    ones = np.ones((2, 3), np.float32)
    first = session.run({"x": ones})
    assert first["y"].tolist() == ones.tolist()
    second = session.run({"x": ones, "h": first["h_out"]})
    assert second["y"].tolist() == (2 * ones).tolist()
    found = session.interface.task
    assert isinstance(found, NetworkTask)
    found.first_prediction(session)
    batch_ms, each = found.timed_round(session, np.random.default_rng(0), 1, 3)
    assert batch_ms > 0
    assert len(each) == 3


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"z": np.ones((1, 3))}, "inputs: expected x, h; got z."),
        ({"h": np.ones((1, 3))}, "inputs: expected x, h; got no x."),
        ({"x": np.ones((1, 4))}, "x: expected (batch, 3); got (1, 4)."),
        ({"x": np.ones((0, 3))}, "x: expected (batch, 3); got (0, 3)."),
        ({"x": np.full((1, 3), np.nan)}, "x: expected finite values"),
        ({"x": np.full((1, 3), 1e300)}, "x: expected finite values"),
        ({"x": np.ones((1, 3), bool)}, "x: expected float32; got bool."),
    ],
)
def test_a_session_refuses_what_does_not_fit(
    doubling: Path, inputs: dict[str, Any], sentence: str
) -> None:
    session = open_session(doubling, threads=1, library=None)
    with pytest.raises(BadInputError) as error:
        session.run(inputs)
    assert sentence in str(error.value)


def test_a_devices_arrays_are_read_with_their_type_and_shape() -> None:
    one = {"shape": [2], "type": "int64", "data": "AQAAAAAAAAACAAAAAAAAAA=="}
    reply = {"outputs": {"y": one}}
    path, kind = ("outputs", "y"), np.dtype(np.int64)
    assert typed_array(reply, path, kind, (2,)).tolist() == [1, 2]
    for damage in ({"shape": [3]}, {"type": "float32"}, {"data": 3}, {"data": "AA=="}):
        with pytest.raises(DeviceError, match=r"outputs\.y"):
            typed_array({"outputs": {"y": {**one, **damage}}}, path, kind, (2,))
