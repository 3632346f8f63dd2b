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
    baseline = ssmpress.read_report(old[0]) if old else None
    codes = []
    for folder in folders:
        verdict = ssmpress.judge(ssmpress.read_report(folder), limits, baseline=baseline)
        print(f"{folder}: {verdict.sentence}")
        codes.append(verdict.exit_code)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
