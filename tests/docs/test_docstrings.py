"""The examples in the docstrings of the entry points, in the order in which a user meets them."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

import ssmpress
from small_demo import write_small_demo
from ssmpress.data.default_text import default_text

EXAMPLES = ("parse_pick", "compress", "open_session", "open_bundle", "judge")
"""`compress` makes the bundle that the later ones open."""


def test_the_examples_of_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_demo(tmp_path / "my-mamba")
    for name, text in zip(("train", "test"), default_text(), strict=True):
        (tmp_path / f"{name}.txt").write_text(text[:20_000])
    monkeypatch.chdir(tmp_path)
    for name in EXAMPLES:
        function = getattr(ssmpress, name)
        (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
        assert len(test.examples) > 1, f"{name} has no example"
        failed = doctest.DocTestRunner().run(test, out=sys.stdout.write).failed
        assert not failed, f"{name}: see the output"
