"""The whole flow for every family beside Mamba-1, from a checkpoint to the report; on arm64 too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from families import HUGGING_FACE, MAMBA_SSM
from report_schema import SCHEMA
from ssmpress import validate
from ssmpress.blocks.config import ModelConfig
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.machine import get_library_path
from ssmpress.pipeline import compress
from ssmpress.recipe.settings.deploy import Target
from ssmpress.runtime.loading import open_session
from target_bundle import require_emulator
from tiny_run import tiny_recipe

WORDS = 1024
"""The vocabulary of the demo's tokenizer."""
FAMILIES = {
    "mamba2": (HUGGING_FACE["mamba2"], "huggingface"),
    "granite": (HUGGING_FACE["granite"], "huggingface"),
    "nemotron_h": (HUGGING_FACE["nemotron_h"], "huggingface"),
    "falcon_h1": (HUGGING_FACE["falcon_h1"], "huggingface"),
    "jamba": (HUGGING_FACE["jamba"], "huggingface"),
    "mamba-ssm hybrid": (MAMBA_SSM["hybrid, rope"], "mamba-ssm"),
}


def sized(config: ModelConfig) -> ModelConfig:
    return replace(config, vocab_size=WORDS)


@pytest.mark.parametrize(
    "name",
    [
        "mamba2",
        "granite",
        "nemotron_h",
        "falcon_h1",
        pytest.param("jamba", marks=pytest.mark.slow),
        pytest.param("mamba-ssm hybrid", marks=pytest.mark.slow),
    ],
)
def test_from_checkpoint_to_report(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned, recovered and saved in the layout that it came in; nothing is timed."""
    monkeypatch.setattr(validate, "measure_latency", lambda *_: {})
    config, layout = FAMILIES[name]
    recipe = tiny_recipe(tmp_path, sized(config), layout, save_checkpoint=tmp_path / "pruned")
    report = compress(recipe).report
    jsonschema.validate(report, SCHEMA)
    verify_manifest(recipe.out)
    assert report["parity"]["ok"] and report["recovery"]["steps"] == 3
    pruned = read_checkpoint(tmp_path / "pruned" / layout)
    assert pruned.config == sized(config)
    assert report["sparsity"]["prunable"] == pytest.approx(0.7, abs=0.01)
    session = open_session(recipe.out / "model.onnx", threads=1, library=get_library_path())
    logits, _ = session.predict([[1, 2, 3]])
    assert logits.shape == (1, 3, WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("mamba2", "granite", "falcon_h1", "mamba-ssm hybrid"))
def test_arm64_computes_the_same(name: str, tmp_path: Path) -> None:
    require_emulator()
    config, layout = FAMILIES[name]
    report = compress(tiny_recipe(tmp_path, sized(config), layout, target=Target.ARM64)).report
    (device,) = report["devices"]
    assert device["parity"]["ok"] and device["sample"]["difference"] <= 1e-3
    assert device["instructions"]["ratio"]["total"] > 0
