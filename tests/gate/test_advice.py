"""What would help: only what the recipe has left to change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import example_report as example
from ssmpress.gate.advice import for_quality, for_size_or_time
from ssmpress.gate.rules import ALL_RULES
from ssmpress.recipe.settings.prune import MAX_SPARSITY

RECIPES = st.fixed_dictionaries(
    {
        "pruned": st.sampled_from([None, "pruned.pt"]),
        "prune": st.fixed_dictionaries(
            {"sparsity": st.sampled_from([0, 0.0, 0.5, MAX_SPARSITY, None, "0"])}
        ),
        "recover": st.fixed_dictionaries({"steps": st.sampled_from([None, 0, 100])}),
        "pack": st.fixed_dictionaries(
            {"values": st.sampled_from(["fp32", "fp16", "int8", "int4", None])}
        ),
    }
)


REPORT = example.report()


def of(recipe: dict[str, Any], device: str = "host") -> dict[str, Any]:
    """A report of a recipe with these settings."""
    latency = REPORT["latency"] | {"device": device}
    return REPORT | {"recipe": REPORT["recipe"] | recipe, "latency": latency}


@given(recipe=RECIPES)
def test_no_way_leads_where_the_recipe_is_already(recipe: dict[str, Any]) -> None:
    sparsity, values = recipe["prune"]["sparsity"], recipe["pack"]["values"]
    quality = for_quality(of(recipe))
    others = [for_size_or_time(of(recipe), rule) for rule in ALL_RULES]
    if sparsity == 0 or recipe["pruned"]:
        assert "lower --sparsity" not in quality
    if sparsity == MAX_SPARSITY or recipe["pruned"]:
        assert not [text for text in others if "higher --sparsity" in text]
    if recipe["pruned"]:
        assert "--recover" not in quality
    if recipe["recover"]["steps"] == 0:
        assert "longer" not in quality
    assert ("--values" in quality) == (values != "fp32")
    assert all(("--values" in text) == (values != "int8") for text in others)
    for text in (quality, *others):
        assert not text or (text.startswith("What helps: ") and text.endswith(".")), text
        assert ", ." not in text and "  " not in text


def test_nothing_pruned_and_nothing_rounded_has_no_advice() -> None:
    recipe = {"prune": {"sparsity": 0.0}, "pack": {"values": "fp32"}, "recover": {"steps": 0}}
    assert for_quality(of({"pruned": None, **recipe})) == ""


@pytest.mark.parametrize(
    ("device", "option"), [("host", "more --threads"), ("ssh://pi", "more --device-threads")]
)
def test_threads_are_those_of_where_it_was_measured(device: str, option: str) -> None:
    rule = next(rule for rule in ALL_RULES if rule.samples is not None)
    assert option in for_size_or_time(of({}, device), rule)
