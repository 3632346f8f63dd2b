"""Networks of one's own: ssmpress's ONNX files against the exporter's ordinary ones.

    python runtimes/bench/networks.py docs/benchmarks/networks.json [typeseg | vision | speech ...]

The networks are docs/examples/networks; typeseg needs `pip install typeseg==0.2.7`. All files of a
network are loaded in this process and take turns, one thread, one call a turn on its example's
sizes; ratios are medians of the ratios of a turn, and beside them those of the fastest turns, for a
busy machine.

    exporter        typeseg: its own ONNX file, with a Scan; the others: torch.onnx.export of the
                    module with mamba-ssm's selective_scan_ref, a loop over the steps in PyTorch,
                    which the exporter writes out; in stock ONNX Runtime
    without_library the dense file in stock ONNX Runtime: the fallback functions, with a Scan
    dense           the same file with the op library
    dense_int8      all matrices in int8
    sparse          70 % of every matrix's weights, the smallest, are zero; the format that
                    compress chooses
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import provenance
from numpy.typing import NDArray
from torch import Tensor, nn

import ssmpress
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph.traced import export_network
from ssmpress.machine import get_library_path, host_machine
from ssmpress.nets import stand_ins
from ssmpress.nets.stand_ins import scan
from ssmpress.nets.trace import Traced, trace
from ssmpress.nets.user_file import load_network
from ssmpress.pack.matrix import pack
from ssmpress.pack.model import PackedTensors, as_matrix, pack_tensors
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.runtime.onnx_runtime import import_onnxruntime

EXAMPLES = Path(__file__).parents[2] / "docs/examples/networks"
NETWORKS = {
    "typeseg": EXAMPLES / "typeseg_net.py",
    "vision": EXAMPLES / "vision_mamba.py",
    "speech": EXAMPLES / "speech_enhancement.py",
}
SPARSITY = 0.7
ROUNDS = 15
Arrays = Mapping[str, NDArray[Any]]
