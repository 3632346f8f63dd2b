"""The data of Long Range Arena: generators against their rules, loaders on files made here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import ett
import numpy as np
import pytest
from lra import archives, listops, pathfinder, prepare, train

from ssmpress.data.labelled import load_labelled
from ssmpress.errors import BadInputError
from ssmpress.tasks import read_task


def test_listops_values_lengths_and_operators() -> None:
    trees = listops.generate(60, seed=5)
    assert len(dict(trees)) == 60
    used: Counter[str] = Counter()
    for tokens, value in trees:
        words = [listops.WORDS[token] for token in tokens]
        assert 500 < len(words) < 2000 and listops.evaluate(words) == value
        depth = deepest = 0
        for word in words:
            depth += (word in listops.OPERATORS) - (word == listops.CLOSE)
            deepest = max(deepest, depth)
        assert depth == 0 and deepest <= listops.MAX_DEPTH - 1
        used.update(word for word in words if word in listops.OPERATORS)
    assert {name: 0.22 < n / used.total() < 0.28 for name, n in used.items()} == dict.fromkeys(
        listops.OPERATORS, True
    )
    assert trees == listops.generate(60, seed=5) and trees != listops.generate(60, seed=6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 4 [MIN 2 9 ] 7 ]", 7),
        ("[MED 1 2 9 ]", 2),
        ("[MED 1 2 5 9 ]", 3),
        ("[SM 9 9 9 ]", 7),
        ("[MIN [SM 5 5 ] 3 ]", 0),
        ("8", 8),
    ],
)
def test_listops_definition(text: str, value: int) -> None:
    assert listops.evaluate(text.split()) == value


@pytest.mark.parametrize("text", ["[MAX ]", "[MAX 1", "1 ]", "1 2", "x", ""])
def test_what_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        listops.evaluate(text.split())


@pytest.mark.parametrize("connected", [True, False])
def test_pathfinder_discs_lie_on_the_curves_that_the_class_says(connected: bool) -> None:
    random = np.random.default_rng(3)
    for _ in range(4):
        scene = pathfinder.scene(connected, 9, random)
        image, trace = pathfinder.image(scene), pathfinder.trace(scene)
        assert image.shape == trace.shape == (32, 32) and image.dtype == trace.dtype == np.uint8
        owners = []
        for disc in scene.discs:
            area = np.sqrt(((pathfinder._GRID - disc) ** 2).sum(1)).reshape(32, 32) < 1
            assert (image[area] == 255).all()
            owners += [
                i
                for i, curve in enumerate(scene.curves)
                if any((disc == end).all() for end in (curve[0], curve[-1]))
            ]
        assert len(owners) == 2 and max(owners) <= 1 and (owners[0] == owners[1]) == connected
        for a in scene.curves:
            for b in scene.curves:
                distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
                assert a is b or distance.min() >= pathfinder.CLEARANCE - 1e-9
        assert np.array_equal(trace > 0, image > 255 / 14)
        for i, curve in enumerate(scene.curves):
            top, low = curve[np.argmin(curve[:, 0])], pathfinder._dashes([curve]) > 0.2
            found = set(trace.reshape(-1)[low].tolist())
            assert found == {1 + 3 * round(top[1]) + owners.count(i)}


def test_pathfinder_discs_are_as_far_apart_in_both_classes() -> None:
    random = np.random.default_rng(7)
    apart: list[list[float]] = [[], []]
    while len(apart[0]) < 400:
        for connected in (0, 1):
            a, b = pathfinder.scene(bool(connected), 9, random).discs
            apart[connected].append(float(np.hypot(*(a - b))))
    values = np.concatenate(apart)
    classes = np.repeat([0, 1], 400)
    best = max(((values > limit) == classes).mean() for limit in np.arange(0, 45, 0.5))
    assert best < 0.56  # 0.68 with any end of the other curve


def test_pathfinder_tokens_are_columns_and_levels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1024), np.uint8)
    words = [pathfinder.WORDS[token] for token in pathfinder.tokens(images)[1]]
    columns, levels = np.array([word.split(":") for word in words], int).T
    assert np.array_equal(columns, np.arange(1024) % 32)
    assert np.abs(levels * 255 / 7 - images[1]).max() <= 255 / 7 / 2 + 0.5
    encoded = prepare.tokenizer_of("pathfinder").encode(" ".join(words)).ids
    assert encoded == pathfinder.tokens(images)[1].tolist()


def test_pathfinder_looks_near_by_and_finds_what_looking_everywhere_does() -> None:
    random = np.random.default_rng(5)
    points = random.uniform(1.5, 29.5, (60, 2))
    taken = pathfinder.Taken()
    for curve in points.reshape(20, 3, 2):
        taken.add([tuple(point) for point in curve.tolist()])
    curves = points.reshape(20, 3, 2)
    all_points = np.concatenate([points, ((curves[:, 1:] + curves[:, :-1]) / 2).reshape(-1, 2)])
    found = []
    for place in random.uniform(0, 31, (2000, 2)):
        apart = np.sqrt(((all_points - place) ** 2).sum(1)).min()
        found.append(taken.near(*place.tolist()))
        assert found[-1] == (apart <= pathfinder.CLEARANCE)
    assert 0.1 < np.mean(found) < 0.99

    angle = random.uniform(0, 7, 50)
    starts = random.uniform(1.5, 29.5, (50, 2))
    along = pathfinder.DASH * np.stack([np.cos(angle), np.sin(angle)], -1)
    offset = pathfinder._GRID[:, None] - starts
    part = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    distance = np.sqrt(((offset - part[..., None] * along) ** 2).sum(-1)).min(1)
    coverage = np.clip(pathfinder.HALF_WIDTH + 0.5 - distance, 0, 1)
    drawn = pathfinder._lines(starts, starts + along)
    np.testing.assert_allclose(drawn, coverage, rtol=0, atol=1e-12)


def test_pathfinder_classes_are_even_and_equally_bright() -> None:
    images, labels, _ = pathfinder.generate(120, seed=1, dashes=6)
    assert images.shape == (120, 1024) and labels.sum() == 60
    brightness = [images[labels == c].mean() for c in (0, 1)]
    assert abs(brightness[0] - brightness[1]) < 0.1 * np.mean(brightness)
    assert len({row.tobytes() for row in images}) == 120
    same, *_ = pathfinder.generate(120, seed=1, dashes=6)
    assert np.array_equal(images, same)


def test_imdb_image_and_retrieval_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [(f"film \u00e9 {i} " + "x" * int(random.integers(1, 50)), i % 2) for i in range(60)]
    lines = [json.dumps({"text": text, "label": label}) for text, label in texts]
    (tmp_path / "imdb.jsonl").write_text("\n".join(lines))
    assert list(archives.read_imdb(tmp_path / "imdb.jsonl")) == [(t.encode(), c) for t, c in texts]

    grey = random.integers(0, 256, (20, 1024), np.uint8)
    records = np.concatenate([np.arange(20, dtype=np.uint8)[:, None] % 10, grey, grey, grey], 1)
    (tmp_path / "cifar.bin").write_bytes(records.tobytes())
    images, classes = archives.read_cifar(tmp_path / "cifar.bin")
    assert np.abs(images.astype(int) - grey).max() <= 1 and classes.tolist() == [*range(10)] * 2

    rows = [f"{c}.0\tp1\tp2\tone {c}\ttwo" for c in (0, 1)]
    (tmp_path / "aan.tsv").write_text("\n".join(rows))
    assert list(archives.read_retrieval(tmp_path / "aan.tsv")) == [
        (b"one 0\x00two", 0),
        (b"one 1\x00two", 1),
    ]
    for task, name in (("text", "imdb.jsonl"), ("image", "cifar.bin"), ("retrieval", "aan.tsv")):
        out = tmp_path / task
        files = ["--train", *[str(tmp_path / name)] * (20 if task == "retrieval" else 1)]
        prepare.main([task, "--out", str(out), *files, "--test", str(tmp_path / name)])
        block = read_task(json.loads((out / "task.json").read_text()))
        size = prepare.vocab_size(task)
        parts = [
            load_labelled([out / f"{part}.npz"], None, block, size).count for part in prepare.SPLITS
        ]
        assert parts[0] == 19 * parts[1] and parts[2] in (60, 20, 2)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123")
    with pytest.raises(BadInputError, match="expected records of 3073 bytes"):
        archives.read_cifar(path)
    path.write_bytes(bytes([10] * 3073))
    with pytest.raises(BadInputError, match="expected classes 0 to 9; got 10"):
        archives.read_cifar(path)
    path.write_text("2\ta\tb\tc\td")
    with pytest.raises(BadInputError, match="line 1: expected label"):
        list(archives.read_retrieval(path))


def test_bytes_are_the_tokens_of_the_byte_tokenizer() -> None:
    text = "plain, \u00e9\u4e2d \n\x00 end"
    assert prepare.byte_tokenizer().encode(text).ids == [
        int(i) for i in prepare.byte_tokens()[np.frombuffer(text.encode(), np.uint8)]
    ]


def test_parts_of_generated_sets_share_nothing_and_repeat() -> None:
    parts = prepare.make_listops((40, 6, 6), seed=0, workers=1)
    texts = [part.text(i).tobytes() for part in parts for i in range(part.count)]
    assert [part.count for part in parts] == [40, 6, 6] and len(set(texts)) == 52
    again = prepare.make_listops((40, 6, 6), seed=0, workers=2)
    assert all(a.digest() == b.digest() for a, b in zip(parts, again, strict=True))


def test_pathfinder_sets_from_easy_to_hard(tmp_path: Path) -> None:
    counts = ["--counts", "64", "4", "4", "--workers", "1"]
    prepare.main(["pathfinder", "--out", str(tmp_path), *counts])
    task = read_task(json.loads((tmp_path / "task.json").read_text()))
    lit = []
    parts = (("4", 64), ("6", 64), ("9", 64), ("14", 64), ("train", 64), ("valid", 4), ("test", 4))
    for part, count in parts:
        samples = load_labelled([tmp_path / f"{part}.npz"], None, task, 256)
        assert samples.count == count and set(samples.lengths.tolist()) == {1024}
        lit.append(float((samples.tokens % pathfinder.LEVELS > 0).mean()))
    assert lit[:4] == sorted(lit[:4])
    with np.load(tmp_path / "14.npz") as easier, np.load(tmp_path / "train.npz") as train:
        assert not np.array_equal(easier["tokens"], train["tokens"])
        lit_tokens = easier["tokens"].reshape(64, 1024) % pathfinder.LEVELS > 0
        assert ((easier["traces"] > 0) != lit_tokens).mean() < 1e-3  # but where rounding decides


def test_one_command_makes_the_data_trains_and_prunes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prepare.COUNTS, "pathfinder", (64, 8, 8))
    sizes = ["--d-model", "8", "--n-layer", "1", "--batch", "4", "--steps", "6", "--checks", "2"]
    sizes += ["--prune-steps", "2", "--sparsities", "70"]
    command = ["pathfinder", "--data", str(tmp_path / "data"), "--out", str(tmp_path), *sizes]
    train.main(command)
    found = json.loads((tmp_path / "pathfinder-s0.json").read_text())
    assert set(found) == {"dense", "70"} and found["dense"]["steps"] == 6
    assert found["70"]["sparsity"]["prunable"] == pytest.approx(0.7, abs=0.01)
    made = (tmp_path / "data" / "train.npz").stat().st_mtime_ns
    train.main(command)
    assert (tmp_path / "data" / "train.npz").stat().st_mtime_ns == made
    assert json.loads((tmp_path / "pathfinder-s0.json").read_text()) == found


def test_ett_parts_and_linear_baseline(tmp_path: Path) -> None:
    """A series that is linear in its past: the baseline finds it; the parts are 12, 4, 4 months."""
    steps = 20 * 30 * 24
    t = np.arange(steps)
    values = np.stack([np.sin(t / 7), 5 + 2 * np.cos(t / 11)], 1)
    rows = [f"{i},{a!r},{b!r}" for i, (a, b) in enumerate(values.tolist())]
    (tmp_path / "ETTh1.csv").write_text("date,HUFL,OT\n" + "\n".join(rows))
    series = ett.read_series(tmp_path, "ETTh1")
    lengths = [len(series.raw[part]) for part in ett.PARTS]
    assert lengths == [8640, 2880 + 96, 2880 + 96]
    task = series.task(ett.SETTINGS["ETTh1"])
    assert series.windows("test", task).count == 2880 - 96 + 1
    assert np.allclose(series.windows("train", task).values.mean(0), 0, atol=1e-5)
    assert ett.linear_baseline(series, task)["mse"] < 1e-2
    (tmp_path / "ETTh1.csv").write_text("date,OT\n1,1\n2,2\n")
    with pytest.raises(BadInputError, match="expected 14,400 rows; got 2"):
        ett.read_series(tmp_path, "ETTh1")
