"""Files and folders with weights: safetensors, .npz, parts, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ssmpress.nets.weights import read_weights_for
from weight_checks import Bomb, Net, refusal, same, saved, trained


def test_safetensors_without_the_second_name_of_a_tied_tensor(tmp_path: Path) -> None:
    state = trained()
    for left_out in ("head.weight", "tied.weight"):
        kept = {n: t.contiguous() for n, t in state.items() if n != left_out}
        save_file(kept, tmp_path / "model.safetensors")
        for path in (tmp_path, tmp_path / "model.safetensors"):
            same(read_weights_for(path, Net())[0], state)


def test_arrays_of_numpy(tmp_path: Path) -> None:
    state = trained()
    path = tmp_path / "weights.npz"
    np.savez(path, **{n.replace(".", "/"): t.numpy() for n, t in state.items()})
    same(read_weights_for(path, Net())[0], state)
    np.savez(
        path, **{n: t.numpy().astype(">f8") for n, t in state.items()} | {"order": [0, 1, 2, 3]}
    )
    same(read_weights_for(tmp_path, Net())[0], state)


def test_pickles_in_arrays_of_numpy_are_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.npz", tmp_path / "touched"
    np.savez(path, weight=np.array([Bomb(marker)], dtype=object))
    assert "got: an array of Python objects, which only a pickle can hold. Write it" in refusal(
        path
    )
    assert not marker.exists()
    np.savez(path, weight=np.array(["text"]))
    assert "weight: expected an array of numbers; got <U4." in refusal(path)


def test_parts_of_a_folder(tmp_path: Path) -> None:
    state = trained()
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in shards.items():
        save_file({f"model.{n}": state[n].clone() for n in own}, tmp_path / file)
    places = {f"model.{name}": file for file, own in shards.items() for name in own}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    same(read_weights_for(tmp_path, Net())[0], state)
    first = tmp_path / next(iter(shards))
    assert refusal(first).endswith(f"got one part of several. Give the folder: {tmp_path}.")
    index.write_text(json.dumps({"weight_map": places | {"model.more": first.name}}))
    assert "model.more: expected this tensor here, the index says so; got none" in refusal(tmp_path)


def test_a_folder_with_several_files_or_none(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: expected one file of weights in it; got none."
    for name in ("a.ckpt", "b.ckpt"):
        saved(trained(), tmp_path, name)
    assert refusal(tmp_path) == (
        f"{tmp_path}: expected one file of weights in it; got a.ckpt, b.ckpt. Give the file "
        f"itself, such as {tmp_path / 'a.ckpt'}."
    )


def test_what_a_training_loop_writes_beside_the_weights(tmp_path: Path) -> None:
    saved(trained(), tmp_path, "best.pth.tar")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        saved({"state": torch.ones(1)}, tmp_path, name)
    same(read_weights_for(tmp_path, Net())[0], trained())


def test_no_weights_at_all(tmp_path: Path) -> None:
    assert "got: No such file or directory" in refusal(tmp_path / "none.pt")
    assert "expected tensors by name" in refusal(saved({"epoch": 3}, tmp_path))
