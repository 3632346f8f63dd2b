"""A user's labelled texts, series and task blocks: what is read, and what each error says."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lra.prepare import byte_tokenizer, byte_tokens

from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.data import npz
from ssmpress.data.labelled import load_labelled
from ssmpress.data.series import SeriesWindows, load_series, read_csv
from ssmpress.errors import BadInputError
from ssmpress.prune.order import SampleOrder
from ssmpress.tasks import Classification, Forecasting, LanguageModel, Task, read_task

CLASSIFIER = Classification(classes=("no", "yes", "3"), max_length=8)
FORECASTER = Forecasting(
    lookback=4,
    horizon=2,
    variates=("b", "a"),
    mean=(1.0, 0.0),
    std=(2.0, 1.0),
    patch=2,
    stride=2,
)
ROWS = [("good", "yes"), ("a, \u00e9 b", "no"), ("longer than eight", "3")]


def labelled(path: Path) -> Any:
    return load_labelled([path], byte_tokenizer(), CLASSIFIER, 256)


def contents(samples: Any) -> list[tuple[bytes, int]]:
    """Texts as bytes again, and their classes."""
    back = np.argsort(byte_tokens())
    return [
        (bytes(back[samples.text(i)].astype(np.uint8)), int(samples.labels[i]))
        for i in range(samples.count)
    ]


EXPECTED = [(text.encode()[:8], ("no", "yes", "3").index(label)) for text, label in ROWS]


def test_every_kind_of_file_gives_the_same_samples(tmp_path: Path) -> None:
    lines = [json.dumps({"id": 1, "text": t, "label": 3 if c == "3" else c}) for t, c in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    quoted = "\n".join(f'{c},"{t}"' for t, c in ROWS)
    (tmp_path / "a.csv").write_text("\ufefflabel,text\n" + quoted + "\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(f"{t}\t{c}" for t, c in ROWS))
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv"):
        assert contents(labelled(tmp_path / name)) == EXPECTED
    samples = labelled(tmp_path / "a.jsonl")
    np.savez(
        tmp_path / "a.npz", tokens=samples.tokens, starts=samples.starts, labels=samples.labels
    )
    assert contents(load_labelled([tmp_path / "a.npz"], None, CLASSIFIER, 256)) == EXPECTED
    both = load_labelled(
        [tmp_path / "a.npz", tmp_path / "a.csv"], byte_tokenizer(), CLASSIFIER, 256
    )
    assert contents(both) == 2 * EXPECTED
    tokens, labels, lengths = both.arrays(np.array([1, 3]))
    assert tokens.shape == (2, 7) and labels.tolist() == [0, 1] and lengths.tolist() == [7, 4]
    assert (tokens[1, 4:] == 0).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"text": "a"}', "line 1: expected the keys `text`"),
        ("x.jsonl", '{"text": "a", "label": true}', "line 1: label: expected a string or an"),
        ("x.jsonl", "[1", "line 1: expected a JSON object; got '[1'"),
        (
            "x.jsonl",
            '\n{"text": "a", "label": "maybe"}',
            "line 2: expected a label among no, yes, 3; got 'maybe'",
        ),
        ("x.jsonl", '{"text": "", "label": "no"}', "line 1: expected a text; got an empty one"),
        ("x.jsonl", "", "expected at least one labelled text; got none"),
        ("x.csv", "text,class\na,no", "expected one column named 'label' in the heading"),
        ("x.csv", "text,label\na,no,1", "line 2: expected 2 fields as in the heading; got 3"),
        ("x.md", "text", "expected a .jsonl, .tsv or .csv file"),
    ],
)
def test_errors_of_labelled_texts(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInputError, match=re.escape(message)):
        labelled(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.zeros((2, 3), int)}, "expected integers `tokens`"),
        ({"tokens": np.zeros(4, int), "starts": [0, 5], "labels": [0]}, "starts: expected 2"),
        ({"tokens": np.zeros(4, int), "starts": [0, 0, 4], "labels": [0, 0]}, "starts: expected 3"),
        ({"tokens": np.full((1, 3), 256), "labels": [0]}, "tokens: expected 0 to 255; got 256"),
        ({"tokens": np.zeros((1, 3), int), "labels": [3]}, "labels: expected 0 to 2; got 3 to 3"),
        ({"tokens": np.zeros((1, 3)), "labels": [0]}, "expected integers `tokens`"),
        ({"tokens": np.zeros((2, 3), int), "labels": [0]}, "expected one for each of the 2"),
    ],
)
def test_errors_of_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
    with pytest.raises(BadInputError, match=re.escape(message)):
        load_labelled([path], None, CLASSIFIER, 256)
    path.write_bytes(b"PK nothing")
    with pytest.raises(BadInputError, match=r"expected a \.npz"):
        load_labelled([path], None, CLASSIFIER, 256)


def claiming(path: Path, shape: str, fill: bytes = b"") -> None:
    """A .npz whose tokens claim a shape, and whose entry holds so many bytes."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({shape},), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    entry = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + fill
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokens.npy", entry)


@pytest.mark.parametrize("shape", [2**40, 2**62, 10**30, 9])
def test_an_array_that_claims_more_than_it_has_is_not_made(tmp_path: Path, shape: int) -> None:
    """Before anything of its size is allocated: 300 bytes of file could ask for terabytes."""
    path = tmp_path / "x.npz"
    claiming(path, str(shape), b"\0" * 64)
    with pytest.raises(BadInputError, match=f"tokens: int64 .{shape},., .* bytes in an entry of"):
        load_labelled([path], None, CLASSIFIER, 256)


def test_all_arrays_of_a_file_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "TEXT_LIMIT", 1000)
    path = tmp_path / "x.npz"
    claiming(path, "200", b"\0" * 1600)
    with pytest.raises(BadInputError, match="of which at most 1,000 are read"):
        load_labelled([path], None, CLASSIFIER, 256)


def test_series_is_scaled_and_cut_into_every_window(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [f"2026-01-{i + 1:02},{i},{10 * i},note" for i in range(8)]
    path.write_text("\n".join(["date,a,b,rest", *rows]) + "\n")
    names, values = read_csv(path)
    assert names == ["a", "b"] and values.shape == (8, 2)
    windows = load_series([path], FORECASTER)
    assert windows.count == 3
    inputs, targets, _ = windows.arrays(np.array([2]))
    np.testing.assert_allclose(inputs[0, :, 0], [(10 * i - 1) / 2 for i in range(2, 6)])
    np.testing.assert_allclose(targets[0, :, 1], [6, 7])
    assert load_series([path, path], FORECASTER).count == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "the series has 1 time steps; one window needs 6"),
        ("a,c\n1,2\n", "'b'"),
        ("a,b\n1,2\n1\n", "line 3: expected 2 fields as in the heading; got 1"),
        ("a,b\n1,2\n3,inf\n", "line 3, column 'b': expected a finite number with a decimal"),
        ("a,b\n1,2\n3,x\n", "with a decimal point, or nothing; got 'x'"),
        ("", "expected a heading and rows of numbers"),
    ],
)
def test_errors_of_series(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(BadInputError, match=re.escape(message)) as error:
        load_series([path], FORECASTER)
    assert str(path) in str(error.value)


def test_order_uses_each_sample_once_and_batches_alike_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    path.write_text(
        "\n".join(json.dumps({"text": "a" * n, "label": "no"}) for n in lengths.tolist())
    )
    order = SampleOrder(labelled(path), batch=20, seed=3)
    numbers = [order.numbers(step) for step in range(10)]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(200))
    spread = [np.ptp(lengths[some]) for some in numbers]
    assert np.mean(spread) < 2 and np.ptp(lengths) == 7
    assert not np.array_equal(numbers[0], order.numbers(10))
    again = SampleOrder(labelled(path), batch=20, seed=3).numbers(4)
    assert np.array_equal(numbers[4], again)
    even = SampleOrder(SeriesWindows(np.zeros((30, 1), np.float32), 4, 2), batch=5, seed=0)
    assert sorted(np.concatenate([even.numbers(i) for i in range(5)]).tolist()) == list(range(25))


@pytest.mark.parametrize("task", [CLASSIFIER, FORECASTER, LanguageModel()])
def test_task_block_round_trip(task: Task) -> None:
    assert read_task(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "regression"}, "task.kind: expected language-model or classification"),
        ({"classes": ["a"]}, "task.classes: expected at least 2 different names"),
        ({"classes": ["a", "a"]}, "task.classes: expected at least 2 different names"),
        ({"classes": "ab"}, "task.classes: expected a list"),
        ({"pooling": "max"}, "task.pooling: expected mean or last"),
        ({"max_length": 1 << 40}, "task.max_length: expected an integer from 1 to 1048576"),
        ({"max_length": True}, "task.max_length: expected an integer"),
        ({"horizon": 3}, "task.horizon: expected no such field in a classification"),
        ({"pooling": None}, "task.pooling: expected mean or last; got None"),
    ],
)
def test_hostile_classification_blocks(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(message)):
        read_task(CLASSIFIER.to_dict() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [1.0, 0.0]}, "task.std: expected 2 positive finite numbers"),
        ({"mean": [1.0, float("nan")]}, "task.mean: expected 2 finite numbers"),
        ({"mean": [1.0]}, "task.mean: expected 2 finite numbers"),
        ({"patch": 3}, "task.patch: expected patches of 3 every 2 steps that end with"),
        ({"patch": 5}, "task.patch: expected patches of 5"),
        ({"stride": 0}, "task.stride: expected an integer from 1"),
        ({"normalisation": "z"}, "task.normalisation: expected instance or none"),
    ],
)
def test_hostile_forecast_blocks(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(message)):
        read_task(FORECASTER.to_dict() | change)


def test_a_missing_field_and_a_block_that_is_none() -> None:
    block = CLASSIFIER.to_dict()
    del block["classes"]
    with pytest.raises(BadInputError, match=r"task\.classes: expected this field"):
        read_task(block)
    with pytest.raises(BadInputError, match="task: expected an object; got 3"):
        read_task(3)


def test_checkpoint_names_its_file_in_an_error_of_its_task(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"task": {"kind": "forecast"}, "d_model": 8, "n_layer": 1, "vocab_size": 0})
    )
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"config\.json"):
        read_checkpoint(tmp_path)
