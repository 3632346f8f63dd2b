"""Masks: exact counts, ties, growth, patterns, budgets, denominators."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import small_config
from ssmpress.blocks.tensors import Weights, tensor_shapes, weights_of
from ssmpress.errors import UsageError
from ssmpress.prune import mask
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.schedule import cosine_factor, cubic_sparsity
from ssmpress.recipe.settings.prune import PROJECTIONS, Scope, SparsityOf

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


def scores_of(shapes: list[tuple[int, int]], seed: int, levels: int) -> dict[str, torch.Tensor]:
    """Few levels make many ties."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"m{i}": torch.randint(levels, shape, generator=generator).float()
        for i, shape in enumerate(shapes)
    }


def zeros(keep: dict[str, torch.Tensor]) -> int:
    return sum(int((~part).sum()) for part in keep.values())


@given(SHAPES, st.floats(0, 1), st.integers(0, 9), st.integers(1, 50), st.sampled_from(Scope))
def test_exact_number_of_zeros(
    shapes: list[tuple[int, int]], sparsity: float, seed: int, levels: int, scope: Scope
) -> None:
    scores = scores_of(shapes, seed, levels)
    keep = mask.keep_masks(scores, sparsity, scope)
    assert zeros(keep) == round(sparsity * sum(map(prod, shapes)))
    if scope is not Scope.GLOBAL:
        for name, part in keep.items():
            assert abs(int((~part).sum()) - sparsity * scores[name].numel()) < 1


@given(SHAPES, st.floats(0, 1), st.integers(0, 9))
def test_no_kept_score_is_below_a_pruned_one(
    shapes: list[tuple[int, int]], sparsity: float, seed: int
) -> None:
    scores = scores_of(shapes, seed, levels=7)
    keep = mask.keep_masks(scores, sparsity)
    kept = [s for name, score in scores.items() for s in score[keep[name]].tolist()]
    pruned = [s for name, score in scores.items() for s in score[~keep[name]].tolist()]
    assert not kept or not pruned or min(kept) >= max(pruned)


def test_of_equal_scores_the_first_go_first() -> None:
    equal = {"a": torch.ones(2, 3), "b": torch.ones(2, 2)}
    keep = mask.keep_masks(equal, 0.7)
    assert keep["a"].flatten().tolist() == [False] * 6
    assert keep["b"].flatten().tolist() == [False, True, True, True]


@given(SHAPES, st.lists(st.floats(0, 1), min_size=2, max_size=5), st.sampled_from(Scope))
def test_masks_only_grow(
    shapes: list[tuple[int, int]], sparsities: list[float], scope: Scope
) -> None:
    keep = {
        name: torch.ones_like(s, dtype=torch.bool) for name, s in scores_of(shapes, 0, 5).items()
    }
    for seed, sparsity in enumerate(sorted(sparsities)):
        tighter = mask.tighten(keep, scores_of(shapes, seed, 5), sparsity, scope)
        assert all(not bool((tighter[name] & ~keep[name]).any()) for name in keep)
        assert zeros(tighter) >= round(sparsity * sum(map(prod, shapes)))
        if scope is Scope.GLOBAL:
            assert zeros(tighter) == round(sparsity * sum(map(prod, shapes)))
        keep = tighter


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_must_be_finite(bad: float) -> None:
    scores = {"layer.x_proj.weight": torch.tensor([[1.0, bad]])}
    with pytest.raises(ValueError, match=r"layer\.x_proj\.weight: expected finite scores"):
        mask.keep_masks(scores, 0.5)
    with pytest.raises(ValueError, match="finite"):
        mask.tighten({"layer.x_proj.weight": torch.ones(1, 2, dtype=torch.bool)}, scores, 0.5)


def test_apply_masks_writes_plain_zeros() -> None:
    weights = {"w": torch.tensor([float("nan"), -1.0, 2.0])}
    mask.apply_masks(weights, {"w": torch.tensor([False, False, True])})
    assert weights["w"].tolist() == [0.0, 0.0, 2.0]
    assert not bool(torch.signbit(weights["w"]).any())


def test_names_are_in_the_checkpoints_order_and_tied_heads_count_once() -> None:
    tied = small_config()
    names = mask.prunable_names(weights_of(tied), ("out_proj", "in_proj", "lm_head", "embedding"))
    assert names[0] == "backbone.embedding.weight"
    assert len(names) == 1 + 2 * tied.n_layer
    assert list(names) == [name for name in tensor_shapes(tied) if name in names]
    untied = mask.prunable_names(weights_of(small_config(tie_embeddings=False)), ("lm_head",))
    assert untied == ("lm_head.weight",)


def test_a_log_is_refused() -> None:
    with pytest.raises(UsageError, match="A_log cannot be pruned"):
        mask.prunable_names(weights_of(small_config()), ("in_proj", "A_log"))
    with pytest.raises(UsageError, match="conv1d"):
        mask.prunable_names(weights_of(small_config()), ("conv1d",))


def test_sparsity_of_the_model_names_the_highest_possible() -> None:
    config = small_config()
    sizes = {name: prod(shape) for name, shape in tensor_shapes(config).items()}
    part = sum(sizes[name] for name in mask.prunable_names(weights_of(config), PROJECTIONS)) / sum(
        sizes.values()
    )
    found = mask.resolve_sparsity(weights_of(config), PROJECTIONS, 0.4, SparsityOf.MODEL)
    assert found == pytest.approx(0.4 / part)
    with pytest.raises(UsageError, match="highest possible is") as error:
        mask.resolve_sparsity(weights_of(config), PROJECTIONS, 0.95, SparsityOf.MODEL)
    highest = float(str(error.value).split("highest possible is ")[1].split()[0].rstrip("."))
    assert mask.resolve_sparsity(weights_of(config), PROJECTIONS, highest, SparsityOf.MODEL) <= 0.99


def test_summary_counts_zeros_of_prunable_weights_and_model() -> None:
    config = small_config()
    names = mask.prunable_names(weights_of(config), PROJECTIONS)
    keep = {name: torch.ones(tensor_shapes(config)[name], dtype=torch.bool) for name in names}
    keep["backbone.layers.1.mixer.x_proj.weight"][:] = False
    summary = mask.sparsity_summary(weights_of(config), keep)
    gone = keep["backbone.layers.1.mixer.x_proj.weight"].numel()
    total = sum(map(prod, tensor_shapes(config).values()))
    assert summary["by_component"]["x_proj"] == 0.5
    assert summary["by_layer"][0] == 0.0
    assert summary["matrix"][1] == {"in_proj": 0.0, "x_proj": 1.0, "dt_proj": 0.0, "out_proj": 0.0}
    assert summary["model"] == gone / total
    assert summary == mask.sparsity_summary(
        weights_of(config), {name: k.float() for name, k in keep.items()}
    )


def test_no_matrix_loses_more_than_the_limit() -> None:
    scores = {"low": torch.rand(20, 10) * 0.01, "high": torch.rand(40, 10)}
    free = mask.keep_masks(scores, 0.5)
    limited = mask.keep_masks(mask.protect(scores, 0.9), 0.5)
    assert int((~free["low"]).sum()) == 200
    assert int((~limited["low"]).sum()) == 180
    assert zeros(limited) == zeros(free) == 300


@given(SHAPES, st.floats(0, 0.99), st.lists(st.floats(0.1, 1), min_size=4, max_size=4))
def test_budgets_add_up(
    shapes: list[tuple[int, int]], sparsity: float, shares: list[float]
) -> None:
    sizes = list(map(prod, shapes))
    counts = mask.zero_counts(sizes, sparsity, shares[: len(sizes)])
    assert sum(counts) == round(sparsity * sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_blocks_go_as_one(r: int, c: int, rows: int, columns: int, sparsity: float) -> None:
    if r * c == 1:
        return
    pattern = Pattern.parse(f"block {r}x{c}")
    keep = mask.keep_masks({"w": torch.rand(rows * r, columns * c)}, sparsity, pattern=pattern)["w"]
    blocks = keep.reshape(rows, r, columns, c).transpose(1, 2).flatten(2)
    assert bool((blocks.all(-1) | ~blocks.any(-1)).all())
    assert int((~blocks.any(-1)).sum()) == round(sparsity * rows * columns)


@given(st.integers(2, 8), st.integers(1, 7), st.integers(0, 5))
def test_n_of_every_m_stay(group: int, keep: int, seed: int) -> None:
    keep = min(keep, group - 1)
    pattern = Pattern.parse(f"{keep}:{group}")
    scores = scores_of([(3, 2 * group)], seed, levels=4)
    found = mask.keep_masks(scores, 1 - keep / group, pattern=pattern)["m0"]
    assert bool((found.reshape(-1, group).sum(1) == keep).all())


@pytest.mark.parametrize(
    "text", ["block 1x1", "4:4", "0:4", "block 4", "2:", "dense", "block 999x1"]
)
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--pattern: expected unstructured"):
        Pattern.parse(text)


def test_patterns_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="no whole number of 4x1"):
        mask.keep_masks({"w": torch.rand(6, 4)}, 0.5, pattern=Pattern.parse("block 4x1"))
    pattern = Pattern.parse("2:4")
    assert pattern is not None
    with pytest.raises(UsageError, match=r"always has sparsity 0\.5; got --sparsity 0\.7"):
        pattern.check_sparsity(0.7)


def test_schedule() -> None:
    values = [cubic_sparsity(t, 0, 10, 0.7) for t in range(13)]
    assert values[0] == 0.0
    assert values[5] == pytest.approx(0.7 * (1 - 0.5**3))
    assert values[10:] == [0.7, 0.7, 0.7]
    assert values == sorted(values)
    assert cubic_sparsity(0, 0, 10, 0.9, initial=0.7) == 0.7
    rates = [cosine_factor(t, 100, 10, 0.02) for t in range(100)]
    assert max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.02)


def test_a_model_without_matrices_is_told_so() -> None:
    with pytest.raises(UsageError, match="with weights to prune, such as linear layers"):
        mask.prunable_names(Weights({}, {}, {}), PROJECTIONS)
