"""What would help a bundle that failed, from the recipe that it was made by: only what it has left
to change, by the names of options that there are."""

from __future__ import annotations

from typing import Any

from ssmpress.gate.rules import Rule, metric_of
from ssmpress.recipe.settings.prune import MAX_SPARSITY
from ssmpress.report.tables import lookup
from ssmpress.results.report import HOST, Report
from ssmpress.results.run import Ended

QUIETER = "Run again on a quieter machine, or with fewer --threads."
MEASURE = "Run compress again, which measures more of them."


def for_quality(report: Report) -> str:
    """What keeps more of the quality; empty where nothing was changed."""
    ways = [*_weights(report, "a lower --sparsity", least=0), *_recovery(report)]
    values = _recipe(report, "pack", "values")
    if values != "fp32":
        ways.append(f"more exact --values (now {values})" if values else "--values fp32")
    if not ways:
        return ""
    helps = f"What helps: {', '.join(ways)}, or calibration text closer to the evaluation text."
    return f"{helps} {_ended_by_itself(report)}".rstrip()


def for_size_or_time(report: Report, rule: Rule) -> str:
    """What makes a bundle smaller or faster."""
    ways = [] if _recipe(report, "pack", "values") == "int8" else ["--values int8"]
    ways += _weights(report, "a higher --sparsity", most=MAX_SPARSITY)
    if rule.samples is not None:
        here = lookup(report, "latency", "device") in (None, HOST)
        ways.append(f"more {'--threads' if here else '--device-threads'} if the device has them")
    *first, last = ways or ["a smaller model, or a wider limit: nothing is left to prune"]
    return f"What helps: {', '.join(first)}{' or ' * bool(first)}{last}."


_BY_ITSELF: dict[str, str] = {
    Ended.QUALITY: "kept what was asked",
    Ended.NO_IMPROVEMENT: "no longer improved",
}


def _ended_by_itself(report: Report) -> str:
    """What ended a recovery before its time was up; "" where nothing did."""
    why = _BY_ITSELF.get(str(lookup(report, "recovery", "ended")))
    steps = metric_of(report, "recovery.steps")
    if why is None or steps is None:
        return ""
    return f"Recovery ended after {steps:.0f} steps: on held-out calibration data it {why}."


def cut_short(report: Report) -> str:
    """What to give a recovery that the time ended; "" where something else did."""
    advised = metric_of(report, "recovery.advised_s")
    steps, step = (metric_of(report, f"recovery.{key}") for key in ("steps", "seconds_per_step"))
    if advised is None or steps is None or step is None:
        return ""
    return (
        f"a longer recovery, whose time was up after {steps:.0f} steps of {step:.2g} s: "
        f"--recover-seconds {advised:.0f}"
    )


def _weights(report: Report, way: str, *, least: float = -1, most: float = 2) -> list[str]:
    """The sparsity, where it can go that way; weights pruned elsewhere are not this command's."""
    if _recipe(report, "pruned"):
        return ["other --pruned weights"]
    sparsity = _recipe(report, "prune", "sparsity")
    if not isinstance(sparsity, int | float):
        return [way]
    return [f"{way} (now {sparsity:g})"] if least < sparsity < most else []


def _recovery(report: Report) -> list[str]:
    """More of the recovery, where it did not end because more of it gave nothing."""
    if _recipe(report, "pruned") or _recipe(report, "prune", "sparsity") == 0:
        return []
    if _recipe(report, "recover", "steps") == 0:
        return ["recovery, --recover auto"]
    if lookup(report, "recovery", "ended") == Ended.NO_IMPROVEMENT:
        return []
    return [cut_short(report) or "a longer --recover"]


def _recipe(report: Report, *keys: str) -> Any:
    return lookup(report, "recipe", *keys)
