"""A report with known numbers, for the tests of the gate and of the renderings."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmpress.gate.judge import judge
from ssmpress.measure.metrics import (
    parity,
    percentiles,
    retention,
    retention_interval,
)
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.schema import build_report, with_verdict
from ssmpress.results.measured import Measurement, Round
from ssmpress.results.quality import Guess, LanguageModelQuality, Quality, TaskQuality
from ssmpress.results.run import Results, TextUse
from ssmpress.results.sizes import Matrix, Size
from ssmpress.tasks import Classification
from ssmpress.tasks.confusion import answers
from ssmpress.tasks.guess import class_guess

PROMPT = 64
CHARTS = ("quality", "size", "memory", "decode", "prefill", "samples", "sparsity", "formats")


def quality_of(perplexity: float, windows: int = 10, window: int = 101) -> LanguageModelQuality:
    """Every window with the same mean."""
    per_window = float(np.log(perplexity)) * (window - 1)
    sums = (per_window,) * windows
    return LanguageModelQuality(perplexity, sum(sums), windows * (window - 1), window, sums)


def measurement(
    decode_ms: float, *, spread: float = 0.02, rounds: int = 10, seed: int = 0, drift: float = 0.0
) -> Measurement:
    """Samples around a median; drift: how far whole rounds stray, the same for one seed."""
    random = np.random.default_rng(seed)
    machine = 1 + drift * np.random.default_rng(99).normal(size=rounds + 1)
    turns = []
    for i in range(rounds + 1):
        factor = machine[i] * (1 + spread * random.normal(size=32))
        samples = tuple(float(value) for value in decode_ms * np.abs(factor))
        turns.append(Round(4 * decode_ms * float(machine[i]), samples, warmup=i == 0))
    counted = turns[1:]
    return Measurement(
        prompt_tokens=PROMPT,
        threads=1,
        rounds=tuple(turns),
        prefill=percentiles([t.prefill_ms for t in counted], tokens=PROMPT),
        decode=percentiles([s for t in counted for s in t.decode_ms]),
        load_cold_ms=30.0,
        load_warm_ms=20.0,
        runtime_rss_bytes=50 << 20,
        peak_rss_bytes=90 << 20,
    )


def classifier_report(dense: list[list[int]], compressed: list[list[int]]) -> dict[str, Any]:
    """The report of a classifier of ham and spam with these confusion matrices, and its guess."""
    rows = []
    for table in (dense, compressed):
        scores = [float(i == j) for i in (0, 1) for j in (0, 1) for _ in range(table[i][j])]
        chosen = tuple(j for i in (0, 1) for j in (0, 1) for _ in range(table[i][j]))
        rows.append(TaskQuality(float(np.mean(scores)), tuple(scores), 40, len(scores), {}, chosen))
    labels = np.repeat([0, 1], [sum(row) for row in dense])
    names = ("ham", "spam")
    classes = {
        "names": list(names),
        "texts": np.bincount(labels, minlength=2).tolist(),
        "dense": answers(labels, rows[0].chosen, 2),
        "compressed": answers(labels, rows[1].chosen, 2),
    }
    ((how, guess),) = class_guess(labels, 40).items()
    quality = Quality(
        rows[0],
        rows[1],
        retention(*rows, Classification.metric),
        retention_interval(*rows, Classification.metric),
        "accuracy",
        guess=Guess(how, guess.value, retention(guess, rows[0], Classification.metric)),
        classes=classes,
    )
    task = {"kind": "classification", "classes": list(names)}
    return report(quality=quality, model={"config": {"n_layer": 2, "task": task}})


def results(
    *,
    dense: float = 30.0,
    compressed: float = 31.0,
    measurements: Any = None,
    guess: Guess | None = None,
    **changes: Any,
) -> Results:
    """A run of a model with 2 layers. dense, compressed: perplexities."""
    quality = (quality_of(dense), quality_of(compressed))
    if measurements is None:
        measurements = {
            "dense": measurement(10.0, seed=1),
            "stock": measurement(12.0, seed=2),
            "compressed": measurement(5.0, seed=3),
        }
    values: dict[str, Any] = {
        "model": {
            "config": {"n_layer": 2, "vocab_size": 32_000},
            "architecture": {
                "name": "Mamba-1",
                "evidence": "config.json says so",
                "assumed": False,
            },
        },
        "quality": Quality(
            *quality, retention(*quality), retention_interval(*quality), guess=guess
        ),
        "matrices": matrices(),
        "model_weights": 400_000,
        "model_zeros": 113_200,
        "removed_channels": (0, 3),
        "size": Size(1_600_000, 1_700_000, 400_000, 500_000),
        "measurements": measurements,
        "parity": parity({"logits": np.ones(3)}, {"logits": np.ones(3)}),
        "environment": {
            "cpu": "a|cpu",
            "machine": "x86_64",
            "isa_flags": ["avx2"],
            "ops_isa": "avx2",
            "logical_cpus": 2,
            "threads": 1,
            "kernel": "6",
            "python": "3.11",
            "ssmpress": "0.1.0",
            "onnxruntime": "1.31",
            "emulated": False,
        },
        "calibration": TextUse((), True, 5000),
        "evaluation": TextUse(("text.txt",), False, 1010),
    }
    return Results(**{**values, **changes})


def matrices() -> tuple[Matrix, ...]:
    """4 projections in each of 2 layers, 20,000 weights each, and an embedding."""
    projections = [
        Matrix(
            f"layers.{i}.{name}",
            i,
            name,
            100,
            200,
            14_000 + 300 * i,
            i,
            True,
            "bitmask-int8",
            9000,
            "smallest that is not slower",
        )
        for i in range(2)
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj")
    ]
    embedding = Matrix(
        "embedding", None, "embedding", 1000, 100, 0, 0, False, "dense-int8", 104_000, "not pruned"
    )
    return (*projections, embedding)


def recipe(**changes: Any) -> Recipe:
    """A recipe without gates."""
    values = {"model": Path("models/toy"), "out": Path("build/toy"), "threads": 1}
    return Recipe(**{**values, "gate": GateSettings(min_retention=None), **changes})


def report(**changes: Any) -> dict[str, Any]:
    """The report of `results`."""
    return build_report(recipe(), results(**changes))


LIMITS = GateSettings(min_retention=0.95, max_decode_ms=6.0, min_speedup=1.5)


def judged(**changes: Any) -> dict[str, Any]:
    """The report of `results` with the verdict of `LIMITS`."""
    found = report(**changes)
    return with_verdict(found, judge(found, LIMITS))


def stated(report: dict[str, Any], keys: Sequence[str]) -> Any:
    """The value under keys, each inside the one before."""
    return functools.reduce(operator.getitem, keys, report)


def planted(report: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path of keys with dots between; KeyError: without that key."""
    changed = copy.deepcopy(report)
    *parents, last = path.split(".")
    block = stated(changed, parents)
    if value is KeyError:
        del block[last]
    else:
        block[last] = value
    return changed


GAPS: tuple[dict[str, Any], ...] = (
    {"measurements": {}},
    {"compressed": float("nan")},
    {"compressed": float("inf")},
    {"parity": parity({"logits": np.ones(2)}, {})},
    {"matrices": ()},
    {"measurements": {name: measurement(5.0) for name in ("dense", "compressed")}},
)
"""Changes after which a report lacks something that its renderings show."""

HOSTILE = "\"'><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>{{7*7}}]]>\x00"


def hostile(value: Any) -> Any:
    """Every text of a report replaced by an attack."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return value
