"""Shared by the tests of blocks: mamba-ssm's own models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import mamba_ssm_reference


@pytest.fixture(scope="module")
def mamba_ssm() -> SimpleNamespace:
    return mamba_ssm_reference.load()
