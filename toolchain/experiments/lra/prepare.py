"""Make the data of a task: train.npz, valid.npz, test.npz and the tokenizer of its texts.

    PYTHONPATH=toolchain:toolchain/experiments python -m lra.prepare listops --out build/lra/listops
    PYTHONPATH=toolchain:toolchain/experiments python -m lra.prepare text --out build/lra/text \\
        --train imdb_train.jsonl.xz --test imdb_test.jsonl.xz
    PYTHONPATH=toolchain:toolchain/experiments python -m lra.prepare pathfinder \\
        --out build/lra/pathfinder

All processors work on it. The result depends on the seed and the counts alone.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from lra import archives, listops, pathfinder
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ssmpress.data.labelled import LabelledTexts, from_lists
from ssmpress.tasks import Classification

TASKS = {
    "listops": Classification(classes=listops.DIGITS, max_length=2000),
    "text": Classification(classes=archives.IMDB_CLASSES, max_length=4096),
    "pathfinder": Classification(classes=pathfinder.CLASSES, max_length=1024),
    "image": Classification(classes=archives.CIFAR_CLASSES, max_length=1024),
    "retrieval": Classification(classes=archives.RETRIEVAL_CLASSES, max_length=8001),
}
COUNTS = {"listops": (96_000, 2_000, 2_000), "pathfinder": (160_000, 20_000, 20_000)}
EASIER = (4, 6, 9, 14)  # dashes of the curves in the sets that Pathfinder's training begins with
EASIER_COUNT = 40_000  # images in each of them
SPLITS = ("train", "valid", "test")
_VALID_PART = 20  # of the texts that come without a validation part, one in so many
_EASIER_SEED = 1 << 20  # and on: other images than those of the task itself
_SHARDS = 64  # pieces of a generated set: fixed, so that the processors' number decides nothing


def byte_tokenizer() -> Tokenizer:
    """A token per byte, in the tokenizer.json format: byte-level BPE without a merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_tokens() -> NDArray[np.uint8]:
    """The token of each byte, uint8 (256,): what byte_tokenizer does, without its work."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # stand for themselves
    symbols = {byte: chr(byte) for byte in visible}
    others = [byte for byte in range(256) if byte not in symbols]
    symbols |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    places = {symbol: i for i, symbol in enumerate(sorted(symbols.values()))}
    return np.array([places[symbols[byte]] for byte in range(256)], np.uint8)


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A token per word of a text in which spaces separate them."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def tokenizer_of(task: str) -> Tokenizer:
    """The tokenizer of a task's texts; CIFAR's images are their pixels' grey values as words."""
    if task in ("text", "retrieval"):
        return byte_tokenizer()
    words = {"listops": listops.WORDS, "pathfinder": pathfinder.WORDS}
    return word_tokenizer(words.get(task) or list(map(str, range(256))))


def vocab_size(task: str) -> int:
    """Rows of the embedding."""
    return 16 if task == "listops" else 256


def of_bytes(pairs: Iterable[tuple[bytes, int]], max_length: int) -> LabelledTexts:
    """Samples of texts whose bytes are the tokens of byte_tokenizer."""
    table = byte_tokens()
    kept = [(table[np.frombuffer(text[:max_length], np.uint8)], label) for text, label in pairs]
    return from_lists([text for text, _ in kept], [label for _, label in kept], max_length)


def split_off(samples: LabelledTexts, seed: int) -> tuple[LabelledTexts, LabelledTexts]:
    """A training and a validation part, where the public set has no validation part."""
    order = np.random.default_rng(seed).permutation(samples.count)
    few = samples.count // _VALID_PART
    return _pick(samples, order[few:]), _pick(samples, order[:few])


def _pick(samples: LabelledTexts, numbers: NDArray[np.int64]) -> LabelledTexts:
    texts = [samples.text(i).astype(samples.tokens.dtype) for i in numbers]
    return from_lists(texts, samples.labels[numbers].tolist(), 1 << 30)


def make_listops(counts: Sequence[int], seed: int, workers: int) -> list[LabelledTexts]:
    """Trees, each once over all parts."""
    total = sum(counts)
    share = -(-total * 21 // (20 * _SHARDS))  # some trees come twice
    values: dict[bytes, int] = {}
    with ProcessPoolExecutor(workers) as pool:
        seeds = [seed * _SHARDS + shard for shard in range(_SHARDS)]
        drawn = pool.map(listops.generate, repeat(share), seeds)
        for shard in track(drawn, "trees", total=_SHARDS):
            values.update(shard)
    trees = list(values.items())[:total]
    assert len(trees) == total
    order = np.random.default_rng(seed).permutation(total)
    trees = [trees[i] for i in order]
    ends = np.cumsum(counts)
    parts = [trees[end - count : end] for count, end in zip(counts, ends, strict=True)]
    return [
        from_lists([np.frombuffer(t, np.uint8) for t, _ in part], [v for _, v in part], 2000)
        for part in parts
    ]


def make_pathfinder(counts: Sequence[int], seed: int, workers: int) -> list[LabelledTexts]:
    """Images, each with a seed of its own."""
    total = sum(counts)
    images, labels, _ = draw(total, range(seed * _SHARDS, (seed + 1) * _SHARDS), workers)
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(counts)
    numbers = [order[end - count : end] for count, end in zip(counts, ends, strict=True)]
    return [of_images(images[some], labels[some]) for some in numbers]


def make_easier(count: int, dashes: int, seed: int, workers: int) -> dict[str, Any]:
    """Arrays of a set that Pathfinder's training begins with, and each pixel's trace."""
    seeds = range(_EASIER_SEED + seed * _SHARDS, _EASIER_SEED + (seed + 1) * _SHARDS)
    images, labels, traces = draw(count, seeds, workers, dashes=dashes, traced=True)
    part = of_images(images, labels)
    return {**arrays(part), "traces": traces}


def draw(
    count: int, seeds: Sequence[int], workers: int, **options: Any
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw `count` images as tokens, their labels and their traces: a share from each seed."""
    generate = partial(pathfinder.generate, -(-count // len(seeds)), **options)
    with ProcessPoolExecutor(workers) as pool:
        pieces = list(track(pool.map(generate, seeds), "images", total=len(seeds)))
    images, labels, traces = (
        np.concatenate(arrays)[:count] for arrays in zip(*pieces, strict=True)
    )
    return pathfinder.tokens(images), labels, traces


def of_images(images: NDArray[np.uint8], labels: NDArray[Any]) -> LabelledTexts:
    """Samples of images as tokens (n, pixels)."""
    starts = np.arange(len(images) + 1, dtype=np.int64) * images.shape[1]
    return LabelledTexts(images.reshape(-1), starts, labels.astype(np.int64))


def read_parts(task: str, train: list[Path], test: list[Path], seed: int) -> list[LabelledTexts]:
    """The public files of text, image or retrieval."""

    def read(paths: list[Path]) -> LabelledTexts:
        if task == "image":
            parts = [archives.read_cifar(path) for path in paths]
            images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            return of_images(images, labels)
        reader = archives.read_imdb if task == "text" else archives.read_retrieval
        return of_bytes((pair for path in paths for pair in reader(path)), TASKS[task].max_length)

    return [*split_off(read(train), seed), read(test)]


def arrays(part: LabelledTexts) -> dict[str, Any]:
    """A part as the arrays of its file."""
    return {"tokens": part.tokens, "starts": part.starts, "labels": part.labels}


def write(task: str, parts: Sequence[LabelledTexts], out: Path) -> None:
    """One .npz per part, which `compress --calibration` and `--evaluation` read, and the rest."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_of(task).save(str(out / "tokenizer.json"))
    for name, part in zip(SPLITS, parts, strict=True):
        np.savez(out / f"{name}.npz", **arrays(part))
        lengths = part.lengths
        shares = np.bincount(part.labels, minlength=len(TASKS[task].classes)) / part.count
        print(
            f"{task} {name}: {part.count:,} texts of {lengths.min()} to {lengths.max()} tokens, "
            f"{lengths.mean():.0f} on the average; classes {np.round(shares, 3).tolist()}",
            flush=True,
        )
    (out / "task.json").write_text(json.dumps(TASKS[task].to_dict(), indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path, nargs="+", default=[], help="public files")
    parser.add_argument("--test", type=Path, nargs="+", default=[], help="public files")
    parser.add_argument("--counts", type=int, nargs=3, help="train, valid, test; generated tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)
    if arguments.task in COUNTS:
        counts = arguments.counts or COUNTS[arguments.task]
        if arguments.task == "listops":
            parts = make_listops(counts, arguments.seed, arguments.workers)
        else:
            parts = make_pathfinder(counts, arguments.seed, arguments.workers)
    elif arguments.train and arguments.test:
        parts = read_parts(arguments.task, arguments.train, arguments.test, arguments.seed)
    else:
        parser.error(f"{arguments.task}: give the public files with --train and --test")
    write(arguments.task, parts, arguments.out)
    for dashes in EASIER if arguments.task == "pathfinder" else ():
        count = min(EASIER_COUNT, parts[0].count)
        easier = make_easier(count, dashes, arguments.seed, arguments.workers)
        np.savez(arguments.out / f"{dashes}.npz", **easier)


if __name__ == "__main__":
    main()
