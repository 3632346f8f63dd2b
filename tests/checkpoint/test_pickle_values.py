"""Our own reader of pickles: the tensors that torch reads, and nothing that costs or does harm."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssmpress.checkpoint import archive
from ssmpress.checkpoint.contents import choose_tensors, find_number
from ssmpress.checkpoint.pickle_check import UnfitPickleError
from ssmpress.checkpoint.pickle_values import StandIn, StoredTensor, read_pickle
from ssmpress.checkpoint.weight_files import read_weights
from ssmpress.errors import BadInputError

PROTO, END = b"\x80\x02", b"."
BASE = torch.arange(24.0).view(4, 6)


class Nothing:
    """Records of a pickle without tensors."""

    def elements(self, tensor: StoredTensor) -> torch.Tensor:
        raise AssertionError("no tensor is read here")


def read(content: bytes) -> Any:
    return read_pickle(content, Nothing())


TENSORS: dict[str, Callable[[], Any]] = {
    "types": lambda: {
        str(t): torch.ones(3).to(t)
        for t in (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.uint8,
            torch.bool,
            torch.complex64,
            torch.float8_e4m3fn,
            torch.uint16,
        )
    },
    "views": lambda: {"a": BASE[1:3, ::2], "b": BASE.T, "c": BASE[2], "d": BASE.expand(2, 4, 6)},
    "small": lambda: {"none": torch.empty(0, 3), "number": torch.tensor(7), "one": torch.ones(1)},
    "parameters": lambda: {"p": nn.Parameter(BASE), "frozen": nn.Parameter(BASE, False)},
    "tied": lambda: OrderedDict(a=BASE, b=BASE),
    "dicts": lambda: {
        "o": OrderedDict(a=BASE),
        "d": defaultdict(list, a=BASE),
        "c": Counter("aab"),
    },
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", TENSORS)
def test_it_reads_the_tensors_that_torch_reads(tmp_path: Path, name: str, protocol: int) -> None:
    torch.save(TENSORS[name](), tmp_path / "weights.pt", pickle_protocol=protocol)
    same(archive.read_archive_shapes(tmp_path / "weights.pt"), TENSORS[name]())


def same(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key, value in expected.items():
            same(got[key], value)
    elif isinstance(expected, torch.Tensor):
        assert isinstance(got, StoredTensor)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        loaded = got.load()
        assert loaded.stride() == expected.stride()
        kind = torch.uint8 if expected.dtype.itemsize == 1 else torch.int16
        raw = [t.contiguous().reshape(-1).view(kind) for t in (loaded, expected)]
        assert torch.equal(*raw) if expected.numel() else True
    else:
        assert got == expected


def test_tied_tensors_share_memory(tmp_path: Path) -> None:
    torch.save({"a": BASE, "b": BASE, "other": object}, tmp_path / "weights.pt")
    value = read_weights(tmp_path / "weights.pt")
    first, second = value["a"].load(), value["b"].load()
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def test_objects_are_stand_ins_with_their_attributes() -> None:
    value = read(pickle.dumps({"args": argparse.Namespace(lr=0.5, n=[1, 2])}, 4))
    args = value["args"]
    assert isinstance(args, StandIn) and args.name == "argparse.Namespace"
    assert (args.attribute("lr"), args.attribute("n"), args.attribute("x")) == (0.5, [1, 2], None)


def nested_modules(levels: int) -> StandIn:
    """A module that holds one module twice, which holds one module twice ..."""
    module = StandIn("torch.nn.Linear")
    module.states.append({"_modules": {}, "_parameters": {}})
    for _ in range(levels):
        outer = StandIn("torch.nn.Sequential")
        outer.states.append({"_modules": {"a": module, "b": module}, "_parameters": {}})
        module = outer
    return module


SHARED: list[Any] = [{}]
for _ in range(60):
    SHARED.append({str(i): SHARED[-1] for i in range(100)})


def test_values_that_hold_one_another_many_times_are_walked_once() -> None:
    with pytest.raises(BadInputError, match=r"an object of torch\.nn\.Sequential without"):
        choose_tensors(nested_modules(60), Path("w.pt"), [], None)
    assert find_number(SHARED[-1], "lora_alpha") is None
    with pytest.raises(BadInputError, match="expected tensors by name"):
        choose_tensors(SHARED[-1], Path("w.pt"), [], None)


def test_what_holds_itself_is_walked_once() -> None:
    value = read(PROTO + b"}q\0X\x01\0\0\0ah\0s" + END)
    assert value["a"] is value
    with pytest.raises(BadInputError, match="expected tensors by name"):
        choose_tensors(value, Path("w.pt"), [], None)


def text(word: str) -> bytes:
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x08tQ"


def tensor(offset: bytes, shape: bytes, stride: bytes) -> bytes:
    """A call of _rebuild_tensor_v2 over a storage of 8 elements."""
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return PROTO + function + b"(" + STORAGE + offset + shape + stride + b"\x89}tR" + END


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no arguments": (
        PROTO + b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "a state dict .name -> tensor.; got|without tensors",
    ),
    "past its storage": (tensor(b"K\x01", b"K\x08\x85", b"K\x01\x85"), "larger than its storage"),
    "strides past it": (tensor(b"K\0", b"K\x03\x85", b"K\x04\x85"), "larger than its storage"),
    "negative offset": (tensor(b"J\xff\xff\xff\xff", b"K\x01\x85", b"K\x01\x85"), "no shape"),
    "negative stride": (tensor(b"K\0", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), "no shape"),
    "shape a list": (tensor(b"K\0", b"]", b"]"), "no shape"),
    "a thousand axes": (
        tensor(b"K\0", b"(" + b"K\x01" * 1000 + b"t", b"(" + b"K\x01" * 1000 + b"t"),
        "no shape",
    ),
    "a storage of another type": (
        PROTO
        + b"("
        + text("storage")
        + b"cposix\nsystem\n"
        + text("0")
        + text("cpu")
        + b"K\x08tQ.",
        "a storage that torch.save does not write",
    ),
    "one list for many calls": (
        PROTO
        + b"]("
        + b"N" * 3000
        + b"eq\0"
        + b"ctorch\nSize\nq\1"
        + b"h\1h\0\x85R0" * 3000
        + b"N.",
        "more than 4,194,304 values",
    ),
    "a change of a function": (PROTO + b"cbuiltins\nprint\n}b.", "a change of what was only named"),
    "items of a list": (PROTO + b"]NNs.", "items of what is no dict"),
    "no value": (PROTO + b"s.", "instructions that find no value"),
    "no end": (PROTO + b"N", "damaged or cut short"),
    "protocol 0": (b"I1\n.", "the instruction INT"),
    "below a mark": (PROTO + b"N(0.", "instructions that find no value"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_one_sentence(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    content = content.replace(PROTO, PROTO + b"cother\nclass\n0", 1)  # none for torch
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    with pytest.raises(BadInputError, match=message) as caught:
        choose_tensors(read_weights(path), path, [], None)
    assert str(caught.value).startswith(f"{path}: expected")


def test_keys_that_cost_are_found_by_nobody() -> None:
    """2^n values to hash in a tuple, and integers of one hash."""
    twins = b")q\x000" + b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1, 48]) for n in range(100)
    )
    value = read(PROTO + twins + b"}hdNs" + END)
    assert [type(key) for key in value] == [StandIn]
    large = b"\x8a\x0a" + (2**70).to_bytes(10, "little")
    assert [type(key) for key in read(PROTO + b"}" + large + b"NsK\x05Ns" + END)] == [StandIn, int]


def test_depth_and_places_of_the_memo_cost_nothing() -> None:
    depth = 200_000
    deep = read(PROTO + b"]" * depth + b"a" * (depth - 1) + END)
    assert len(deep) == 1
    del deep
    far = b"\xff\xff\xff\x7f"
    assert read(PROTO + b"Nr" + far + b"0j" + far + END) is None


SAVED = io.BytesIO()
torch.save({"state_dict": {"a": BASE}, "args": argparse.Namespace(lr=1), "n": [1, 2.5]}, SAVED)
with zipfile.ZipFile(SAVED) as good:
    PICKLE = next(good.read(name) for name in good.namelist() if name.endswith("data.pkl"))
PIECES = st.binary(max_size=4) | st.sampled_from(
    [b"(", b".", b"0", b")R", b"}", b"s", b"h\1", b"b"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PICKLE) - 1), st.integers(0, 6), PIECES), max_size=4))
def test_damaged_pickles_are_values_or_one_sentence(edits: list[tuple[int, int, bytes]]) -> None:
    """Any bytes changed, cut or added: nothing but the two errors, which are sentences."""
    content = bytearray(PICKLE)
    for start, length, piece in edits:
        content[start : start + length] = piece
    try:
        value = read(bytes(content))
        choose_tensors(value, Path("w.pt"), [], None)
        find_number(value, "lora_alpha")
    except (UnfitPickleError, BadInputError) as error:
        (line,) = str(error).splitlines()
        assert line.strip()
