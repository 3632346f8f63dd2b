"""The cost of an error of the head: its terms by their definition, and what it saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ssmpress import compact, data, int4, stages
from ssmpress.checkpoint import Checkpoint, read_checkpoint
from ssmpress.head_error import head_hessian
from ssmpress.layouts import EMBEDDING, LM_HEAD
from ssmpress.model import Mamba
from ssmpress.ops import Values
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe import PackSettings, Recipe
from ssmpress.report.results import TextUse

DEMO = Path(__file__).parents[1] / "toolchain" / "recipes" / "demo-model"


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with a head of its own."""
    tensors = dict(checkpoint.tensors) | {LM_HEAD: checkpoint.tensors[EMBEDDING].clone()}
    config = replace(checkpoint.config, tie_embeddings=False)
    return replace(checkpoint, config=config, tensors=tensors)


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Calibration tokens and evaluation windows (4, 256) of the default text."""
    tokenizer = data.load_tokenizer(DEMO / "tokenizer.json")
    first, second = (data.encode(tokenizer, t, vocab_size=1024) for t in data.default_text())
    return first[:3000], data.windows(second, 256)[:4]


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
        p, q = (Mamba.from_checkpoint(c).logits(ids).double().log_softmax(-1)
                for c in (right, other))  # fmt: skip
    return float((p.exp() * (p - q)).sum(-1).mean())


def packed_embedding(calibration: np.ndarray, told: list[str]) -> compact.PackedMatrix:
    """The whole stage on the unpruned demo model."""
    checkpoint = read_checkpoint(DEMO)
    use = TextUse((), default_text=True, tokens=len(calibration))
    source = stages.Source(checkpoint, None, calibration, np.zeros((1, 8), np.int32), use, use)
    recipe = Recipe(model=DEMO, out=DEMO, pack=PackSettings(Values.INT8), threads=1)
    result = PruneResult({}, (), 0.0, 0, 0, "cpu")
    pruned = stages.Pruned(checkpoint.tensors, result)
    packed = stages.compact(recipe, source, pruned, lambda what, *_: told.append(what))
    matrix = packed.matrices[EMBEDDING]
    assert matrix.format.values is Values.INT4
    return matrix


def test_the_stage_rounds_the_head_by_the_calibration_text() -> None:
    """On text that it has not seen, both uses of the matrix together diverge less: 0.90 as much as
    with the rounding to the nearest, 1.0 if the stage did not look at the text."""
    checkpoint, (text, windows) = read_checkpoint(DEMO), texts()
    told: list[str] = []
    matrix, again = packed_embedding(text, told), packed_embedding(text, [])
    assert {"head's error", "rounding the head"} == set(told)
    for name, section in matrix.sections.items():
        np.testing.assert_array_equal(section, again.sections[name])

    def cost(embedding: np.ndarray) -> float:
        tensors = dict(checkpoint.tensors) | {EMBEDDING: torch.from_numpy(embedding)}
        return divergence(checkpoint, replace(checkpoint, tensors=tensors), windows)

    weight = checkpoint.tensors[EMBEDDING].numpy()
    rounded = int4.round_weights(weight)
    nearest = compact.pack(weight, weight != 0, matrix.format, round_int4=lambda _: rounded)
    assert cost(compact.unpack(matrix)) < 0.95 * cost(compact.unpack(nearest))


def test_without_text_the_head_is_rounded_to_the_nearest() -> None:
    told: list[str] = []
    matrix = packed_embedding(np.zeros(0, np.int32), told)
    weight = read_checkpoint(DEMO).tensors[EMBEDDING].numpy()
    for name, section in int4.pack(int4.round_weights(weight)).items():
        np.testing.assert_array_equal(section, matrix.sections[name])
    assert not told
