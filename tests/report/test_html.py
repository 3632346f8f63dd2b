"""report.html without a browser: complete, self-contained, escaped, and made for screen readers."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

import example_report as example
from example_report import CHARTS, HOSTILE, hostile, judged
from ssmpress.report.html import render_html


class Page(HTMLParser):
    """Elements with their attributes, and the text of each, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_the_page_says_what_the_report_says() -> None:
    text = render_html(judged(compressed=40.0))
    for part in (
        "<h1>toy at 70.0 % sparsity</h1>",
        "Fail</span> <span>The quality kept is 75.0 %",
        ">75.0 % kept<",
        "bitmask-int8",
        "smallest that is not slower",
        "the default text",
        "10 interleaved rounds",
        "compress models/toy --sparsity 0.7",
        "prune.sparsity",
        "avx2",
        "straddles" if "straddles" in text else "min_speedup",
        "4.00x smaller",
    ):
        assert part in text, part


def test_every_chart_is_there_with_title_and_description() -> None:
    text = render_html(judged())
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == len(CHARTS)
    for key, drawing in zip(CHARTS, drawings, strict=True):
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"chart-{key}-title chart-{key}-desc"
        title, description = root[0].text, root[1].text
        assert title
        assert description
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) >= 2, key


def test_structure_for_keyboard_and_screen_reader() -> None:
    page = Page(render_html(judged()))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert set(levels) == {1, 2}
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 8
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    for attributes in page.all("a"):
        assert (attributes["href"] or "").removeprefix("#") in identifiers
    for attributes in page.all("section"):
        assert attributes["aria-labelledby"] in identifiers


def test_the_page_refers_to_nothing_outside() -> None:
    text = render_html(judged())
    page = Page(text)
    assert not page.all("script", "iframe", "object", "embed", "form", "base", "img")
    assert not re.search(r"@import|url\((?!#)", text)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in text


def test_hostile_text_is_escaped_everywhere() -> None:
    report = hostile(judged())
    for block in ("environment", "recovery"):
        report[block][HOSTILE] = HOSTILE
    entry = report["size"]["by_format"].popitem()[1]
    report["size"]["by_format"] = {HOSTILE: entry}
    for holder in (report["sparsity"], *report["sparsity"]["by_layer"]):
        holder["by_component"] = {HOSTILE: 0.5}
    text = render_html(report)
    text.encode()
    page = Page(text)
    assert not page.all("script", "img")
    assert text.count("{{7*7}}") > 30
    assert text.count("&lt;script&gt;") > 30
    assert not any(name.startswith("on") for _, a in page.elements for name in a)


@pytest.mark.parametrize("changes", example.GAPS)
def test_reports_with_gaps_are_rendered(changes: dict[str, Any]) -> None:
    text = render_html(judged(**changes))
    assert ("<svg" in text) and "nan" not in re.sub("<[^>]*>", "", text).lower().split()


def test_a_report_without_verdict_and_many_layers() -> None:
    report = copy.deepcopy(example.report())
    layer = report["sparsity"]["by_layer"][0]
    report["sparsity"]["by_layer"] = [{**layer, "layer": i} for i in range(64)]
    text = render_html(report)
    assert "Not judged</span> <span>Not judged yet." in text
    assert len(text) < 400_000


def test_the_same_report_gives_the_same_page() -> None:
    assert render_html(judged()) == render_html(judged())
