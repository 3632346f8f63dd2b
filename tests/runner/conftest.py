"""Bundles of networks, and a worker on one, for the tests of what ssmrun does with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ssmrun_bundle as sb
from network_bundle import of_each_type, work


@pytest.fixture
def folder(tmp_path: Path, library: Path) -> Path:
    """Where a bundle is to be made."""
    sb.runner()
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def each_type(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    """A bundle, and beside its model one of each type."""
    sb.runner()
    return of_each_type(tmp_path_factory.mktemp("types"))


@pytest.fixture(scope="module")
def worker(each_type: Path) -> Iterator[sb.Worker]:
    with work(each_type) as running:
        yield running
