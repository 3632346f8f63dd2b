"""Judge stored reports in CI, where neither torch nor the model is installed.

python docs/examples/gate_in_ci.py BUNDLE... [--baseline=OLD_BUNDLE]
"""

import sys
from pathlib import Path

import ssmpress


def main(arguments: list[str]) -> int:
    folders = [Path(word) for word in arguments if not word.startswith("--")]
    old = [Path(word.split("=", 1)[1]) for word in arguments if word.startswith("--baseline=")]
    limits = ssmpress.GateSettings(min_retention=0.85, min_speedup=1.0)
    baseline = None
    if old:  # and not much slower or larger than it was
        baseline = ssmpress.read_report(old[0])
        limits = ssmpress.GateSettings(
            min_retention=0.85, max_decode_ms="1.2x", max_bundle_bytes="1.05x", baseline=old[0]
        )
    codes = []
    for folder in folders:
        verdict = ssmpress.judge(ssmpress.read_report(folder), limits, baseline=baseline)
        print(f"{folder}: {verdict.sentence}")
        codes.append(verdict.exit_code)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
