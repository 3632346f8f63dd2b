"""mamba-ssm's own code, on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mamba_ssm_reference import load


@pytest.fixture(scope="session")
def real() -> SimpleNamespace:
    """Its blocks and references."""
    return load()
