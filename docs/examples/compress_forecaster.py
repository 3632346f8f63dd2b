"""Compress a forecaster, then forecast what follows a series with the bundle.

python docs/examples/compress_forecaster.py MODEL TRAIN.csv TEST.csv OUT

The files have a header and a column for every variate.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import ssmpress


def main(model: str, train: str, test: str, out: str) -> int:
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
    print(f"mean squared error {quality['dense']:.4f} -> {quality['compressed']:.4f}")
    bundle = Path(out)
    session = ssmpress.open_session(
        bundle / "model.onnx", threads=1, library=bundle / "libssmpress_ops.so"
    )
    task = session.interface.task
    with Path(test).open() as file:
        rows = [[float(row[name]) for name in task.variates] for row in csv.DictReader(file)]
    mean, std = np.array(task.mean), np.array(task.std)
    recent = (np.array(rows[-task.lookback :]) - mean) / std
    forecast = session.forecast(recent[None])[0] * std + mean
    for name, value in zip(task.variates, forecast[0], strict=True):
        print(f"next {name}: {value:.3f}")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
