"""The rows that every rendering shares: report dictionary -> cells of text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ssmpress.recipe.named import NAMED_RECIPES
from ssmpress.recipe.option import options_of, settings_of
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.wording import words
from ssmpress.results.report import VARIANTS, Report

Rows = list[list[str]]
_MISSING = "-"
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def number(value: Any, digits: int = 4) -> str:
    """A number with that many significant digits, or a dash for a missing one."""
    if not isinstance(value, int | float):
        return _MISSING
    if abs(value) >= 1e9:
        return f"{value:.2e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}"


def percent(value: Any) -> str:
    """A share such as 0.7 as `70.0 %`."""
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else _MISSING


def size(value: Any) -> str:
    """Bytes as MiB or KiB."""
    if not isinstance(value, int | float):
        return _MISSING
    return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value / 2**10:.1f} KiB"


def lookup(report: Report, *keys: str) -> Any:
    """The value at a path of keys, None where one is missing."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def printable(value: Any) -> Any:
    """The same JSON value; characters that neither XML nor UTF-8 can hold are U+FFFD."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return value


def title(report: Report) -> str:
    """The model's name and its sparsity."""
    name = str(lookup(report, "recipe", "model")).rstrip("/").rsplit("/", 1)[-1]
    return f"{name} at {percent(lookup(report, 'recipe', 'prune', 'sparsity'))} sparsity"


def comparison(report: Report) -> Rows:
    """Heading, then one row per metric: name, dense, stock, compressed, gain or loss."""
    quality, sizes, said = dict(report["quality"]), dict(report["size"]), words(report)
    rows = [["", *VARIANTS, "change"]]
    rows.append(
        [str(quality.get("metric")), number(quality.get("dense")), _MISSING,
         number(quality.get("compressed")), f"{percent(quality.get('retention'))} kept"]
    )  # fmt: skip
    for key, values in (quality.get("also") or {}).items():
        dense, compressed = (number(lookup(values, which)) for which in ("dense", "compressed"))
        rows.append([said.also.get(key, key), dense, _MISSING, compressed, ""])
    rows.append(
        ["model", size(sizes.get("dense_fp32_bytes")), _MISSING, size(sizes.get("model_bytes")),
         _times(sizes.get("ratio"), "smaller", "larger")]
    )  # fmt: skip
    for label, phase, key in (
        (said.throughput, "prefill", "tokens_per_s"),
        (f"{said.single} p50 ms", "decode", "p50_ms"),
        (f"{said.single} p90 ms", "decode", "p90_ms"),
        (f"{said.single} p99 ms", "decode", "p99_ms"),
    ):
        cells = [number(lookup(report, "latency", phase, name, key)) for name in VARIANTS]
        gain = lookup(report, "latency", phase, "speedup") if key[:3] in ("tok", "p50") else None
        rows.append([label, *cells, _times(gain, "faster", "slower")])
    load = [number(lookup(report, "latency", "load", name, "warm_ms")) for name in VARIANTS]
    rows.append(["load ms (warm)", *load, ""])
    memory = [size(lookup(report, "memory", f"{name}_peak_rss_bytes")) for name in VARIANTS]
    rows.append(["peak memory", *memory, ""])
    return rows


def sparsity(report: Report) -> Rows:
    """Heading, one row per layer, then all: share of zeros per component."""
    block = report["sparsity"]
    inside = (name for layer in block["by_layer"] for name in layer["by_component"])
    names = list(dict.fromkeys((*inside, *block["by_component"])))
    rows = [["layer", *names, "all"]]
    for layer in block["by_layer"]:
        cells = [percent(layer["by_component"].get(name)) for name in names]
        rows.append([str(layer["layer"]), *cells, percent(layer["sparsity"])])
    total = [percent(block["by_component"].get(name)) for name in names]
    rows.append(["all", *total, percent(block["prunable"])])
    return rows


def formats(report: Report) -> Rows:
    """Heading, then bytes per matrix format."""
    rows = [["format", "matrices", "weights", "bytes", "dense fp32"]]
    for name, entry in report["size"]["by_format"].items():
        rows.append(
            [name, str(entry["matrices"]), f"{entry['weights']:,}", size(entry["bytes"]),
             size(entry["dense_fp32_bytes"])]
        )  # fmt: skip
    return rows


def gates(report: Report) -> Rows:
    """Heading, then one row per rule that was judged."""
    rows = [["rule", "limit", "value", "interval", "verdict"]]
    for rule in lookup(report, "verdict", "rules") or []:
        interval = rule["interval"]
        spread = f"{number(interval['low'])} to {number(interval['high'])}" if interval else ""
        rows.append(
            [rule["name"], number(rule["limit"]), number(rule["value"]), spread, rule["status"]]
        )
    return rows


def sweep_points(points: Sequence[Mapping[str, Any]]) -> Rows:
    """Heading, then one row per bundle of a sweep."""
    rows = [
        ["bundle", "quality kept", "95 % interval", "decode ms", "speed-up", "model", "smaller",
         "prefill tokens/s", "peak memory", "on the front", "verdict"]
    ]  # fmt: skip
    for point in points:
        interval = point["retention_interval"]
        spread = f"{percent(interval['low'])} to {percent(interval['high'])}" if interval else ""
        front = " and ".join(axis for axis, there in point["front"].items() if there)
        rows.append(
            [point["name"], percent(point["retention"]), spread, number(point["decode_ms"]),
             ratio(point["speedup"]), size(point["model_bytes"]), ratio(point["smaller"]),
             number(point["prefill_tokens_per_s"]), size(point["rss_bytes"]), front,
             point["status"]]
        )  # fmt: skip
    return rows


def ratio(value: Any) -> str:
    """`1.96x`, or a dash for a missing one."""
    return f"{value:.2f}x" if isinstance(value, int | float) else _MISSING


def matrices(report: Report) -> Rows:
    """Heading, then how each matrix is stored."""
    rows = [["matrix", "shape", "sparsity", "format", "bytes", "why"]]
    for matrix in report["matrices"]:
        shape = f"{matrix['rows']} x {matrix['columns']}"
        rows.append(
            [matrix["name"], shape, percent(matrix["sparsity"]), matrix["format"],
             f"{matrix['bytes']:,}", matrix["reason"]]
        )  # fmt: skip
    return rows


def environment(report: Report) -> Rows:
    """An empty heading, then what is known of the machine."""
    rows = [["", ""]]
    for key, value in report["environment"].items():
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if key == "memory_bytes":
            text = size(value)
        if value is not None:
            rows.append([key, text])
    return rows


def command(report: Report) -> str:
    """The command line that asks for the report's recipe again; defaults are left out.

    Of a sweep's bundle it is that of the sweep: recovery may have gone on from another one.
    """
    sweep = report.get("tradeoff")
    return sweep_command(sweep) if sweep else _command(report["recipe"], {})


def sweep_command(sweep: Mapping[str, Any]) -> str:
    """The command line of a sweep. sweep: sweep.json, or `tradeoff` of a report."""
    lists = {
        "sparsity": ",".join(f"{part:g}" for part in sweep["sparsities"]),
        "values": ",".join(sweep["values"]),
    }
    expression = sweep["pick"]
    if isinstance(expression, Mapping):
        expression = expression["expression"]
    return _command(sweep["recipe"], lists, ["--pick", expression] if expression else [])


def _command(recipe: Mapping[str, Any], lists: Mapping[str, str], more: Sequence[str] = ()) -> str:
    words = ["compress", str(recipe["model"])]
    name, defaults = _named(recipe)
    words += [] if name == "default" else ["--recipe", name]
    for setting in options_of(Recipe):
        group, key = setting.group, setting.key
        default = defaults[group][key] if group else defaults[key]
        given = recipe.get(group, {}) if group else recipe
        value = lists.get(key, given.get(key, default))
        if setting.option.always or value != default:
            words += setting.words(value)
    return shlex.join([*words, *more])


def _named(recipe: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The named recipe that gives the settings without an option, and all of its settings."""
    named = {
        name: Recipe(recipe["model"], recipe["out"], prune=prune, recover=recover).to_dict()
        for name, (prune, recover) in NAMED_RECIPES.items()
    }
    for name, settings in named.items():
        if all(
            recipe.get(item.group, {}).get(item.key, value) == value
            for item in settings_of(Recipe)
            if item.group in ("prune", "recover") and item.option.panel is None
            for value in [settings[item.group][item.key]]
        ):
            return name, settings
    return "default", named["default"]


def _times(value: Any, gain: str, loss: str) -> str:
    """`1.96x faster`; a ratio below 1 is told as a loss, `1.25x slower`."""
    if not isinstance(value, int | float) or value <= 0:
        return ""
    return f"{value:.2f}x {gain}" if value >= 1 else f"{1 / value:.2f}x {loss}"
