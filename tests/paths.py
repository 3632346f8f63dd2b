"""Where things lie in a checkout."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DEMO = ROOT / "toolchain" / "ssmpress" / "demo"
SHARED = ROOT.parent / "shared"
"""Trained models and data, too large for the repository; tests that need them skip without."""
OLD_BUNDLE = TESTS / "runtime" / "old_bundle"
"""A model.onnx from before bundles listed their states: int8, 2 layers of 21 and 15 channels, dead
ones being gone. logits.json: its logits after `tokens`, as they were then."""
