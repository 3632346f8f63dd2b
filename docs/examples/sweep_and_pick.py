"""Run several sparsities and keep the fastest bundle that is good enough.

python docs/examples/sweep_and_pick.py MODEL OUT [--quick]
"""

import sys
from pathlib import Path

import ssmpress


def main(model: str, out: str, quick: bool) -> int:
    recipe = ssmpress.Recipe(
        model=Path(model),
        out=Path(out),
        recover=ssmpress.RecoverSettings(steps=0 if quick else None),
        data=ssmpress.DataSettings(evaluation_tokens=10_000 if quick else None),
        gate=ssmpress.GateSettings(min_retention=None),
    )
    sweep = ssmpress.Sweep(
        recipe,
        sparsities=(0.3, 0.5),
        values=(ssmpress.Values.INT8,),
        pick=ssmpress.parse_pick("retention>=0.8"),
    )
    result = ssmpress.run_sweep(sweep)
    for point in result.summary["points"]:
        print(f"{point['name']}: kept {point['retention']:.1%}, {point['smaller']:.2f}x smaller")
    print(result.summary["sentence"])
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], "--quick" in sys.argv))
