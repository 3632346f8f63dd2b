"""The op library inside ONNX Runtime: every op against its definition in NumPy float64.

`kernels_test.cc` covers the kernels; this covers what lies between them and a model: names, shapes,
attributes, threads, the choice of the instruction set, and models made to do harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from isas import ISAS_BY_MACHINE
from paths import TESTS
from scan_inputs import draw_scan
from ssmpress.errors import DeviceError
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph import fallback, ops
from ssmpress.machine import ISA_VARIABLE, get_library_path, host_machine
from ssmpress.pack.layouts import FORMATS, sections_of
from tolerances import GRAPH_FLOAT32, assert_close

Arrays = dict[str, np.ndarray]

try:
    LIBRARY = str(get_library_path())
except DeviceError as error:
    pytest.skip(str(error), allow_module_level=True)

FORMAT = pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
BITMASK = pytest.mark.parametrize(
    "fmt", [f for f in FORMATS if f.structure is Structure.BITMASK], ids=lambda f: f.name
)
BY_ROWS = pytest.mark.parametrize(
    "fmt",
    [f for f in FORMATS if f.structure is not Structure.WINDOW and f.values is not Values.INT4],
    ids=lambda f: f.name,
)
EMBEDDING = pytest.mark.parametrize("fmt", list(ops.EMBEDDING), ids=lambda f: f.name)
INT8 = next(f for f in FORMATS if f.name == "bitmask-int8")
INT4 = next(f for f in FORMATS if f.name == "dense-int4")
WINDOW = next(f for f in FORMATS if f.name == "window-int8")
FP16_WINDOW = next(f for f in FORMATS if f.name == "window-fp16")


def session(
    op: str,
    feeds: Arrays,
    constants: Arrays,
    outputs: tuple[str, ...],
    threads: int = 1,
    stock: bool = False,
    **attributes: float,
) -> onnxruntime.InferenceSession:
    """A model of one node, whose inputs are `feeds` and then `constants`.

    stock: without the library, so that the op's function runs.
    """
    node = helper.make_node(
        op, [*feeds, *constants], list(outputs), domain=ops.DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node],
        op,
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
            )
            for name, value in feeds.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [
        helper.make_opsetid("", ops.ONNX_OPSET),
        helper.make_opsetid(ops.DOMAIN, ops.DOMAIN_VERSION),
    ]
    functions = [fallback.function(op)] if stock else None
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not stock:
        options.register_custom_ops_library(LIBRARY)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(
    op: str,
    feeds: Arrays,
    constants: Arrays,
    outputs: tuple[str, ...] = ("y",),
    threads: int = 1,
    stock: bool = False,
    **attributes: float,
) -> list[np.ndarray]:
    return session(op, feeds, constants, outputs, threads, stock, **attributes).run(None, feeds)


# ---- definitions ----


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def selective_scan(a: Arrays) -> tuple[np.ndarray, np.ndarray]:
    v = {name: value.astype(np.float64) for name, value in a.items()}
    h, y = v["state"], np.zeros_like(v["u"])
    for t in range(y.shape[1]):
        dt = np.logaddexp(0, v["delta"][:, t] + v["delta_bias"])[:, None]  # (b, 1, d)
        u = v["u"][:, None, t]
        h = np.exp(dt * v["A"]) * h + dt * u * v["B"][:, t, :, None]
        y[:, t] = ((v["C"][:, t, :, None] * h).sum(1) + v["D"] * u[:, 0]) * silu(v["z"][:, t])
    return y, h


def pack(weight: np.ndarray, keep_mask: np.ndarray, fmt: Format) -> Arrays:
    """Sections by docs/sparse_format.md, written without a look at the library or at pack/."""
    rows, columns = weight.shape
    weight = np.where(keep_mask, weight, 0).astype(np.float32)
    sections: Arrays = {}
    stored = weight
    if fmt.values is Values.INT4:
        return pack_int4(weight)
    if fmt.values is Values.INT8:
        scale = np.abs(weight).max(1, initial=0) / np.float32(127)
        stored = np.rint(weight / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
    elif fmt.values is Values.FP16:
        stored = weight.astype(np.float16)
    if fmt.structure is Structure.DENSE:
        sections["weight"] = stored
    elif fmt == FP16_WINDOW:
        sections = pack_fp16_windows(stored, keep_mask)
    elif fmt.structure is Structure.WINDOW:
        sections = pack_windows(stored, keep_mask)
    else:
        padded = np.zeros((rows, -(-columns // 64) * 64), bool)
        padded[:, :columns] = keep_mask
        sections["bits"] = np.packbits(padded, axis=1, bitorder="little")
        counts = np.concatenate([[0], keep_mask.sum(1)])
        sections["start"] = np.cumsum(counts).astype(np.int32)
        value = stored[keep_mask]
        padding = 64 + -value.nbytes % 64
        sections["value"] = np.concatenate(
            [value, np.zeros(padding // value.itemsize, value.dtype)]
        )
    if fmt.values is Values.INT8:
        sections["scale"] = scale.astype(np.float32)
    assert tuple(sections) == sections_of(fmt)
    return sections


def pack_windows(stored: np.ndarray, keep_mask: np.ndarray) -> Arrays:
    """Rows in reverse, entries without a row first."""
    rows = len(stored)
    tiles = -(-rows // 8)
    order = np.arange(8 * tiles)[::-1].copy()
    order[order >= rows] = -1
    start, steps, positions, values = [0], [], [], []
    for tile in range(tiles):
        entries = order[8 * tile : 8 * tile + 8]
        left = [list(np.nonzero(keep_mask[r])[0]) if r >= 0 else [] for r in entries]
        first = [0, 0]
        while any(left):
            step, position, value = [0, 0], np.zeros((2, 4, 4), np.uint8), np.zeros((8, 4), np.int8)
            for lane in (0, 1):
                beginnings = [c[0] for c in left[4 * lane : 4 * lane + 4] if c]
                step[lane] = min(min(beginnings, default=first[lane]) - first[lane], 255)
                first[lane] += step[lane]
                for i in range(4):
                    e = 4 * lane + i
                    taken = [c for c in left[e][:4] if c < first[lane] + 16]
                    left[e] = left[e][len(taken) :]
                    value[e, : len(taken)] = stored[entries[e], taken]
                    position[lane, i] = (1, 0, 0, 0)
                    if taken:
                        position[lane, i] = taken[-1] - first[lane]
                        position[lane, i, : len(taken)] = np.array(taken) - first[lane]
            steps.append(step)
            positions.append((position[0] | position[1] << 4).reshape(-1))
            values.append(value.reshape(-1))
        start.append(len(steps))
    return {
        "order": order.astype(np.int32),
        "start": np.array(start, np.int32),
        "step": np.array(steps, np.uint8).reshape(-1, 2),
        "position": np.array(positions, np.uint8).reshape(-1, 16),
        "value": np.array(values, np.int8).reshape(-1, 32),
    }


def pack_fp16_windows(stored: np.ndarray, keep_mask: np.ndarray) -> Arrays:
    """Rows in reverse; entries without a row last."""
    rows = len(stored)
    tiles = -(-rows // 8)
    order = np.array([*range(rows)[::-1], *[-1] * (8 * tiles - rows)])
    start, steps, positions, values = [0], [], [], []
    for tile in range(tiles):
        entries = order[8 * tile : 8 * tile + 8]
        left = [list(np.nonzero(keep_mask[r])[0]) if r >= 0 else [] for r in entries]
        first = 0
        while any(left):
            steps.append(min(min(c[0] for c in left if c) - first, 255))
            first += steps[-1]
            position, value = [0] * 8, [np.float16(-0.0)] * 8
            for i, columns in enumerate(left):
                if columns and columns[0] < first + 16:
                    column = columns.pop(0)
                    position[i] = column - first
                    value[i] = stored[entries[i], column] + np.float16(0)  # -0 becomes 0
            positions.append([position[i] | position[i + 1] << 4 for i in (0, 2, 4, 6)])
            values.append(value)
        start.append(len(steps))
    return {
        "order": order.astype(np.int32),
        "start": np.array(start, np.int32),
        "step": np.array(steps, np.uint8),
        "position": np.array(positions, np.uint8).reshape(-1, 4),
        "value": np.array(values, np.float16).reshape(-1, 8),
    }


def read_int4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (r, c), ratios (r, g) and scales, rounded without care: the bytes matter here."""
    rows, columns = weight.shape
    groups = -(-columns // 16)
    scale = (np.abs(weight).max(1, initial=0) / np.float32(500)).astype(np.float32)
    ratio = np.random.default_rng([rows, columns]).integers(-127, 128, (rows, groups))
    step = np.repeat(ratio * np.where(scale > 0, scale, 1)[:, None], 16, axis=1)[:, :columns]
    code = np.clip(np.rint(weight / np.where(step == 0, np.inf, step)), -8, 7).astype(np.int64)
    return code, ratio, scale


def pack_int4(weight: np.ndarray) -> Arrays:
    rows, columns = weight.shape
    code, ratio, scale = read_int4(weight)
    tiles, groups = -(-rows // 16), -(-columns // 16)
    packed = np.full((tiles, groups, 128), 0x88, np.uint8)
    ratios = np.zeros((tiles, groups, 16), np.int8)
    for i in range(rows):
        ratios[i // 16, :, i % 16] = ratio[i]
        for j in range(columns):
            at = (i // 16, j // 16, j % 16 // 8 * 64 + i % 16 * 4 + j % 4)
            shift = 4 * (j // 4 % 2)
            packed[at] = packed[at] & (0xF0 >> shift) | int(code[i, j] + 8) << shift
    return {"weight": packed, "ratio": ratios, "scale": scale}


def linear(x: np.ndarray, weight: np.ndarray, keep_mask: np.ndarray, fmt: Format) -> np.ndarray:
    weight = np.where(keep_mask, weight, 0).astype(np.float32)
    if fmt.values is Values.FP16:
        weight = weight.astype(np.float16)
    if not fmt.values.quantizes_activations:
        return x.astype(np.float64) @ weight.astype(np.float64).T
    if fmt.values is Values.INT4:
        code, ratio, scale = read_int4(weight)
        q = code * np.repeat(ratio, 16, axis=1)[:, : weight.shape[1]]
    else:
        scale = np.abs(weight).max(1) / np.float32(127)
        q = np.rint(weight / np.where(scale > 0, scale, 1)[:, None]).astype(np.int64)
    a_max = np.abs(x).max(-1, keepdims=True)
    x_scale = np.maximum(a_max, np.float32(1e-30)) / np.float32(127)
    x_q = np.rint(x / x_scale).astype(np.int64)
    return (x_q @ q.T).astype(np.float32) * (x_scale * scale)


def draw_matrix(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    keep_mask = rng.random((rows, columns)) < 0.4
    keep_mask[rows // 3] = False
    return weight, keep_mask


def linear_attributes(columns: int, version: int = 1) -> dict[str, int]:
    return {ops.COLUMNS_ATTRIBUTE: columns, ops.VERSION_ATTRIBUTE: version}


def ssd_scan(a: Arrays, dt_min: float, dt_max: float) -> tuple[np.ndarray, np.ndarray]:
    v = {name: value.astype(np.float64) for name, value in a.items()}
    S = v["state"]
    b, h, n, p = S.shape
    x = v["x"].reshape(b, a["x"].shape[1], h, p)
    groups = v["B"].shape[-1] // n
    B, C = (np.repeat(v[k].reshape(b, x.shape[1], groups, n), h // groups, axis=2) for k in "BC")
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        dt = np.clip(np.logaddexp(0, v["delta"][:, t] + v["delta_bias"]), dt_min, dt_max)
        added = dt[..., None, None] * B[:, t, :, :, None] * x[:, t, :, None]
        S = np.exp(dt * v["A"])[..., None, None] * S + added
        y[:, t] = (C[:, t, :, :, None] * S).sum(2) + v["D"].reshape(h, p) * x[:, t]
    return y.reshape(a["x"].shape), S


def gated_norm(a: Arrays, epsilon: float, groups: int, gate_first: int) -> np.ndarray:
    x, z, weight = (a[name].astype(np.float64) for name in ops.GATED_RMS_NORM.inputs)
    v = x * silu(z) if gate_first else x
    parts = v.reshape(*v.shape[:-1], groups, v.shape[-1] // groups)
    normal = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + epsilon)
    y = normal.reshape(v.shape) * weight
    return y if gate_first else y * silu(z)


def ssd_inputs(b: int, length: int, heads: int, groups: int, n: int = 16, p: int = 10) -> Arrays:
    rng = np.random.default_rng(3)
    d = heads * p
    shapes = {
        "x": (b, length, d),
        "delta": (b, length, heads),
        "delta_bias": (heads,),
        "A": (heads,),
        "B": (b, length, groups * n),
        "C": (b, length, groups * n),
        "D": (d,),
        "state": (b, heads, n, p),
    }
    assert tuple(shapes) == ops.SSD_SCAN.inputs
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    arrays["A"] = -np.exp(arrays["A"])
    return arrays


LARGEST = float(np.finfo(np.float32).max)


def run_ssd(
    inputs: Arrays,
    dt_min: float = 0.0,
    dt_max: float = LARGEST,
    threads: int = 1,
    stock: bool = False,
) -> list[np.ndarray]:
    limits = {"dt_min": dt_min, "dt_max": dt_max}
    return run(ops.SSD_SCAN.name, inputs, {}, ops.SSD_SCAN.outputs, threads, stock, **limits)


# ---- results ----


@pytest.mark.parametrize(("b", "length"), [(1, 1), (2, 1), (2, 19), (1, 0), (0, 3)])
def test_selective_scan(b: int, length: int) -> None:
    inputs = draw_scan(b, length, 37, 16)
    y, state = run(ops.SELECTIVE_SCAN.name, inputs, {}, ops.SELECTIVE_SCAN.outputs)
    expected_y, expected_state = selective_scan(inputs)
    # |y| is about 10 here; a few hundred roundings of 6e-8 each
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(state, expected_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dt_min", "dt_max"), [(0.0, LARGEST), (0.5, 1.0)])
@pytest.mark.parametrize(
    ("b", "length", "heads", "groups"),
    [(1, 1, 7, 1), (2, 1, 6, 3), (2, 70, 6, 3), (1, 70, 7, 1), (1, 0, 2, 2), (0, 3, 2, 1)],
)
def test_ssd_scan(
    b: int, length: int, heads: int, groups: int, dt_min: float, dt_max: float
) -> None:
    inputs = ssd_inputs(b, length, heads, groups)
    y, state = run_ssd(inputs, dt_min, dt_max)
    expected_y, expected_state = ssd_scan(inputs, dt_min, dt_max)
    # |y| reaches 60 here; a few hundred roundings of 6e-8 each
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(state, expected_state, rtol=1e-5, atol=2e-5)
    if b * length:  # stock ONNX Runtime loops over no token less than once
        stock_y, stock_state = run_ssd(inputs, dt_min, dt_max, stock=True)
        assert_close(y, stock_y, GRAPH_FLOAT32, "y, library against function")
        assert_close(state, stock_state, GRAPH_FLOAT32, "state, library against function")


@pytest.mark.parametrize("gate_first", [0, 1])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("shape", [(2, 5, 44), (1, 1, 44), (2, 0, 44), (0, 3, 44)])
def test_gated_rms_norm(shape: tuple[int, ...], groups: int, gate_first: int) -> None:
    rng = np.random.default_rng(2)
    x, z = (rng.standard_normal(shape).astype(np.float32) for _ in "xz")
    inputs = {"x": x, "z": z, "weight": rng.standard_normal(44).astype(np.float32)}
    attributes = {"epsilon": 1e-5, "groups": groups, "gate_first": gate_first}
    (y,) = run(ops.GATED_RMS_NORM.name, inputs, {}, **attributes)
    np.testing.assert_allclose(y, gated_norm(inputs, **attributes), rtol=4e-6, atol=1e-6)
    if y.size:
        (stock_y,) = run(ops.GATED_RMS_NORM.name, inputs, {}, stock=True, **attributes)
        assert_close(y, stock_y, GRAPH_FLOAT32, "library against function")


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("length", [0, 1, 2, 21])
def test_causal_conv1d(length: int, k: int) -> None:
    rng = np.random.default_rng(2)
    inputs = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(
            ops.CAUSAL_CONV1D.inputs,
            [(2, length, 37), (k, 37), (37,), (2, k - 1, 37)],
            strict=True,
        )
    }
    y, state = run(ops.CAUSAL_CONV1D.name, inputs, {}, ops.CAUSAL_CONV1D.outputs)
    whole = np.concatenate([inputs["state"], inputs["x"]], 1).astype(np.float64)
    total = inputs["bias"] + sum(inputs["weight"][j] * whole[:, j : j + length] for j in range(k))
    np.testing.assert_allclose(y, silu(total), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(state, whole[:, length:].astype(np.float32))


@FORMAT
@pytest.mark.parametrize("shape", [(70,), (1, 1, 70), (1, 5, 70), (2, 3, 7, 70), (2, 0, 70)])
def test_linear(fmt: Format, shape: tuple[int, ...]) -> None:
    weight, keep_mask = draw_matrix(45, 70, 3)
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    (y,) = run(fmt.op_type, {"x": x}, pack(weight, keep_mask, fmt), **linear_attributes(70))
    expected = linear(x, weight, keep_mask, fmt)
    assert y.shape == (*shape[:-1], 45)
    if fmt.values.quantizes_activations:
        np.testing.assert_array_equal(y, expected)
    else:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@FORMAT
@pytest.mark.parametrize("length", [1, 5, 40])
def test_two_threads_change_no_bit(fmt: Format, length: int) -> None:
    weight, keep_mask = draw_matrix(400, 500, 5)
    x = np.random.default_rng(6).standard_normal((1, length, 500)).astype(np.float32)
    sections, attributes = pack(weight, keep_mask, fmt), linear_attributes(500)
    (one,) = run(fmt.op_type, {"x": x}, sections, threads=1, **attributes)
    (two,) = run(fmt.op_type, {"x": x}, sections, threads=2, **attributes)
    np.testing.assert_array_equal(one, two)


def test_two_threads_change_no_bit_of_a_scan() -> None:
    inputs = draw_scan(1, 40, 300, 16)
    one = run(ops.SELECTIVE_SCAN.name, inputs, {}, ops.SELECTIVE_SCAN.outputs, threads=1)
    two = run(ops.SELECTIVE_SCAN.name, inputs, {}, ops.SELECTIVE_SCAN.outputs, threads=2)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("length", [1, 70])
def test_two_threads_change_no_bit_of_an_ssd_scan(length: int) -> None:
    inputs = ssd_inputs(2, length, 24, 1, n=32, p=64)
    for a, b in zip(run_ssd(inputs, threads=1), run_ssd(inputs, threads=2), strict=True):
        np.testing.assert_array_equal(a, b)


@FORMAT
def test_sections_that_are_not_constant(fmt: Format) -> None:
    weight, keep_mask = draw_matrix(20, 70, 7)
    x = np.ones((2, 70), np.float32)
    sections = pack(weight, keep_mask, fmt)
    (y,) = run(fmt.op_type, {"x": x, **sections}, {}, **linear_attributes(70))
    (expected,) = run(fmt.op_type, {"x": x}, sections, **linear_attributes(70))
    np.testing.assert_array_equal(y, expected)


@FORMAT
def test_no_rows_and_no_columns(fmt: Format) -> None:
    for rows, columns in [(0, 70), (4, 0)]:
        sections = pack(np.zeros((rows, columns)), np.zeros((rows, columns), bool), fmt)
        x = np.ones((3, columns), np.float32)
        (y,) = run(fmt.op_type, {"x": x}, sections, **linear_attributes(columns))
        np.testing.assert_array_equal(y, np.zeros((3, rows)))


# ---- the instruction set ----


def run_with_isa(name: str) -> subprocess.CompletedProcess[str]:
    """Runs the int8 op, whose result is the same on every instruction set, in a new process."""
    script = (
        "import ctypes, hashlib, numpy as np, test_op_library as t\n"
        "w, k = t.draw_matrix(45, 70, 3)\n"
        "x = np.random.default_rng(4).standard_normal((5, 70)).astype(np.float32)\n"
        "y, = t.run(t.INT8.op_type, {'x': x}, t.pack(w, k, t.INT8), **t.linear_attributes(70))\n"
        "library = ctypes.CDLL(t.LIBRARY)\n"
        "library.ssmpress_isa.restype = ctypes.c_char_p\n"
        "print(library.ssmpress_isa().decode(), hashlib.sha256(y.tobytes()).hexdigest())\n"
    )
    paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, ISA_VARIABLE: name}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


def test_forced_isa() -> None:
    digests = set()
    for name in ISAS_BY_MACHINE[host_machine()]:
        done = run_with_isa(name)
        if "this CPU cannot run it" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        isa, digest = done.stdout.split()
        assert isa == name
        digests.add(digest)
    assert len(digests) == 1


def test_unknown_isa() -> None:
    done = run_with_isa("sse9")
    assert done.returncode != 0
    assert "SSMPRESS_ISA=sse9: expected one of scalar" in done.stderr
    assert "unset it or pick one of those" in done.stderr


# ---- models made to do harm: an error that names the input, and the process goes on ----


def assert_refused(
    fmt: Format, sections: Arrays, text: str, columns: int = 70, version: int = 1
) -> None:
    """Refused when loading if the sections are constants, when running if they are not."""
    x = np.ones((2, columns), np.float32)
    attributes = linear_attributes(columns, version)
    with pytest.raises(Exception, match=text) as raised:
        run(fmt.op_type, {"x": x}, sections, **attributes)
    assert fmt.op_type in str(raised.value)
    with pytest.raises(Exception, match=text):
        run(fmt.op_type, {"x": x, **sections}, {}, **attributes)


def good(fmt: Format) -> Arrays:
    return pack(*draw_matrix(20, 70, 8), fmt)


@FORMAT
def test_refuses_another_format_version(fmt: Format) -> None:
    assert_refused(fmt, good(fmt), "format_version: expected 1, got 2", version=2)


@BY_ROWS
def test_refuses_columns_that_do_not_fit(fmt: Format) -> None:
    assert_refused(fmt, good(fmt), r"expected shape \(any, \d+\), got \(20, \d+\)", columns=150)


@BITMASK
def test_refuses_a_decreasing_start(fmt: Format) -> None:
    sections = good(fmt)
    sections["start"][9] = sections["start"][8] - 1
    assert_refused(fmt, sections, r"start\[9\]: expected at least start\[8\]")


@BITMASK
@pytest.mark.parametrize("end", [100_000, 2**31 - 1])
def test_refuses_a_start_past_the_end(fmt: Format, end: int) -> None:
    sections = good(fmt)
    sections["start"][20] = end
    assert_refused(fmt, sections, rf"value: expected at least start\[20\] = {end} elements")


@BITMASK
def test_refuses_a_negative_start(fmt: Format) -> None:
    sections = good(fmt)
    sections["start"] -= 5
    assert_refused(fmt, sections, r"start\[0\]: expected 0, got -5")


@BITMASK
def test_refuses_a_short_start(fmt: Format) -> None:
    sections = good(fmt)
    sections["start"] = sections["start"][:-1]
    assert_refused(fmt, sections, r"start: expected shape \(21\), got \(20\)")


@BITMASK
def test_refuses_a_value_section_without_padding(fmt: Format) -> None:
    sections = good(fmt)
    sections["value"] = sections["value"][: sections["start"][-1]]
    assert_refused(fmt, sections, "of padding")


@BITMASK
def test_refuses_bits_beyond_the_last_column(fmt: Format) -> None:
    sections = good(fmt)
    sections["bits"][3, 15] |= 128
    assert_refused(fmt, sections, "bits: expected 0 from column 70 on, got a 1 in row 3")


@BITMASK
def test_refuses_bits_that_start_does_not_count(fmt: Format) -> None:
    sections = good(fmt)
    sections["bits"][3, 0] ^= 1
    assert_refused(fmt, sections, r"bits: expected \d+ set in row 3 \(from start\), got \d+")


@pytest.mark.parametrize("structure", list(Structure))
def test_refuses_bad_scales_and_values(structure: Structure) -> None:
    fmt = Format(structure, Values.INT8)
    sections = good(fmt)
    sections["scale"] = sections["scale"][:-1]
    text = r"scale: expected shape \(20\), got \(19\)"
    if structure is Structure.WINDOW:  # the scales say how many rows there are
        text = r"order\[\d+\]: expected each of 19 rows once and 5 times -1, got 19"
    assert_refused(fmt, sections, text)
    sections = good(fmt)
    sections["scale"][4] = np.inf
    assert_refused(fmt, sections, r"scale\[4\]: expected a finite number not below 0, got inf")
    sections = good(fmt)
    values = sections["weight" if structure is Structure.DENSE else "value"]
    values.flat[np.nonzero(values.flat)[0][3]] = -128
    assert_refused(fmt, sections, "expected -127 to 127, got -128")


@pytest.mark.parametrize(
    ("section", "index", "value", "text"),
    [
        ("order", 0, 20, r"order\[\d+\]: expected each of 20 rows once and 4 times -1, got"),
        ("order", 7, -1, r"order\[\d+\]: expected each of 20 rows once and 4 times -1, got -1"),
        ("start", 0, -5, r"start\[0\]: expected 0, got -5"),
        ("start", 2, 0, r"start\[2\]: expected at least start\[1\]"),
        ("start", 3, 2**31 - 1, r"start\[3\]: expected \d+ \(records\), got 2147483647"),
        ("step", (0, 1), 255, "step: expected columns below 70, got 255 in record 0"),
        ("position", 0, 0, "position: expected ascending columns below 70"),
        ("position", (0, 0), 0x0F, "position: expected ascending columns below 70"),
        ("value", slice(None), 1, "0 in slots that are not in use"),
    ],
)
def test_refuses_damaged_windows(section: str, index: object, value: int, text: str) -> None:
    sections = good(WINDOW)
    sections[section][index] = value
    assert_refused(WINDOW, sections, text)


@pytest.mark.parametrize(
    ("section", "index", "value", "text"),
    [
        ("order", 0, 20, r"order\[0\]: expected each of 20 rows once and 4 times -1, got 20"),
        ("order", 7, -1, r"order\[23\]: expected each of 20 rows once and 4 times -1, got -1"),
        ("start", 0, -5, r"start\[0\]: expected 0, got -5"),
        ("start", 3, 2**31 - 1, r"start\[3\]: expected \d+ \(records\), got 2147483647"),
        ("step", 1, 255, "step: expected columns below 70, got"),
        ("position", slice(None), 255, "position: expected ascending columns below 70"),
        ("value", slice(None), 1, "position: expected ascending columns below 70"),
    ],
)
def test_refuses_damaged_fp16_windows(section: str, index: object, value: int, text: str) -> None:
    sections = good(FP16_WINDOW)
    sections[section][index] = value
    assert_refused(FP16_WINDOW, sections, text)


def test_refuses_fp16_window_sections_that_do_not_fit() -> None:
    records = len(good(FP16_WINDOW)["step"])
    for name, text in {
        "order": r"order: expected shape \(24\), got \(23\)",
        "start": r"start: expected shape \(4\), got \(3\)",
        "position": rf"position: expected shape \({records}, 4\), got \({records - 1}, 4\)",
        "value": rf"value: expected shape \({records}, 8\), got \({records - 1}, 8\)",
    }.items():
        sections = good(FP16_WINDOW)
        sections[name] = sections[name][:-1]
        assert_refused(FP16_WINDOW, sections, text)


def test_refuses_window_sections_that_do_not_fit() -> None:
    records = len(good(WINDOW)["step"])
    for name, text in {
        "order": r"order: expected shape \(24\), got \(23\)",
        "start": r"start: expected shape \(4\), got \(3\)",
        "position": rf"position: expected shape \({records}, 16\), got \({records - 1}, 16\)",
        "value": rf"value: expected shape \({records}, 32\), got \({records - 1}, 32\)",
    }.items():
        sections = good(WINDOW)
        sections[name] = sections[name][:-1]
        assert_refused(WINDOW, sections, text)
    assert_refused(WINDOW, good(WINDOW), "columns below 60", columns=60)


def test_refuses_int4_sections_that_do_not_fit() -> None:
    for name, text in {
        "weight": r"weight: expected shape \(2, 5, 128\), got \(1, 5, 128\)",
        "ratio": r"ratio: expected shape \(2, 5, 16\), got \(1, 5, 16\)",
    }.items():
        sections = good(INT4)
        sections[name] = sections[name][:-1]
        assert_refused(INT4, sections, text)
    assert_refused(INT4, good(INT4), r"weight: expected shape \(2, 10, 128\)", columns=150)
    sections = good(INT4)
    sections["ratio"][1, 2, 3] = -128
    assert_refused(INT4, sections, "ratio 115: expected -127 to 127, got -128")
    sections = good(INT4)
    sections["scale"][4] = np.nan
    assert_refused(INT4, sections, r"scale\[4\]: expected a finite number not below 0, got -?nan")


def test_refuses_too_many_int4_columns() -> None:
    x = np.ones((1, 70), np.float32)
    with pytest.raises(Exception, match="columns: expected 0 to 16643, got 16644"):
        run(INT4.op_type, {"x": x}, good(INT4), **linear_attributes(16_644))


# ---- rows of a matrix ----


@EMBEDDING
@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 0)])
def test_embedding(fmt: Format, shape: tuple[int, ...]) -> None:
    weight, keep_mask = draw_matrix(45, 70, 3)
    ids = np.random.default_rng(5).integers(0, 45, shape)
    sections = pack(weight, keep_mask, fmt)
    identity = np.eye(70, dtype=np.float32) * 127  # a scale of 1
    (by_column,) = run(fmt.op_type, {"x": identity}, sections, **linear_attributes(70))
    op = ops.EMBEDDING[fmt].name
    (y,) = run(op, {"ids": np.asarray(ids)}, sections, **linear_attributes(70))
    assert y.shape == (*shape, 70)
    np.testing.assert_allclose(y, by_column.T[ids] / 127, rtol=1e-6)
    (same,) = run(op, {"ids": np.asarray(ids), **sections}, {}, **linear_attributes(70))
    np.testing.assert_array_equal(same, y)


@EMBEDDING
@pytest.mark.parametrize("bad", [-1, 45, 2**62])
def test_embedding_refuses_rows_that_are_not_there(fmt: Format, bad: int) -> None:
    sections = pack(*draw_matrix(45, 70, 3), fmt)
    ids = np.array([3, bad])
    with pytest.raises(Exception, match=f"ids: expected rows 0 to 44, got {bad}"):
        run(ops.EMBEDDING[fmt].name, {"ids": ids}, sections, **linear_attributes(70))


def test_refuses_tokens_of_another_width() -> None:
    fmt = FORMATS[0]
    x = np.ones((2, 71), np.float32)
    with pytest.raises(Exception, match=r"x: expected a last dimension of 70 \(columns\), got 71"):
        run(fmt.op_type, {"x": x}, good(fmt), **linear_attributes(70))


def test_refuses_too_many_int8_columns() -> None:
    x = np.ones((1, 70), np.float32)
    with pytest.raises(Exception, match="columns: expected 0 to 133143, got 200000"):
        run(INT8.op_type, {"x": x}, good(INT8), **linear_attributes(200_000))


@pytest.mark.parametrize("name", ops.SELECTIVE_SCAN.inputs)
def test_scan_refuses_shapes_that_do_not_fit(name: str) -> None:
    inputs = draw_scan(2, 3, 10, 4)
    inputs[name] = np.repeat(inputs[name], 2, axis=-1)
    with pytest.raises(Exception, match=r"SelectiveScan: \w+: expected shape"):
        run(ops.SELECTIVE_SCAN.name, inputs, {}, ops.SELECTIVE_SCAN.outputs)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("x", (2, 60), r"x: expected shape \(any, any, any\), got \(2, 60\)"),
        ("x", (2, 3, 61), r"x: expected a last dimension of 6 heads \(delta\) times 10 columns"),
        ("x", (2, 3, 6), r"x: expected a last dimension of 6 heads .* times 10 .*, got 6"),
        ("delta", (2, 3, 7), r"state: expected shape \(2, 7, any, any\), got \(2, 6, 16, 10\)"),
        ("delta", (2, 3, 0), r"state: expected shape \(2, 0, any, any\)"),
        ("delta", (2, 4, 6), r"delta: expected shape \(2, 3, any\), got \(2, 4, 6\)"),
        ("delta_bias", (5,), r"delta_bias: expected shape \(6\), got \(5\)"),
        ("A", (60,), r"A: expected shape \(6\), got \(60\)"),
        (
            "B",
            (2, 3, 40),
            r"B: expected a last dimension that is a multiple of 16 \(state\), got 40",
        ),
        ("B", (2, 3, 0), r"B: expected a last dimension that is a multiple of 16 \(state\), got 0"),
        ("B", (2, 3, 64), r"B: expected groups that divide the 6 heads, got 4 groups"),
        ("B", (1, 3, 48), r"B: expected shape \(2, 3, any\), got \(1, 3, 48\)"),
        ("C", (2, 3, 16), r"C: expected shape \(2, 3, 48\), got \(2, 3, 16\)"),
        ("D", (6,), r"D: expected shape \(60\), got \(6\)"),
        ("state", (2, 6, 160), r"state: expected shape \(2, 6, any, any\), got \(2, 6, 160\)"),
        ("state", (2, 6, 0, 10), r"state: expected at least 1 row and 1 column, got 0 and 10"),
        ("state", (2, 6, 16, 0), r"state: expected at least 1 row and 1 column, got 16 and 0"),
    ],
)
def test_ssd_scan_refuses_shapes_that_do_not_fit(
    name: str, shape: tuple[int, ...], text: str
) -> None:
    inputs = ssd_inputs(2, 3, 6, 3)
    inputs[name] = np.ones(shape, np.float32)
    with pytest.raises(Exception, match=f"SsdScan: {text}"):
        run_ssd(inputs)


def test_ssd_scan_refuses_no_heads() -> None:
    inputs = ssd_inputs(2, 3, 6, 3)
    inputs["delta"] = np.ones((2, 3, 0), np.float32)
    inputs["state"] = np.ones((2, 0, 16, 10), np.float32)
    with pytest.raises(Exception, match="SsdScan: delta: expected at least 1 head, got 0"):
        run_ssd(inputs)


@pytest.mark.parametrize(("dt_min", "dt_max"), [(-0.5, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_ssd_scan_refuses_limits_that_are_none(dt_min: float, dt_max: float) -> None:
    with pytest.raises(Exception, match=r"SsdScan: dt_min: expected 0 to dt_max = 1, got"):
        run_ssd(ssd_inputs(1, 1, 2, 1), dt_min, dt_max)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": 3}, r"x: expected a last dimension that is a multiple of 3 \(groups\), got 8"),
        ({"groups": 0}, "groups: expected at least 1, got 0"),
        ({"gate_first": 2}, "gate_first: expected 0 or 1, got 2"),
        ({"epsilon": -1.0}, "epsilon: expected a finite number not below 0, got -1"),
        ({"epsilon": float("inf")}, "epsilon: expected a finite number not below 0, got inf"),
        ({"x": (5, 8)}, r"x: expected shape \(any, any, any\), got \(5, 8\)"),
        ({"x": (1, 5, 0)}, r"x: expected a last dimension that is a multiple of 1 .*, got 0"),
        ({"z": (1, 5, 4)}, r"z: expected shape \(1, 5, 8\), got \(1, 5, 4\)"),
        ({"weight": (4,)}, r"weight: expected shape \(8\), got \(4\)"),
    ],
)
def test_gated_rms_norm_refuses_what_does_not_fit(change: dict[str, Any], text: str) -> None:
    made = {"x": (1, 5, 8), "z": (1, 5, 8), "weight": (8,), "groups": 1, "gate_first": 1}
    made |= {"epsilon": 1e-5} | change
    inputs = {k: np.ones(made.pop(k), np.float32) for k in ops.GATED_RMS_NORM.inputs}
    with pytest.raises(Exception, match=f"GatedRMSNorm: {text}"):
        run(ops.GATED_RMS_NORM.name, inputs, {}, **made)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([(1, 5, 8), (0, 8), (8,), (1, 3, 8)], "weight: expected at least 1 tap"),
        ([(1, 5, 8), (4, 7), (8,), (1, 3, 8)], r"weight: expected shape \(any, 8\), got \(4, 7\)"),
        ([(1, 5, 8), (4, 8), (9,), (1, 3, 8)], r"bias: expected shape \(8\), got \(9\)"),
        ([(1, 5, 8), (4, 8), (8,), (1, 2, 8)], r"state: expected shape \(1, 3, 8\)"),
        ([(5, 8), (4, 8), (8,), (1, 3, 8)], r"x: expected shape \(any, any, any\), got \(5, 8\)"),
    ],
)
def test_conv_refuses_shapes_that_do_not_fit(shapes: list[tuple[int, ...]], text: str) -> None:
    inputs = {
        name: np.ones(shape, np.float32)
        for name, shape in zip(ops.CAUSAL_CONV1D.inputs, shapes, strict=True)
    }
    with pytest.raises(Exception, match=text):
        run(ops.CAUSAL_CONV1D.name, inputs, {}, ops.CAUSAL_CONV1D.outputs)


def test_the_library_needs_no_cpp_runtime() -> None:
    data = Path(LIBRARY).read_bytes()
    assert b"libstdc++" not in data
    assert b"libgcc_s" not in data
