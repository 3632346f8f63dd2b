"""A FalconMamba from Hugging Face's folder to a bundle that ssmrun runs, and its report."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

import ssmrun_bundle as sb
import tolerances
from falcon_mamba import falcon_checkpoint, reference
from paths import DEMO
from report_schema import SCHEMA
from ssmpress import compress
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.plan import make_plan
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.runtime.loading import open_session
from tiny_run import tiny_recipe


def falcon_recipe(folder: Path) -> Recipe:
    """Wanda at 60 %, three steps of recovery, float32; the model is as transformers saves it."""
    checkpoint = falcon_checkpoint(vocab_size=1024, dbc_norm_eps=1e-3)
    reference(checkpoint).save_pretrained(folder / "falcon")
    (folder / "falcon" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    prune = PruneSettings(
        sparsity=0.6,
        method=Method.WANDA,
        scope=Scope.LAYER,
        calibration_batches=1,
        calibration_window=16,
    )
    return tiny_recipe(
        folder,
        model=folder / "falcon",
        prune=prune,
        pack=PackSettings(values="fp32"),
        save_checkpoint=folder / "saved",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, dict]:
    recipe = falcon_recipe(tmp_path_factory.mktemp("falcon"))
    return recipe, compress(recipe).report


def test_the_report_says_what_it_is(run: tuple[Recipe, dict]) -> None:
    recipe, report = run
    jsonschema.validate(report, SCHEMA)
    assert report["parity"]["ok"]
    assert report["sparsity"]["prunable"] == pytest.approx(0.6, abs=0.01)
    architecture = report["model"]["architecture"]
    assert (architecture["name"], architecture["assumed"]) == ("FalconMamba", False)
    mixers = [layer["mixer"] for layer in report["model"]["config"]["layers"]]
    assert [mixer["dbc_norm_eps"] for mixer in mixers] == [1e-3, 1e-3]
    assert "Architecture: FalconMamba, since config.json has model_type 'falcon_mamba'" in (
        recipe.out / "report.md"
    ).read_text().replace("\\_", "_")


def test_the_plan_says_it_too(run: tuple[Recipe, dict]) -> None:
    assert make_plan(run[0]).model.startswith("FalconMamba: d_model 20, 2 layers (d_state 5, ")


def test_ssmrun_and_pytorch_compute_the_same(run: tuple[Recipe, dict], library: Path) -> None:
    """The pruned checkpoint that was saved, and the bundle on the device's runner."""
    recipe, _ = run
    saved = read_checkpoint(recipe.out.parent / "saved" / "huggingface")
    assert not (recipe.out.parent / "saved" / "mamba-ssm").exists()
    ids = np.random.default_rng(3).integers(0, 1024, 24)
    session = open_session(recipe.out / "model.onnx", threads=1, library=library)
    with torch.no_grad():
        pruned = Mamba.from_checkpoint(saved)(torch.from_numpy(ids[None]))[0][0].numpy()
    with sb.Worker(recipe.out) as worker:
        worker.ask("load", threads=1)
        got = sb.array(worker.ask("logits", tokens=ids.tolist(), prefill=10), "logits")
        tokens = worker.ask("generate", tokens=ids.tolist(), max_tokens=5)["tokens"]
    scale = float(np.abs(pruned).max())
    assert np.abs(got - session.predict(ids[None])[0][0]).max() <= 1e-4 * scale
    assert np.abs(got - pruned).max() <= tolerances.GRAPH_FLOAT32 * scale
    assert tokens == list(session.generate(ids, 5))
