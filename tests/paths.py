"""Where things lie in a checkout."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DEMO = ROOT / "toolchain" / "ssmpress" / "demo"
SHARED = ROOT.parent / "shared"
"""Trained models and data, too large for the repository; tests that need them skip without."""
OLD_BUNDLE = TESTS / "runtime" / "old_bundle"
"""A model.onnx from before bundles listed their states: int8, 2 layers of 21 and 15 channels, dead
ones being gone. logits.json: its logits after `tokens`, as they were then."""


def find_shared(name: str) -> Path:
    """The full path of a path inside SHARED; skips where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent: this test needs a trained model or text from there")
    return path
