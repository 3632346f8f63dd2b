"""Sessions in real ONNX Runtime: states, decoding in place, and one clear sentence per failure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tolerances
import toy_onnx
from paths import OLD_BUNDLE
from ssmpress.errors import BadInputError, DeviceError, UsageError
from ssmpress.machine import get_library_path
from ssmpress.runtime.loading import library_isa, open_session
from ssmpress.runtime.sampling import SplitMix64, sample, sample_exp
from ssmpress.runtime.session import Session
from ssmpress.runtime.state import aligned_zeros
from ssmpress.states import StateTensor, read_states, states_json

TOLERANCE = 2e-5
"""Absolute, of toy logits of about 10: float32 sums of 30 terms through two layers."""

TOKENS = np.random.default_rng(0).integers(toy_onnx.VOCAB, size=30)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_onnx.toy_model(tmp_path / "model.onnx")


@pytest.fixture
def session(model: Path) -> Session:
    return open_session(model, threads=1, library=None)


@pytest.fixture
def library() -> Path:
    try:
        return get_library_path()
    except DeviceError as error:
        pytest.skip(str(error))


def test_prefill_equals_the_definition(session: Session) -> None:
    logits, _ = session.predict(TOKENS[None])
    assert logits.shape == (1, 30, toy_onnx.VOCAB)
    assert np.abs(logits[0] - toy_onnx.reference(TOKENS)).max() < TOLERANCE


def test_decoding_equals_prefill(session: Session) -> None:
    whole, end = session.predict(TOKENS[None])
    state = session.initial_state(1)
    for position, token in enumerate(TOKENS):
        logits, state = session.step(np.array([token]), state)
        assert np.abs(logits[0] - whole[0, position]).max() < TOLERANCE
    for name, array in end.arrays().items():
        assert np.abs(array - state.arrays()[name]).max() < TOLERANCE, name


def test_prefill_and_steps_mix(session: Session) -> None:
    whole, _ = session.predict(TOKENS[None])
    _, state = session.prefill(TOKENS[None, :7])
    session.step(TOKENS[7:8], state)
    session.prefill(TOKENS[None, 8:20], state)
    logits, _ = session.step(TOKENS[20:21], state)
    assert np.abs(logits[0] - whole[0, 20]).max() < TOLERANCE


def test_batches_do_not_mix(session: Session) -> None:
    rows = np.stack([TOKENS, TOKENS[::-1]])
    state = session.initial_state(2)
    for column in rows.T:
        logits, state = session.step(column, state)
    for row, got in zip(rows, logits, strict=True):
        assert np.abs(got - toy_onnx.reference(row)[-1]).max() < TOLERANCE


def test_positions(session: Session) -> None:
    whole, _ = session.predict(TOKENS[None])
    last, _ = session.prefill(TOKENS[None])
    some, _ = session.prefill(TOKENS[None], positions=np.array([5, 0, 5]))
    none, state = session.prefill(TOKENS[None], positions=np.zeros(0, np.int64))
    assert np.allclose(last[0, 0], whole[0, -1], atol=TOLERANCE)
    assert np.allclose(some[0], whole[0, [5, 0, 5]], atol=TOLERANCE)
    assert none.shape == (1, 0, toy_onnx.VOCAB)
    assert state.arrays()["scan_state.1"].any()


def test_a_state_advances_in_place_and_a_copy_does_not(session: Session) -> None:
    _, state = session.prefill(TOKENS[None, :5])
    kept = state.copy()
    before = kept.arrays()
    first, same = session.step(TOKENS[5:6], state)
    assert same is state
    again, _ = session.step(TOKENS[5:6], kept)
    assert np.array_equal(first, again)
    assert not np.array_equal(before["scan_state.0"], state.arrays()["scan_state.0"])


def test_a_model_with_states_is_not_run_as_a_whole(session: Session) -> None:
    with pytest.raises(UsageError, match=r"expected a model without states; got a language-model"):
        session.run({"input_ids": np.zeros((1, 3), np.int64)})


def test_logits_of_a_step_stay_when_the_next_one_runs(session: Session) -> None:
    _, state = session.prefill(TOKENS[None, :5])
    first, _ = session.step(TOKENS[5:6], state)
    kept = first.copy()
    session.step(TOKENS[6:7], state)
    assert np.array_equal(first, kept)


def test_decoding_allocates_no_state(session: Session) -> None:
    """The same two sets of buffers are read and written in turn."""
    state = session.initial_state(1)
    addresses = [
        {name: array.ctypes.data for name, array in state.buffers(side).items()} for side in (0, 1)
    ]
    for token in TOKENS:
        front = state.front
        session.step(np.array([token]), state)
        assert state.front == front ^ 1
    for side in (0, 1):
        assert {n: a.ctypes.data for n, a in state.buffers(side).items()} == addresses[side]
        assert all(address % 64 == 0 for address in addresses[side].values())


# ---- a state that every token makes longer ----

ROUNDING = {"float32": TOLERANCE, "float16": 2e-2}
"""The toy's logits are about 10; float16 rounds its inputs by 2^-11."""


@pytest.fixture(params=ROUNDING)
def growing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Session, float]:
    """A model whose state grows, stored as float32 or float16, and how exact it is."""
    model = toy_onnx.growing_model(tmp_path / "growing.onnx", request.param)
    return open_session(model, threads=1, library=None), ROUNDING[request.param]


def test_what_grows_has_an_entry_per_token(growing: tuple[Session, float]) -> None:
    session, tolerance = growing
    assert session.initial_state(3).arrays()["seen_state.0"].shape == (3, 2, 0, 4)
    expected = toy_onnx.growing_reference(TOKENS)
    _, state = session.prefill(TOKENS[None, :3])
    for position, token in enumerate(TOKENS[3:20], start=3):
        logits, state = session.step(np.array([token]), state)
        assert np.abs(logits[0] - expected[position]).max() < tolerance
        assert state.arrays()["seen_state.0"].shape == (1, 2, position + 1, 4)
    logits, state = session.predict(TOKENS[None, 20:], state)
    assert np.abs(logits[0] - expected[20:]).max() < tolerance
    assert state.tokens == len(TOKENS)


def test_a_growing_state_is_kept_by_its_copy(growing: tuple[Session, float]) -> None:
    session, _ = growing
    _, state = session.prefill(TOKENS[None, :7])
    kept = state.copy()
    first = session.step(TOKENS[7:8], state)[0]
    for token in TOKENS[8:]:
        session.step(np.array([token]), state)
    assert kept.tokens == 7
    assert np.array_equal(session.step(TOKENS[7:8], kept)[0], first)
    assert kept.arrays()["seen_state.0"].shape == (1, 2, 8, 4)


def test_growing_states_of_a_batch_do_not_mix(growing: tuple[Session, float]) -> None:
    session, tolerance = growing
    rows = np.stack([TOKENS, TOKENS[::-1]])
    state = session.initial_state(2)
    for position in range(len(TOKENS)):
        logits, state = session.step(rows[:, position], state)
    for row, text in zip(logits, rows, strict=True):
        assert np.abs(row - toy_onnx.growing_reference(text)[-1]).max() < tolerance


def test_the_list_of_states_survives_its_json() -> None:
    states = (
        StateTensor("conv_state.0", (0, 7)),
        StateTensor("key_state.1", (2, 0, 8), "float16", 1),
    )
    assert read_states(states_json(states), "m.onnx") == states
    assert read_states(states_json(()), "m.onnx") == ()


def test_generate(session: Session) -> None:
    greedy = list(session.generate(TOKENS, 6))
    text = list(TOKENS)
    for token in greedy:
        assert token == toy_onnx.reference(np.array(text))[-1].argmax()
        text.append(token)
    drawn = [list(session.generate(TOKENS, 20, temperature=3.0, seed=s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert list(session.generate(TOKENS, 6, temperature=3.0, top_k=1)) == greedy
    assert list(session.generate(TOKENS, 0)) == []


def test_top_k_never_draws_another(session: Session) -> None:
    allowed = set(np.argsort(session.prefill(TOKENS[None])[0][0, 0])[-3:])
    drawn = {next(session.generate(TOKENS, 1, temperature=5.0, top_k=3, seed=s)) for s in range(40)}
    assert drawn <= allowed
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected 0, or 1e-6 to 1e6; got -1.0"),
        ({"temperature": float("nan")}, "got nan"),
        ({"temperature": 1e-7}, "got 1e-07"),
        ({"top_k": -1}, "top_k: expected at least 0; got -1"),
        ({"seed": -1}, r"seed: expected 0 to 2\^64 - 1; got -1"),
        ({"seed": 2**64}, "seed: expected"),
    ],
)
def test_sampling_is_checked(session: Session, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(session.generate(TOKENS, 1, **options))


def test_random_numbers_are_splitmix64s() -> None:
    """The published numbers for seed 1234567."""
    random = SplitMix64(1234567)
    assert [random.next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    draws = [random.uniform() for _ in range(1000)]
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1


def test_sample_exp_is_the_exponential() -> None:
    x = -np.concatenate([[0.0, 708.0], np.random.default_rng(0).exponential(50, 10_000)])
    x = x[x >= -708]
    wanted = np.exp(x.astype(np.longdouble))
    assert np.abs(sample_exp(x) / wanted - 1).max() < 2 * tolerances.FLOAT64
    assert sample_exp(np.array([-708.1, -1e9])).tolist() == [0, 0]


def test_sampling_draws_from_the_distribution() -> None:
    """Frequencies within 5 standard deviations, left out tokens never."""
    row = np.array([1.0, 3.0, -2.0, 3.0, 0.0, -1e4], np.float32)
    weights = np.exp(row / 1.5)
    wanted = weights / weights.sum()
    random = SplitMix64(5)
    drawn = np.bincount([sample(row, 1.5, 0, random) for _ in range(20_000)], minlength=6)
    deviation = np.sqrt(20_000 * wanted * (1 - wanted))
    assert (np.abs(drawn - 20_000 * wanted) <= 5 * deviation + 1e-9).all()
    kept = {sample(row, 1.5, 1, random) for _ in range(100)}
    assert kept == {1, 3}  # equals of the k-th stay


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.array([[50]]), "expected 0 to 49; got 50 to 50"),
        (np.array([[-1]]), "got -1"),
        (np.zeros((1, 0), int), "at least one"),
        (np.array([1]), r"integers \(b, l\)"),
        (np.array([[1.0]]), "got float64"),
    ],
)
def test_tokens_are_checked(session: Session, tokens: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        session.prefill(tokens)


def test_positions_batches_and_owners_are_checked(session: Session, model: Path) -> None:
    for bad in ([30], [-1], [[0]]):
        with pytest.raises(BadInputError, match="positions: expected"):
            session.prefill(TOKENS[None], positions=np.array(bad))
    with pytest.raises(BadInputError, match="a batch of 2; got 1"):
        session.step(TOKENS[:1], session.initial_state(2))
    other = open_session(model, threads=1, library=None)
    with pytest.raises(UsageError, match="another one"):
        session.step(TOKENS[:1], other.initial_state(1))
    with pytest.raises(UsageError, match="batch: expected at least 1"):
        session.initial_state(0)


def test_profile(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session = open_session(model, threads=1, library=None, profile=True)
    session.prefill(TOKENS[None])
    trace = session.end_profiling()
    assert trace.parent == tmp_path
    assert any(event.get("cat") == "Node" for event in json.loads(trace.read_text()))


def test_missing_and_damaged_models(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no such file"):
        open_session(tmp_path / "none.onnx", threads=1, library=None)
    with pytest.raises(BadInputError, match="there is no such file"):
        open_session(tmp_path, threads=1, library=None)
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"not a model", b"\x00" * 1000):
        broken.write_bytes(content)
        with pytest.raises(BadInputError, match=r"broken\.onnx: ") as caught:
            open_session(broken, threads=1, library=None)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--threads: expected at least 1"):
        open_session(broken, threads=0, library=None)


def test_an_unknown_op_is_named_without_noise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = toy_onnx.toy_model(tmp_path / "m.onnx", custom_op=True)
    with pytest.raises(BadInputError, match="NoSuchOp"):
        open_session(model, threads=1, library=None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "Only models that ssmpress exported"),
        ("{", "expected JSON"),
        ("[]", r"expected an object; got '\[\]'"),
        ("[" * 100_000, "expected JSON"),
        ({"vocab_size": None}, "vocab_size: expected an integer of at least 1; got None"),
        ({"vocab_size": 51}, r"output logits: expected tensor\(float\) \(any, any, 51\)"),
    ],
)
def test_the_configuration_must_fit_the_graph(tmp_path: Path, metadata: Any, message: str) -> None:
    if isinstance(metadata, dict):
        metadata = json.dumps(toy_onnx.config(**metadata))
    model = toy_onnx.toy_model(tmp_path / "m.onnx", metadata=metadata)
    with pytest.raises(BadInputError, match=message):
        open_session(model, threads=1, library=None)


@pytest.mark.parametrize(("listed", "message"), toy_onnx.SPOILED_STATES)
def test_the_states_must_fit_the_graph(tmp_path: Path, listed: Any, message: str) -> None:
    text = listed if isinstance(listed, str) else json.dumps(listed)
    model = toy_onnx.toy_model(tmp_path / "m.onnx", listed=text)
    with pytest.raises(BadInputError, match=re.escape(message)) as caught:
        open_session(model, threads=1, library=None)
    assert len(str(caught.value)) < 400


# ---- bundles from before they listed their states ----


def test_an_old_bundle_computes_what_it_did(library: Path) -> None:
    known = json.loads((OLD_BUNDLE / "logits.json").read_text())
    for ops_library in (library, None):
        session = open_session(OLD_BUNDLE / "model.onnx", threads=1, library=ops_library)
        assert session.interface.state_shapes(1) == {
            "conv_state.0": (1, 3, 21),
            "scan_state.0": (1, 5, 21),
            "conv_state.1": (1, 3, 15),
            "scan_state.1": (1, 5, 15),
        }
        tokens = np.array([known["tokens"]])
        _, state = session.prefill(tokens[:, :5])
        logits, _ = session.prefill(tokens[:, 5:], state)
        assert np.abs(logits[0, 0] - known["logits"]).max() < 0.02  # an int8 step


@pytest.mark.parametrize("channels", [None, [8, 8]])
def test_an_old_bundle_loads(tmp_path: Path, channels: list[int] | None) -> None:
    sizes = toy_onnx.config(**({"channels": channels} if channels else {}))
    model = toy_onnx.toy_model(tmp_path / "m.onnx", metadata=json.dumps(sizes), listed=None)
    session = open_session(model, threads=1, library=None)
    assert session.interface.state_shapes(2) == {
        state["name"]: (2, *state["shape"]) for state in toy_onnx.states()
    }
    assert np.abs(session.predict(TOKENS[None])[0][0] - toy_onnx.reference(TOKENS)).max() < 1e-4


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"n_layer": 3}, r"expected an input named past_conv_state\.2"),
        ({"n_layer": 1}, r"unexpected input past_conv_state\.1"),
        ({"n_layer": True}, "n_layer: expected an integer"),
        ({"n_layer": 10**9}, "n_layer: expected an integer"),
        ({"n_layer": 2**24}, "expected two states of every layer; the graph has 6 inputs"),
        ({"d_inner": 9}, r"past_conv_state\.0: expected tensor\(float\) \(any, 3, 9\)"),
        ({"d_state": 5}, r"past_scan_state\.0: expected"),
        ({"d_conv": 3}, r"past_conv_state\.0: expected"),
        ({"d_conv": 1}, r"past_conv_state\.0: expected"),
        ({"channels": [8]}, r"channels: expected 2 integers from 1 to 8; got \[8\]"),
        ({"channels": [8, 9]}, "channels: expected"),
        ({"channels": [8, 0]}, "channels: expected"),
        ({"channels": [8, True]}, "channels: expected"),
        ({"channels": "88"}, "channels: expected"),
        ({"channels": [8, 7]}, r"past_conv_state\.1: expected tensor\(float\) \(any, 3, 7\)"),
    ],
)
def test_the_sizes_of_an_old_bundle_must_fit_the_graph(
    tmp_path: Path, metadata: Any, message: str
) -> None:
    sizes = json.dumps(toy_onnx.config(**metadata))
    model = toy_onnx.toy_model(tmp_path / "m.onnx", metadata=sizes, listed=None)
    with pytest.raises(BadInputError, match=message):
        open_session(model, threads=1, library=None)


def _rename_input(graph: onnx.GraphProto) -> None:
    graph.input[0].name = "tokens"
    graph.node[0].input[1] = "tokens"


def _drop_output(graph: onnx.GraphProto) -> None:
    del graph.output[-1]


def _narrow_ids(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32


def _fix_batch(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename_input, "expected an input named input_ids"),
        (_drop_output, r"expected an output named present_scan_state\.1"),
        (_narrow_ids, r"input_ids: expected tensor\(int64\)"),
        (_fix_batch, r"input_ids: expected tensor\(int64\) \(any, any\); got"),
    ],
)
def test_the_graph_must_have_the_interface(
    model: Path, change: Callable[[onnx.GraphProto], None], message: str
) -> None:
    loaded = onnx.load(model)
    change(loaded.graph)
    onnx.save(loaded, model)
    with pytest.raises(BadInputError, match=message):
        open_session(model, threads=1, library=None)


def test_missing_and_foreign_libraries(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the op library is missing"):
        open_session(model, threads=1, library=tmp_path / "none.so")
    foreign = tmp_path / "foreign.so"
    foreign.write_bytes(b"not a library")
    with pytest.raises(DeviceError, match="not an ssmpress op library for this CPU"):
        open_session(model, threads=1, library=foreign)


def test_the_library_loads(model: Path, library: Path) -> None:
    session = open_session(model, threads=2, library=library)
    assert np.abs(session.predict(TOKENS[None])[0][0] - toy_onnx.reference(TOKENS)).max() < 1e-4
    assert library_isa(library) in ("scalar", "avx2", "avx512", "neon", "dotprod")


def test_an_unknown_isa_shows_the_librarys_sentence(model: Path, library: Path) -> None:
    """In a process of its own: a library reads the variable of the process it is loaded in."""
    code = (
        "import sys; from ssmpress.runtime.loading import open_session\n"
        "try: open_session(sys.argv[1], threads=1, library=sys.argv[2])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    for name in ("mmx", "two words", "avx2\n"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(model), str(library)],
            env={**os.environ, "SSMPRESS_ISA": name, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(f"DeviceError {library.name}: SSMPRESS_ISA={name}: expected")
        assert "scalar" in done.stdout


def test_aligned_zeros() -> None:
    for shape in ((1, 1), (3, 5, 7), (1, 0, 8)):
        array = aligned_zeros(shape)
        assert array.shape == shape
        assert not array.any()
        assert array.ctypes.data % 64 == 0 or array.size == 0
