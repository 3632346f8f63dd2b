"""The rows that every rendering shares: report dictionary -> cells of text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ssmpress.recipe.named import NAMED_RECIPES
from ssmpress.recipe.option import options_of, settings_of
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.wording import lookup as lookup
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


def zeros(share: Any) -> str:
    """A share of zeros as `percent` has it, but all and nothing are only what is exactly that."""
    if not isinstance(share, int | float) or share in (0, 1):
        return percent(share)
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def size(value: Any) -> str:
    """Bytes as MB or kB, of 1,000,000 and 1,000 bytes: docs/glossary.md."""
    if not isinstance(value, int | float):
        return _MISSING
    if value < 1e6:
        return f"{value / 1e3:.1f} kB"
    return f"{value / 1e6:.1f} MB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


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
    quality, sizes, phrases = dict(report["quality"]), dict(report["size"]), words(report)
    rows = [["", *VARIANTS, "change"]]
    rows.append(
        [
            str(quality.get("metric")),
            number(quality.get("dense")),
            _MISSING,
            number(quality.get("compressed")),
            f"{percent(quality.get('retention'))} kept",
        ]
    )
    rows.append(
        [
            "model",
            size(sizes.get("dense_fp32_bytes")),
            _MISSING,
            size(sizes.get("model_bytes")),
            _times(sizes.get("ratio"), "smaller", "larger"),
        ]
    )
    for label, phase, key in (
        (phrases.throughput, "prefill", "tokens_per_s"),
        (f"{phrases.single} p50 ms", "decode", "p50_ms"),
        (f"{phrases.single} p90 ms", "decode", "p90_ms"),
        (f"{phrases.single} p99 ms", "decode", "p99_ms"),
    ):
        cells = [number(lookup(report, "latency", phase, name, key)) for name in VARIANTS]
        gain = lookup(report, "latency", phase, "speedup") if key[:3] in ("tok", "p50") else None
        rows.append([label, *cells, _times(gain, "faster", "slower")])
    load = [number(lookup(report, "latency", "load", name, "warm_ms")) for name in VARIANTS]
    rows.append(["load ms (warm)", *load, ""])
    memory = [size(lookup(report, "memory", f"{name}_peak_rss_bytes")) for name in VARIANTS]
    rows.append(["peak memory", *memory, ""])
    for key, values in (quality.get("also") or {}).items():
        dense, compressed = (number(lookup(values, which)) for which in ("dense", "compressed"))
        rows.append([phrases.also.get(key, key), dense, _MISSING, compressed, ""])
    return rows


def sparsity(report: Report) -> Rows:
    """Heading, one row per layer, then all: share of zeros per component."""
    block = report["sparsity"]
    inside = (name for layer in block["by_layer"] for name in layer["by_component"])
    names = list(dict.fromkeys((*inside, *block["by_component"])))
    rows = [["layer", *names, "all"]]
    for layer in block["by_layer"]:
        cells = [zeros(layer["by_component"].get(name)) for name in names]
        rows.append([str(layer["layer"]), *cells, zeros(layer["sparsity"])])
    total = [zeros(block["by_component"].get(name)) for name in names]
    rows.append(["all", *total, zeros(block["prunable"])])
    return rows


def formats(report: Report) -> Rows:
    """Heading, then bytes per matrix format, and of all else that makes up the bundle's folder.

    Weights and dense bytes are those of the model before its dead channels went.
    """
    block = report["size"]
    entries = block["by_format"].items()
    rows = [["format", "stored bytes", "dense fp32 bytes", "matrices", "weights"]]
    for name, entry in entries:
        rows.append(
            [
                name,
                whole(entry["bytes"]),
                whole(entry["dense_fp32_bytes"]),
                str(entry["matrices"]),
                f"{entry['weights']:,}",
            ]
        )
    model, bundle, runtime = (block.get(f"{part}_bytes") for part in ("model", "bundle", "runtime"))
    dense = block.get("dense_fp32_bytes")
    in_matrices, in_dense = (
        _total([entry.get(key) for _, entry in entries]) for key in ("bytes", "dense_fp32_bytes")
    )
    for name, stored, before in (
        ("norms, scan, graph", _less(model, in_matrices), _less(dense, in_dense)),
        ("model.onnx", whole(model), whole(dense)),
        ("library, tokenizer", _less(bundle, model), ""),
        ("bundle", whole(bundle), ""),
        ("runtime", whole(runtime), ""),
    ):
        rows.append([name, stored, before, "", ""])
    return rows


def whole(value: Any) -> str:
    """Bytes by the byte, so that a column adds up."""
    return f"{value:,}" if isinstance(value, int) else _MISSING


def _total(values: Sequence[Any]) -> int | None:
    """Their sum; None where one is no number of bytes."""
    numbers = [value for value in values if isinstance(value, int)]
    return sum(numbers) if len(numbers) == len(values) else None


def _less(value: Any, part: Any) -> str:
    """What of some bytes is not in a part of them."""
    known = isinstance(value, int) and isinstance(part, int)
    return whole(value - part) if known else _MISSING


def gates(report: Report) -> Rows:
    """Heading, then one row per rule that was judged."""
    rows = [["rule", "limit", "value", "interval", "verdict"]]
    for rule in lookup(report, "verdict", "rules") or []:
        interval = rule["interval"]
        text = percent if rule["name"] == "min_retention" else number
        spread = ""
        if interval:
            spread = f"{text(interval['low'])} to {text(interval['high'])}"
            spread += f", {confidence(interval)}"
        limit, value = (text(rule[key]) for key in ("limit", "value"))
        rows.append([rule["name"], limit, value, spread, rule["status"]])
    return rows


def confidence(interval: Mapping[str, Any]) -> str:
    """`95 %`: how sure an interval is."""
    value = interval.get("confidence")
    return f"{100 * value:.4g} %" if isinstance(value, int | float) else _MISSING


def sweep_points(points: Sequence[Mapping[str, Any]]) -> Rows:
    """Heading, then one row per bundle of a sweep."""
    rows = [
        [
            "bundle",
            "quality kept",
            "95 % interval",
            "decode ms",
            "speed-up",
            "model",
            "smaller",
            "prefill tokens/s",
            "peak memory",
            "on the front",
            "verdict",
        ]
    ]
    for point in points:
        interval = point["retention_interval"]
        spread = f"{percent(interval['low'])} to {percent(interval['high'])}" if interval else ""
        front = " and ".join(axis for axis, there in point["front"].items() if there)
        rows.append(
            [
                point["name"],
                percent(point["retention"]),
                spread,
                number(point["decode_ms"]),
                ratio(point["speedup"]),
                size(point["model_bytes"]),
                ratio(point["smaller"]),
                number(point["prefill_tokens_per_s"]),
                size(point["rss_bytes"]),
                front,
                point["status"],
            ]
        )
    return rows


def ratio(value: Any) -> str:
    """`1.96x`, or a dash for a missing one."""
    return f"{value:.2f}x" if isinstance(value, int | float) else _MISSING


def matrices(report: Report) -> Rows:
    """Heading, then how each matrix is stored: without dead channels, and its zeros are those that
    are left in that shape."""
    rows = [["matrix", "stored shape", "zeros", "format", "bytes", "why"]]
    for matrix in report["matrices"]:
        stored = matrix.get("stored") or matrix
        shape, before = (f"{m['rows']} x {m['columns']}" for m in (stored, matrix))
        weights = stored["rows"] * stored["columns"]
        rows.append(
            [
                matrix["name"],
                shape if shape == before else f"{shape} of {before}",
                zeros(stored["zeros"] / weights if weights else None),
                matrix["format"],
                f"{matrix['bytes']:,}",
                matrix["reason"],
            ]
        )
    return rows


def environment(report: Report) -> Rows:
    """Heading, then what is known of the machine."""
    rows = [["what", "value"]]
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
        values = recipe.get(group, {}) if group else recipe
        value = lists.get(key, values.get(key, default))
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
