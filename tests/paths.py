"""Where things lie in a checkout."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DEMO = ROOT / "toolchain" / "experiments" / "demo-model"
SHARED = ROOT.parent / "shared"
"""Trained models and data, too large for the repository; tests that need them skip without."""
