"""A weight that fp16 cannot hold: its matrix is float32 and named, the others are fp16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssmpress.formats import Values
from ssmpress.parity import check_parity
from ssmpress.prune.recover import PruneResult
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.stages.bundle import Dense, export_bundle
from ssmpress.stages.packed import pack_weights, packing_note
from ssmpress.stages.pruned import Pruned
from ssmpress.stages.source import load
from tiny_run import tiny_recipe

EMBEDDING = "backbone.embedding.weight"
OUT = "backbone.layers.0.mixer.out_proj.weight"


@pytest.mark.parametrize("name", [EMBEDDING, OUT])
@pytest.mark.parametrize(("largest", "values"), [(65504.0, Values.FP16), (-65505.0, Values.FP32)])
def test_only_the_matrix_of_a_large_weight_is_float32(
    tmp_path: Path, name: str, largest: float, values: Values
) -> None:
    recipe = tiny_recipe(tmp_path, pack=PackSettings(Values.FP16), recover=RecoverSettings(steps=0))
    source = load(recipe)
    tensors = {key: tensor.clone() for key, tensor in source.checkpoint.tensors.items()}
    tensors[name][1, 2] = largest
    tensors[OUT][:, ::3] = 0
    pruned = Pruned(tensors, PruneResult((), 0.0, 0, 0, "cpu"))
    packed = pack_weights(recipe, source, pruned)
    found = {key: matrix.format.values for key, matrix in packed.matrices.items()}
    assert found == {key: values if key == name else Values.FP16 for key in found}
    note = packing_note(packed)
    told = f"{name} is kept in float32: a weight of 65505 is beyond fp16, which ends at 65,504"
    assert (told in note) == (values is Values.FP32)
    (tmp_path / "bundle").mkdir()
    dense = Dense(tmp_path / "none")
    bundle = export_bundle(source, dense, packed, tmp_path / "bundle")
    assert check_parity(source, packed, bundle, recipe).ok
    assert torch.equal(tensors[name], pruned.tensors[name])
