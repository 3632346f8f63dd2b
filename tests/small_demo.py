"""The first two layers of the demo model: what a run does, in half of the time.

Its perplexity on the default text is 119, that of guessing 412. What a run is worth is the whole
model's to show: test_end_to_end.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from paths import DEMO
from ssmpress.blocks.tensors import tensor_shapes
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint


def write_small_demo(folder: Path) -> Path:
    """The model as mamba-ssm has it, with its tokenizer; the folder, which is new."""
    demo = read_checkpoint(DEMO)
    config = dataclasses.replace(demo.config, layers=demo.config.layers[:2])
    tensors = {name: demo.tensors[name] for name in tensor_shapes(config)}
    write_checkpoint(config, tensors, folder, tokenizer=demo.tokenizer)
    return folder
