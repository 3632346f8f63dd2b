"""The cost of an error of the head: its terms by their definition, and what it saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import draw_tokens, random_checkpoint, small_config
from paths import DEMO
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.data.default_text import default_text
from ssmpress.data.tokenizer import encode, load_tokenizer
from ssmpress.data.tokens import cut_windows
from ssmpress.formats import Values
from ssmpress.graph.export import export
from ssmpress.pack.head_error import frequent_tokens, head_hessian
from ssmpress.pack.layouts import int4
from ssmpress.pack.matrix import pack_as, unpack
from ssmpress.pack.model import PackedModel
from ssmpress.parity import reference_model
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.pack import Head, PackSettings
from ssmpress.results.run import TextUse
from ssmpress.runtime.loading import open_session
from ssmpress.stages.packed import correct_rows, pack_weights
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import Source


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with a head of its own."""
    tensors = dict(checkpoint.tensors) | {LM_HEAD: checkpoint.tensors[EMBEDDING].clone()}
    config = replace(checkpoint.config, tie_embeddings=False)
    return replace(checkpoint, config=config, tensors=tensors)


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Calibration tokens and evaluation windows (4, 256) of the default text."""
    tokenizer = load_tokenizer(DEMO / "tokenizer.json")
    first, second = (encode(tokenizer, t, vocab_size=1024) for t in default_text())
    return first[:3000], cut_windows(second, 256)[:4]


def test_both_terms_by_their_definition() -> None:
    checkpoint = read_checkpoint(DEMO)
    tokens = np.random.default_rng(0).integers(0, 40, 100).astype(np.int32)  # many come again
    tied = head_hessian(Mamba.from_checkpoint(checkpoint), tokens, seed=0)
    head = head_hessian(Mamba.from_checkpoint(untied(checkpoint)), tokens, seed=0)

    model = Mamba.from_checkpoint(untied(checkpoint))
    ids = torch.from_numpy(tokens.astype(np.int64))
    x = model.hidden(ids[None, :-1])[0]
    expected = np.zeros_like(head)
    for row in x.detach().double():
        p = (model.lm_head.weight.detach().double() @ row).softmax(0)
        expected += float(1 - (p * p).sum()) * torch.outer(row, row).numpy() / 99
    np.testing.assert_allclose(head, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

    F.cross_entropy(model.lm_head(x), ids[1:], reduction="sum").backward()
    g = model.backbone.embedding.weight.grad.double().numpy()
    expected = g.T @ g / 99
    np.testing.assert_allclose(tied - head, expected, atol=2e-3 * np.abs(expected).max())


def test_predicts_the_divergence_of_a_wrong_head() -> None:
    """1/2 sum_i f_i e_i H e_i^T, for errors alike in all rows: 1/2 variance trace(H)."""
    checkpoint, (text, windows) = untied(read_checkpoint(DEMO)), texts()
    deviation = 0.01 * float(checkpoint.tensors[LM_HEAD].std())
    hessian = head_hessian(Mamba.from_checkpoint(checkpoint), text, seed=0)
    noise = torch.randn(checkpoint.tensors[LM_HEAD].shape, generator=torch.manual_seed(0))
    wrong = dict(checkpoint.tensors)
    wrong[LM_HEAD] = wrong[LM_HEAD] + deviation * noise
    measured = divergence(checkpoint, replace(checkpoint, tensors=wrong), windows)
    predicted = deviation**2 * float(np.trace(hessian)) / 2
    assert 0.7 < measured / predicted < 1.4


def divergence(right: Checkpoint, other: Checkpoint, windows: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence per token, in nats."""
    ids = torch.from_numpy(windows.astype(np.int64))
    with torch.no_grad():
        p, q = (
            Mamba.from_checkpoint(c).logits(ids).double().log_softmax(-1) for c in (right, other)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())


def packed_model(calibration: np.ndarray, told: list[str]) -> PackedModel:
    """The whole stage on the unpruned demo model."""
    checkpoint = read_checkpoint(DEMO)
    use = TextUse((), default_text=True, tokens=len(calibration))
    source = Source(checkpoint, None, calibration, np.zeros((1, 8), np.int32), use, use)
    recipe = Recipe(model=DEMO, out=DEMO, pack=PackSettings(Values.INT8), threads=1)
    result = PruneResult((), 0.0, 0, 0, "cpu")
    pruned = Pruned(checkpoint.tensors, result)
    packed = pack_weights(recipe, source, pruned, lambda what, *_: told.append(what))
    assert packed.matrices[EMBEDDING].format.values is Values.INT4
    return packed


def test_the_stage_rounds_the_head_by_the_calibration_text() -> None:
    """On text that it has not seen, both uses of the matrix together diverge less: 0.90 as much as
    with the rounding to the nearest, 1.0 if the stage did not look at the text; and about half as
    much with the errors of the frequent rows."""
    checkpoint, (text, windows) = read_checkpoint(DEMO), texts()
    told: list[str] = []
    packed, again = packed_model(text, told), packed_model(text, [])
    matrix = packed.matrices[EMBEDDING]
    assert {"head's error", "rounding the head"} == set(told)
    for name, section in matrix.sections.items():
        np.testing.assert_array_equal(section, again.matrices[EMBEDDING].sections[name])

    def cost(embedding: np.ndarray) -> float:
        tensors = dict(checkpoint.tensors) | {EMBEDDING: torch.from_numpy(embedding)}
        return divergence(checkpoint, replace(checkpoint, tensors=tensors), windows)

    weight = checkpoint.tensors[EMBEDDING].numpy()
    rounded = int4.round_weights(weight)
    nearest = pack_as(int4.Int4(lambda _: rounded), weight, weight != 0)
    assert cost(unpack(matrix)) < 0.95 * cost(unpack(nearest))
    corrected = reference_model(packed).backbone.embedding.weight.detach().numpy()
    assert cost(corrected) < 0.8 * cost(unpack(matrix))
    changed = np.nonzero((corrected != unpack(matrix)).any(1))[0]
    assert packed.frequent is not None
    np.testing.assert_array_equal(changed, packed.frequent.ids)
    largest = np.abs(weight - unpack(matrix))[changed].max(1, keepdims=True)
    assert (np.abs(corrected - weight)[changed] <= largest / 200).all()


def test_without_text_the_head_is_rounded_to_the_nearest() -> None:
    told: list[str] = []
    packed = packed_model(np.zeros(0, np.int32), told)
    weight = read_checkpoint(DEMO).tensors[EMBEDDING].numpy()
    for name, section in int4.pack(int4.round_weights(weight)).items():
        np.testing.assert_array_equal(section, packed.matrices[EMBEDDING].sections[name])
    assert packed.frequent is None
    assert not told


def test_frequent_tokens() -> None:
    text = np.array([5, 5, 5, 9, 9, 31, 31, 2, 3, 4], np.int32)
    assert frequent_tokens(text, 32).tolist() == [5, 9]
    assert frequent_tokens(text, 48).tolist() == [5, 9, 31]
    assert frequent_tokens(text[:3], 32).tolist() == [5]
    assert frequent_tokens(text, 8 + 32).tolist() == [5, 9]
    assert frequent_tokens(text[7:], 33).tolist() == [2, 3]  # of as many, the first


@pytest.mark.parametrize("tied", [True, False])
def test_corrected_rows_in_the_graph(tied: bool, library: Path, tmp_path: Path) -> None:
    """Head and embedding, with the op library and without, at all positions and at some."""
    config = small_config(tie_embeddings=tied, vocab_size=70)
    checkpoint = random_checkpoint(config)
    recipe = Recipe(model=DEMO, out=DEMO, pack=PackSettings(Values.FP32, Head.INT4))
    use, text = TextUse((), False, 0), np.zeros(0, np.int32)
    source = Source(checkpoint, None, text, text.reshape(0, 0), use, use)
    result = PruneResult((), 0.0, 0, 0, "cpu")
    plain = pack_weights(recipe, source, Pruned(checkpoint.tensors, result))
    rows = np.array([69, 0, 7, 33])
    packed = correct_rows(plain, checkpoint.tensors[plain.head_name].numpy(), rows)
    assert packed.frequent is not None
    assert packed.nbytes == plain.nbytes + packed.frequent.errors.nbytes + 2 * 70
    path = export(packed, tmp_path / "model.onnx")[0]
    assert sum(f.stat().st_size for f in (path,)) > packed.nbytes
    tokens = draw_tokens(config, 2, 24)
    tokens[:, :8] = torch.tensor([0, 69, 7, 33, 1, 68, 7, 0])
    with torch.no_grad():
        wanted = reference_model(packed)(tokens)[0].numpy()
        without = reference_model(plain)(tokens)[0].numpy()
    scale = np.abs(wanted).max()
    assert np.abs(wanted - without)[..., rows].max() > 0.003 * scale
    for ops_library in (library, None):
        session = open_session(path, threads=1, library=ops_library)
        got, _ = session.predict(tokens.numpy())
        assert np.abs(got - wanted).max() <= 2e-3 * scale, ops_library
        last, _ = session.prefill(tokens.numpy(), None, np.array([3, 23]))
        assert np.abs(last - wanted[:, [3, 23]]).max() <= 2e-3 * scale
