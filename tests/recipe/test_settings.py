"""Settings made in Python are checked as those of the command line are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ssmpress
from ssmpress.errors import BadInputError, UsageError
from ssmpress.formats import Values
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.recipe.settings.deploy import Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import CPU_SECONDS, RecoverSettings


def test_choices_given_as_text_are_the_choices_themselves():
    settings = PruneSettings(method="magnitude", scope="owl")  # type: ignore[arg-type]
    assert settings.method is Method.MAGNITUDE
    assert settings.scope is Scope.OWL
    assert PackSettings(values="fp16").values is Values.FP16  # type: ignore[arg-type]
    recipe = Recipe("model", "out", target="arm64")  # type: ignore[arg-type]
    assert (recipe.target, recipe.target.machine) == (Target.ARM64, "aarch64")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PruneSettings(method="magnitud"), "got 'magnitud'. Did you mean magnitude?"),
        (lambda: PruneSettings(sparsity_of="all"), "--sparsity-of: expected prunable or model"),
        (lambda: RecoverSettings(compute="tpu"), "--compute: expected auto, cpu or cuda"),
        (lambda: PackSettings(values="int5"), "--values: expected fp32, fp16, int8 or int4"),
        (lambda: PackSettings(head="fp16"), "--head: expected auto, int8 or int4"),
        (lambda: Recipe(Path("m"), Path("o"), target="arm"), "Did you mean arm64?"),
        (lambda: RecoverSettings(match_hidden=-1), "--match-hidden: expected 0 to 1e9; got -1."),
        (lambda: RecoverSettings(gpu_steps=0), "gpu_steps: expected at least 1; got 0."),
    ],
)
def test_what_is_no_choice_or_out_of_range_is_refused(build, message):
    with pytest.raises(UsageError) as caught:
        build()
    assert message in str(caught.value)


def test_paths_may_be_text_and_one_file_needs_no_tuple():
    recipe = Recipe(
        "model", "out", pruned="p", data=DataSettings(calibration="a", evaluation=["b"])
    )  # type: ignore[arg-type]
    assert recipe == Recipe(
        Path("model"),
        Path("out"),
        pruned=Path("p"),
        data=DataSettings(calibration=(Path("a"),), evaluation=(Path("b"),)),
    )
    with pytest.raises(BadInputError, match="nowhere: expected a JSON file"):
        ssmpress.read_report("nowhere")
    with pytest.raises(BadInputError, match=r"nowhere/manifest\.json: expected"):
        ssmpress.verify_manifest("nowhere")


def test_limits_as_text(tmp_path: Path) -> None:
    """A policy's spelling is taken in Python too."""
    settings = GateSettings(min_retention="0.9", max_decode_ms=" 1.05x", baseline=tmp_path)
    assert settings.limits() == {"min_retention": 0.9, "max_decode_ms": Relative(1.05)}
    with pytest.raises(UsageError, match=r"max_rss_bytes: expected a number, or a multiple"):
        GateSettings(max_rss_bytes="many")
    with pytest.raises(UsageError, match=r"a report\.json that max_decode_ms = 1\.05x refers"):
        GateSettings(max_decode_ms="1.05x")


@pytest.mark.parametrize(
    ("limits", "quality"),
    [
        ({}, 0.95),
        ({"min_retention": None}, None),
        ({"min_retention": 0}, None),
        ({"min_retention": 0.9, "max_perplexity_increase": 0.02}, 1 / 1.02),
        ({"min_retention": 0.99, "max_perplexity_increase": 0.02}, 0.99),
        ({"min_retention": Relative(1.0), "baseline": Path("b")}, None),
    ],
)
def test_the_quality_that_recovery_ends_by(limits: dict[str, Any], quality: float | None) -> None:
    assert GateSettings(**limits).quality() == quality


def test_a_recovery_has_steps_or_a_ceiling() -> None:
    assert RecoverSettings().ceiling(cuda=False) == CPU_SECONDS
    assert RecoverSettings().ceiling(cuda=True) is None
    assert RecoverSettings(steps=9).ceiling(cuda=False) is None
    for cuda in (False, True):
        assert RecoverSettings(seconds=30).ceiling(cuda) == 30
    for steps, written in ((0, "none"), (9, "9")):
        text = f"--recover-seconds: expected --recover auto beside it, .*; got --recover {written}"
        with pytest.raises(UsageError, match=text):
            RecoverSettings(steps=steps, seconds=30)
