"""A packed model's graph, in ONNX Runtime and in ssmrun, against the definition of its blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import ssmrun_bundle as sb
import tolerances
from conftest import draw_tokens
from ssmpress.blocks.tensors import weights_of
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.pack.model import PackedModel, pack_model
from ssmpress.parity import reference_model
from ssmpress.prune.mask import prunable_names
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import PROJECTIONS
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.state import State
from tolerances import assert_close


def half_pruned(checkpoint: Checkpoint, values: Values) -> PackedModel:
    """Half of the projections' weights pruned at random, and packed."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(checkpoint.tensors)
    for name in prunable_names(weights_of(checkpoint.config), PROJECTIONS):
        tensors[name] = tensors[name] * (torch.rand(tensors[name].shape, generator=generator) > 0.5)
    return pack_model(checkpoint.config, tensors, PackSettings(values=values))


def check_graph(source: PackedModel, library: Path, folder: Path) -> list[State]:
    """The graph's logits of 2 texts of 15 tokens: prefill, steps, and text in pieces.

    Returns:
        The states after the texts, with the op library and without.
    """
    path = export(source, folder / "m.onnx")[0]
    tokens = draw_tokens(source.config, 2, 15).numpy()
    with torch.no_grad():
        expected = reference_model(source)(torch.from_numpy(tokens))[0].numpy()
    int8 = any(m.format.values.quantizes_activations for m in source.matrices.values())
    bound = tolerances.INT8_GRAPH if int8 else tolerances.GRAPH_FLOAT32
    states = []
    for runtime in (library, None):
        session = open_session(path, threads=1, library=runtime)
        first, state = session.predict(tokens[:, :7])
        rows = [first]
        for t in range(7, 11):
            row, state = session.step(tokens[:, t], state)
            rows.append(row[:, None])
        last, state = session.predict(tokens[:, 11:], state)
        got = np.concatenate([*rows, last], axis=1)
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max()
        states.append(state)
    return states


def check_ssmrun(source: PackedModel, ids: NDArray[np.int64], folder: Path, library: Path) -> None:
    """A bundle in the folder, which is new: ssmrun's logits and states, after a prefill of 9 tokens
    and what follows them, and the tokens that it generates are those of ONNX Runtime in Python."""
    bundle = sb.make_bundle(folder, source)
    session = open_session(bundle / "model.onnx", threads=1, library=library)
    expected, state = session.predict(ids[None])
    with sb.Worker(bundle) as worker:
        worker.ask("load", threads=1)
        got = worker.ask("logits", tokens=ids.tolist(), prefill=9, states=True)
        tokens = worker.ask("generate", tokens=ids.tolist(), max_tokens=6)["tokens"]
    assert tokens == list(session.generate(ids, 6))
    scale = float(np.abs(expected).max())
    assert np.abs(sb.array(got, "logits") - expected[0]).max() <= tolerances.GRAPH_FLOAT32 * scale
    for name, values in state.arrays().items():
        assert got["states"][name]["shape"] == list(values.shape)
        assert_close(sb.array(got["states"][name]), values, tolerances.CARRIED_STATE, name)
