"""Texts of one token, the shortest there are, through the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import dense
import pytest
import torch
from lra.prepare import byte_tokenizer

from conftest import mamba1_config
from ssmpress import validate
from ssmpress.blocks.model import Mamba
from ssmpress.formats import Values
from ssmpress.pipeline import compress
from ssmpress.recipe.settings.recover import RecoverSettings
from ssmpress.tasks import Classification
from task_models import SIZES, recipe_of


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_classifier_of_single_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    for part, letters in (("train", "abcdefgh"), ("test", "ijklmnop")):
        rows = [{"text": letter, "label": ["x", "y"][i % 2]} for i, letter in enumerate(letters)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    task = Classification(classes=("x", "y"), pooling=pooling, max_length=4)
    model = Mamba(mamba1_config(vocab_size=256, task=task, **SIZES))
    dense.initialize(model)
    dense.save(model, tmp_path / "model", tmp_path / "tokenizer.json")
    recover = RecoverSettings(steps=2, checkpoint_seconds=1e9)
    report = compress(recipe_of(tmp_path, tmp_path / "out", Values.INT8, recover=recover)).report
    assert report["parity"]["ok"] and report["recovery"]["steps"] == 2
    assert report["recovery"]["tokens"] == 2 * 8
    assert report["quality"]["window"] == 1 and report["quality"]["windows"] == 8
