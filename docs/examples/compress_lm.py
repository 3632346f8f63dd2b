"""Compress a language model from Python, as the command line does.

python docs/examples/compress_lm.py MODEL OUT [--quick]
"""

import sys
from pathlib import Path

import ssmpress


def main(model: str, out: str, quick: bool) -> int:
    recipe = ssmpress.Recipe(
        model=Path(model),
        out=Path(out),
        prune=ssmpress.PruneSettings(sparsity=0.5),
        recover=ssmpress.RecoverSettings(steps=0 if quick else None),
        data=ssmpress.DataSettings(evaluation_tokens=10_000 if quick else None),
        gate=ssmpress.GateSettings(min_retention=0.85),
    )
    result = ssmpress.compress(recipe, ssmpress.Watch(note=print))
    quality, size = result.report["quality"], result.report["size"]
    print(f"kept {quality['retention']:.1%} of the quality, {size['ratio']:.2f}x smaller")
    print(result.report["verdict"]["sentence"])
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], "--quick" in sys.argv))
