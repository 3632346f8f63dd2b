"""The stages one by one: load, prune, pack, export, run with a state of your own.

python docs/examples/stages.py MODEL OUT.onnx
"""

import sys
from pathlib import Path

import numpy as np

import ssmpress


def main(model: str, out: str) -> None:
    recipe = ssmpress.Recipe(
        model=Path(model),
        out=Path("unused"),
        prune=ssmpress.PruneSettings(sparsity=0.6),
        recover=ssmpress.RecoverSettings(steps=0),  # prune at once, no training
        pack=ssmpress.PackSettings(values=ssmpress.Values.FP16),
    )
    source = ssmpress.load(recipe)
    pruned = ssmpress.prune_weights(recipe, source)
    packed = ssmpress.pack_weights(recipe, source, pruned)
    ssmpress.export_model(packed, Path(out))

    session = ssmpress.open_session(out, threads=1, library=ssmpress.get_library_path())
    tokens = source.evaluation[:1, :20]
    logits, state = session.prefill(tokens)  # the prompt; the state holds all of it
    branch = state.copy()  # a second continuation of the same prompt
    for _ in range(3):
        logits, state = session.step(np.array([int(logits.argmax())]), state)
    print(f"{packed.nbytes:,} bytes; likeliest token after 3 steps: {int(logits.argmax())}")
    session.step(np.array([0]), branch)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
