"""Compress a text classifier, then classify texts with the bundle.

python docs/examples/compress_classifier.py MODEL TRAIN.jsonl TEST.jsonl OUT TEXT...

Every line of the files is {"text": ..., "label": ...}.
"""

import sys
from pathlib import Path

from tokenizers import Tokenizer

import ssmpress


def main(model: str, train: str, test: str, out: str, *texts: str) -> int:
    recipe = ssmpress.Recipe(
        model=Path(model),
        out=Path(out),
        prune=ssmpress.PruneSettings(sparsity=0.5),
        recover=ssmpress.RecoverSettings(steps=20),
        data=ssmpress.DataSettings(calibration=(Path(train),), evaluation=(Path(test),)),
        gate=ssmpress.GateSettings(min_retention=0.5),
    )
    result = ssmpress.compress(recipe, ssmpress.Watch(note=print))
    quality = result.report["quality"]
    print(f"accuracy {quality['dense']:.3f} -> {quality['compressed']:.3f}")
    bundle = Path(out)
    session = ssmpress.open_session(
        bundle / "model.onnx", threads=1, library=bundle / "libssmpress_ops.so"
    )
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    for text in texts:
        logits = session.classify([tokenizer.encode(text).ids])
        print(f"{text!r} is {session.interface.task.classes[int(logits[0].argmax())]}")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
