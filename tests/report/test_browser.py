"""report.html in a real headless Chromium, at two widths, light and dark."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import chromium
from chromium import Tab
from example_report import CHARTS, judged
from example_sweep import example_sweep
from ssmpress.report.html import render_html
from ssmpress.report.sweep import tradeoff
from ssmpress.report.sweep_page import render_sweep_html

VIEWS = [(width, dark) for width in (390, 1440) for dark in (False, True)]

DRAWN = """
[...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  const seen = [...svg.querySelectorAll('path, text')].filter(mark => {
    const b = mark.getBoundingClientRect(), style = getComputedStyle(mark);
    return b.width > 2 && b.height > 2 && style.fill !== 'none' && style.opacity !== '0';
  });
  const out = [...svg.querySelectorAll('text')].filter(mark => {
    const b = mark.getBoundingClientRect(), f = svg.parentElement.getBoundingClientRect();
    return b.width && (b.left < f.left || b.right > f.right);
  });
  return {width: box.width, height: box.height, marks: seen.length,
          cut: out.map(mark => mark.textContent)};
})
"""

CONTRAST = """
(() => {
  const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(
      v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const c = parse(getComputedStyle(node).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !node.getClientRects().length || ['title', 'desc'].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.ownerSVGElement ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(node.textContent.slice(0, 40));
  }
  return low;
})()
"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    if chromium.BINARY is None:
        warnings.warn("Chromium is absent: report.html is not tested in a browser", stacklevel=1)
        pytest.skip("chromium is absent: apt-get install chromium")
    with chromium.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(judged(compressed=40.0)))
    return path.as_uri()


SWEEP_CHARTS = ("tradeoff-latency", "tradeoff-size")


@pytest.fixture(scope="module")
def pages(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every kind of page: a report, the report of one bundle of a sweep, the sweep's own."""
    folder = tmp_path_factory.mktemp("pages")
    summary = example_sweep("retention>=0.9")
    of_sweep = {**judged(), "tradeoff": tradeoff(summary, "s70-int8")}
    (folder / "of_sweep.html").write_text(render_html(of_sweep))
    (folder / "sweep.html").write_text(render_sweep_html(summary))
    found = {name: (folder / f"{name}.html").as_uri() for name in ("of_sweep", "sweep")}
    return {"report": page, **found}


@pytest.mark.parametrize(
    ("name", "keys"),
    [("report", CHARTS), ("of_sweep", CHARTS + SWEEP_CHARTS), ("sweep", SWEEP_CHARTS)],
)
@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_the_page_opens_clean_with_every_chart_drawn(
    tab: Tab, pages: dict[str, str], name: str, keys: tuple[str, ...], width: int, dark: bool
) -> None:
    page = pages[name]
    tab.open(page, width=width, dark=dark)
    assert tab.problems() == []
    assert [url for url in tab.requests() if not url.startswith("data:")] == [page]
    drawn = tab.evaluate(DRAWN)
    shown = tab.evaluate("[...document.querySelectorAll('figure')].map(f => f.className)")
    assert sorted(shown) == sorted(keys)
    for key, chart in zip(shown, drawn, strict=True):
        assert chart["marks"] >= 4, key
        assert chart["width"] >= 280, key
        assert chart["height"] >= 40, key
        assert chart["cut"] == [], key
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CONTRAST) == []


def test_the_charts_follow_the_colour_scheme(tab: Tab, page: str) -> None:
    fills = []
    for dark in (False, True):
        tab.open(page, width=1440, dark=dark)
        fills.append(tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill"))
    assert fills == ["rgb(27, 31, 36)", "rgb(230, 237, 243)"]


def test_text_of_the_charts_is_readable_on_a_phone(tab: Tab, page: str) -> None:
    tab.open(page, width=390)
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('figure svg text')].map("
        "t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a))"
    )
    assert smallest >= 10.5


@pytest.mark.parametrize("width", [390, 1440])
def test_the_table_of_data_fits_and_headings_stand_over_their_columns(
    tab: Tab, page: str, width: int
) -> None:
    tab.open(page, width=width)
    table = "document.querySelector('#t-data').parentElement"
    region = f"{table}.parentElement"
    assert tab.evaluate(f"{region}.scrollWidth <= {region}.clientWidth")
    aligned = f"[...{table}.rows].map(r => [...r.cells].map(c => getComputedStyle(c).textAlign))"
    rows = tab.evaluate(aligned)
    assert rows == [["left", "left", "right"]] * 3


def test_the_first_tab_reaches_the_skip_link_and_scrolled_tables(tab: Tab, page: str) -> None:
    tab.open(page, width=390)
    focused = []
    for _ in range(12):
        tab.press("Tab", 9)
        focused.append(tab.evaluate("document.activeElement.className || ''"))
    assert focused[0] == "skip"
    assert "scroll" in focused
    assert tab.evaluate("matchMedia('print').matches") is False


def test_the_change_is_on_the_screen_of_a_phone(tab: Tab, page: str) -> None:
    tab.open(page, width=390)
    heading = "document.querySelector('#t-comparison').parentElement.rows[0].cells"
    assert tab.evaluate(f"{heading}[1].textContent") == "change"
    cut = f"{heading}[1].closest('.scroll').getBoundingClientRect().right"
    assert tab.evaluate(f"{heading}[1].getBoundingClientRect().right <= {cut}")


FOLDED = "[...document.querySelectorAll('.folded')].map(f => f.getBoundingClientRect().height > 50)"


def test_what_is_folded_opens_by_its_summary_and_in_print(tab: Tab, page: str) -> None:
    tab.open(page, width=1440)
    assert tab.evaluate(FOLDED) == [False] * 3
    assert tab.evaluate("document.querySelectorAll('details').length") == 3
    tab.evaluate("document.querySelector('summary').click()")
    assert tab.evaluate(FOLDED) == [True, False, False]
    tab.ask("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.evaluate(FOLDED) == [True] * 3
    finally:
        tab.ask("Emulation.setEmulatedMedia", media="")


def test_every_column_has_a_heading_but_the_first(tab: Tab, page: str) -> None:
    tab.open(page, width=1440)
    empty = "[...document.querySelectorAll('thead tr')].filter(r => [...r.cells].slice(1).some("
    assert tab.evaluate(f"{empty}c => !c.textContent.trim())).length") == 0
    environment = "document.querySelector('#t-environment').parentElement.rows[0].textContent"
    assert tab.evaluate(environment).split() == ["whatvalue"]


def test_the_printed_page_is_dark_on_light_without_navigation(tab: Tab, page: str) -> None:
    tab.open(page, width=800, dark=True)
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.ask("Emulation.setEmulatedMedia", media="print", features=scheme)
    try:
        assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        tab.ask("Emulation.setEmulatedMedia", media="")


def test_the_checks_notice_a_bad_page(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><script>console.error('x'); nothing.here</script>"
        "<img src='http://127.0.0.1:9/x.png'><p style='color:#ccc'>pale</p>"
        "<figure style='width:100px'><svg width='100' height='50'>"
        "<text x='90' y='20'>too long for it</text></svg></figure><div style='width:2000px'>wide"
    )
    tab.open(path.as_uri(), width=390)
    assert len(tab.problems()) >= 2
    assert "http://127.0.0.1:9/x.png" in tab.requests()
    assert tab.evaluate(CONTRAST) == ["pale"]
    assert tab.evaluate(DRAWN)[0]["cut"] == ["too long for it"]
    assert tab.evaluate("document.documentElement.scrollWidth") > 390
