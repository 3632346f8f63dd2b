"""ssmrun eval of classifiers and forecasters, against the definition in NumPy.

The models are small graphs with the inputs and outputs of such bundles.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import ssmrun_bundle as sb
import toy_onnx
from ssmpress.data.tokenizer import encode, load_tokenizer

VOCAB, CLASSES, MAX_LENGTH = 1024, ("bad", "good", "3"), 12
LOOKBACK, HORIZON, VARIATES = 6, 3, ("load", "oil, heavy")
MEAN, STD = (10.0, -3.0), (4.0, 0.5)
CLASSIFICATION = {
    "kind": "classification",
    "classes": list(CLASSES),
    "pooling": "mean",
    "max_length": MAX_LENGTH,
}
FORECAST = {
    "kind": "forecast",
    "lookback": LOOKBACK,
    "horizon": HORIZON,
    "variates": list(VARIATES),
    "mean": list(MEAN),
    "std": list(STD),
    "patch": 3,
    "stride": 3,
    "normalisation": "none",
}
RANDOM = np.random.default_rng(0)
EMBEDDING = RANDOM.normal(size=(VOCAB, 8)).astype(np.float32)
HEAD = RANDOM.normal(size=(8, len(CLASSES))).astype(np.float32)
STEPS = RANDOM.normal(size=(LOOKBACK, HORIZON)).astype(np.float32)


def save(path: Path, task: dict[str, Any], nodes: list[Any], ends: list[Any]) -> None:
    constants = {"E": EMBEDDING, "W": HEAD, "M": STEPS, "time": np.array([1])}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "toy",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(a, name) for name, a in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    vocab = VOCAB if task["kind"] == "classification" else 0
    config = toy_onnx.config(vocab_size=vocab, task=task)
    helper.set_model_props(model, {"ssmpress.config": json.dumps(config)})
    onnx.save(model, path)


def classifier(path: Path, task: dict[str, Any] = CLASSIFICATION) -> None:
    """logits = mean of the tokens' embeddings · W."""
    value = helper.make_tensor_value_info
    save(
        path,
        task,
        [
            helper.make_node("Gather", ["E", "input_ids"], ["x"]),
            helper.make_node("ReduceMean", ["x", "time"], ["pooled"], keepdims=0),
            helper.make_node("MatMul", ["pooled", "W"], ["logits"]),
        ],
        [
            value("input_ids", TensorProto.INT64, ["b", "l"]),
            value("logits", TensorProto.FLOAT, ["b", len(CLASSES)]),
        ],
    )


def forecaster(path: Path, task: dict[str, Any] = FORECAST) -> None:
    """Each variate's next steps are a matrix times its last ones."""
    value = helper.make_tensor_value_info
    save(
        path,
        task,
        [
            helper.make_node("Transpose", ["series"], ["rows"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["rows", "M"], ["next"]),
            helper.make_node("Transpose", ["next"], ["forecast"], perm=[0, 2, 1]),
        ],
        [
            value("series", TensorProto.FLOAT, ["b", LOOKBACK, len(VARIATES)]),
            value("forecast", TensorProto.FLOAT, ["b", HORIZON, len(VARIATES)]),
        ],
    )


@pytest.fixture
def bundle(tmp_path: Path, library: Path) -> Path:
    sb.runner()
    folder = tmp_path / "b"
    folder.mkdir()
    shutil.copyfile(library, folder / "libssmpress_ops.so")
    shutil.copyfile(sb.DEMO / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture
def classify(bundle: Path) -> Path:
    classifier(bundle / "model.onnx")
    sb.remake_manifest(bundle)
    return bundle


@pytest.fixture
def forecast(bundle: Path) -> Path:
    forecaster(bundle / "model.onnx")
    sb.remake_manifest(bundle)
    return bundle


def run(command: str, bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """With the installed ONNX Runtime: copying and hashing it would take most of the time."""
    return sb.ssmrun(command, bundle, "--runtime", sb.runtime(), *arguments)


def work(bundle: Path) -> sb.Worker:
    return sb.Worker(bundle, "--runtime", str(sb.runtime()))


def logits(tokens: NDArray[Any]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = EMBEDDING[tokens].mean(0) @ HEAD
    return result


def test_accuracy(classify: Path, tmp_path: Path) -> None:
    """Texts are encoded and cut at max_length; labels may be numbers; tokens may stand there."""
    tokenizer = load_tokenizer(sb.DEMO / "tokenizer.json")
    lines, right = [], []
    for i in range(40):
        text = " ".join(f"w{RANDOM.integers(1000)} é👍" for _ in range(1 + i % 7))
        tokens = encode(tokenizer, text, vocab_size=VOCAB)[:MAX_LENGTH]
        label = int(RANDOM.integers(3))
        right.append(int(logits(tokens).argmax()) == label)
        row: dict[str, Any] = {"label": 3 if label == 2 else CLASSES[label]}
        row |= {"text": text} if i % 2 else {"tokens": [*tokens.tolist(), *([5] * (i % 3))]}
        if not i % 2 and len(tokens) < MAX_LENGTH:
            row["tokens"] = tokens.tolist()
        lines.append(json.dumps(row, ensure_ascii=i % 3 == 0))
    path = tmp_path / "texts.jsonl"
    path.write_text("\n\n".join(lines) + "\n")
    found = sb.reply(run("eval", classify, path, "--threads", "1", "--json"))
    assert found["task"] == "classification"
    assert found["right"] == right
    assert 0 < sum(right) < 40
    assert found["accuracy"] == pytest.approx(sum(right) / 40, rel=1e-12)
    limited = sb.reply(run("eval", classify, path, "--limit", "7", "--json"))
    assert limited["right"] == right[:7]


def write_csv(path: Path, values: NDArray[np.float64]) -> None:
    """Columns in another order, with one that the model does not use, quotes and an empty line."""
    rows = ['date,"oil, heavy", load ']
    rows += [f'"day ""{i}""",{oil!r},{load!r}' for i, (load, oil) in enumerate(values.tolist())]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*rows[:4], "", *rows[4:]]).encode())


@pytest.mark.parametrize("steps", [9, 10, 200])
def test_forecast_error(forecast: Path, tmp_path: Path, steps: int) -> None:
    values = RANDOM.normal(size=(steps, 2)) * STD + MEAN
    write_csv(tmp_path / "series.csv", values)
    scaled = ((values - MEAN) / STD).astype(np.float32)
    differences = []
    for i in range(steps - LOOKBACK - HORIZON + 1):
        window = scaled[i : i + LOOKBACK]
        target = scaled[i + LOOKBACK : i + LOOKBACK + HORIZON]
        differences.append((window.T @ STEPS).T.astype(np.float64) - target)
    words = ["eval", forecast, tmp_path / "series.csv", "--json"]
    found = sb.reply(run(*words))
    assert found["task"] == "forecast"
    assert found["mse"] == pytest.approx(np.square(differences).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(differences).mean(), rel=1e-5)
    assert found["windows"] == len(differences)
    assert found["predictions"] == np.size(differences)
    limited = sb.reply(run(*words, "--limit", "2"))
    assert limited["mse"] == pytest.approx(np.square(differences[:2]).mean(), rel=1e-5)


def test_worker_predicts_and_measures(classify: Path) -> None:
    texts = [[1, 2, 3], [1023]]
    with work(classify) as worker:
        assert worker.ask("load", threads=1)["config"]["task"] == CLASSIFICATION
        got = worker.ask("classify", texts=texts)
        found = np.frombuffer(base64.b64decode(got["logits"]), np.float32).reshape(got["shape"])
        assert np.abs(found - [logits(np.array(t)) for t in texts]).max() < 1e-5
        assert len(worker.ask("round", prompt_tokens=9, decode_tokens=4)["decode_ms"]) == 4
    forecaster(classify / "model.onnx")
    sb.remake_manifest(classify)
    series = RANDOM.normal(size=(5, LOOKBACK, 2)).astype(np.float32)
    with work(classify) as worker:
        worker.ask("load", threads=1)
        got = worker.ask("forecast", series=series.ravel().tolist())
        assert worker.ask("round", prompt_tokens=9, decode_tokens=4)["prefill_ms"] > 0
    found = np.frombuffer(base64.b64decode(got["forecast"]), np.float32).reshape(got["shape"])
    assert np.abs(found - np.swapaxes(np.swapaxes(series, 1, 2) @ STEPS, 1, 2)).max() < 1e-5


def test_info_and_bench(forecast: Path) -> None:
    assert sb.reply(run("info", forecast, "--json"))["task"] == "forecast"
    found = sb.reply(
        run("bench", forecast, "--rounds", "1", "--tokens", "3", "--no-cold", "--json")
    )
    assert len(found["rounds"][1]["decode_ms"]) == 3


def test_what_belongs_to_another_task_is_refused(forecast: Path) -> None:
    code, text = sb.failure(run("generate", forecast, "--prompt", "x"))
    assert (code, "expected a model whose task is language-model; got forecast" in text) == (
        6,
        True,
    )
    with work(forecast) as worker:
        worker.ask("load", threads=1)
        for request in (
            {"do": "logits", "tokens": [1]},
            {"do": "nll", "windows": [[1, 2]]},
            {"do": "generate", "tokens": [1], "max_tokens": 1},
            {"do": "classify", "texts": [[1]]},
        ):
            answer = worker.send(json.dumps(request).encode())
            assert "got forecast" in answer["error"], request
        short = worker.send(b'{"do": "forecast", "series": [1, 2, 3]}')
        assert "expected a multiple of 12 values (6 x 2); got 3" in short["error"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected at least one labelled text"),
        ("{", "line 1: expected JSON"),
        ('{"text": "a", "label": "good"}\n3', "line 2: expected `label`"),
        ('{"text": "a"}', "expected `label`"),
        ('{"label": "good"}', "expected `label`"),
        ('{"text": 3, "label": "good"}', "expected `label`"),
        ('{"text": "a", "label": true}', "expected `label`"),
        ('{"text": "a", "label": "ugly"}', "expected a label among the model's classes"),
        ('{"text": "", "label": "good"}', "expected a text; got an empty one"),
        ('{"tokens": [1.5], "label": "good"}', "tokens: expected integers; got 1.5"),
        ('{"tokens": [1024], "label": "good"}', "expected tokens from 0 to 1023; got 1024"),
    ],
)
def test_labelled_texts_are_checked(
    classify: Path, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(line)
    code, text = sb.failure(run("eval", classify, path))
    assert code == 6
    assert message in text


GOOD = 'load,"oil, heavy"\n' + "1,2\n" * 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a heading"),
        ("load,oil\n1,2\n", 'one column named "oil, heavy"'),
        ('load,load,"oil, heavy"\n', 'one column named "load"'),
        (GOOD + "1\n", "line 11: expected 2 fields as in the heading; got 1"),
        (GOOD.replace("1,2", "1,x", 1), 'line 2: expected a finite number; got "x"'),
        (GOOD.replace("1,2", "nan,2", 1), 'got "nan"'),
        (GOOD.replace("1,2", "1e999,2", 1), "1e999"),
        (GOOD.replace("1,2", "0x10,2", 1), 'got "0x10"'),
        (GOOD.replace("1,2", ",2", 1), 'got ""'),
        (GOOD[:-4], "expected at least 9 time steps for one window; got 8"),
        (GOOD + '"1,2\n', "expected the end of a quoted field"),
    ],
)
def test_series_are_checked(forecast: Path, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "series.csv"
    path.write_text(content)
    code, text = sb.failure(run("eval", forecast, path))
    assert code == 6
    assert message in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "summary"},
            "task.kind: expected language-model, classification, forecast or network",
        ),
        ({"lookback": 0}, "task.lookback: expected an integer of at least 1; got 0"),
        ({"horizon": 4}, "output forecast: expected float32 (any, 4, 2)"),
        ({"variates": ["a", "a"]}, "task.variates: expected at least 1 different names"),
        ({"variates": ["a"]}, "task.mean: expected 1 numbers, one per variate"),
        ({"std": [1.0, 0.0]}, "task.std: expected positive numbers"),
        ({"mean": [1.0, "x"]}, "task.mean: expected numbers"),
        ({"kind": "classification"}, "task.classes: expected at least 2 different names; got none"),
    ],
)
def test_the_task_is_checked(bundle: Path, change: dict[str, Any], message: str) -> None:
    forecaster(bundle / "model.onnx", {**FORECAST, **change})
    sb.remake_manifest(bundle)
    code, text = sb.failure(run("info", bundle))
    assert code == 6
    assert message in text
