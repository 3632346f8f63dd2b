"""The ONNX domain: op names, formats, inputs, attributes and shapes. The one place.

`export.py` writes these ops, `runtimes/ops/` registers them with ONNX Runtime, `docs/ops.md`
and `docs/sparse_format.md` specify them byte by byte. Symbols: b batch, l sequence length,
d d_inner, n d_state, k d_conv, r rows (output features), c columns (input features).

Every op has a model-local function of the same domain and name as its fallback, so that a file
written by ssmpress also runs where the op library is not loaded.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ssmpress.errors import DeviceError

DOMAIN = "ssmpress"
DOMAIN_VERSION = 1
ONNX_OPSET = 23

SELECTIVE_SCAN = "SelectiveScan"
SELECTIVE_SCAN_INPUTS = ("u", "delta", "delta_bias", "A", "B", "C", "D", "z", "state")
SELECTIVE_SCAN_OUTPUTS = ("y", "state_out")
"""u, delta, z (b, l, d); delta_bias, D (d); A (n, d); B, C (b, l, n); state (b, n, d)."""

CAUSAL_CONV1D = "CausalConv1d"
CAUSAL_CONV1D_INPUTS = ("x", "weight", "bias", "state")
CAUSAL_CONV1D_OUTPUTS = ("y", "state_out")
"""x (b, l, d); weight (k, d); bias (d); state (b, k-1, d). SiLU is part of the op."""


class Values(StrEnum):
    """Type of the stored weights. `INT8` and `INT4` also quantise the activations, per token."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def quantizes_activations(self) -> bool:
        """Whether products are sums of integers."""
        return self in (Values.INT8, Values.INT4)


class Structure(StrEnum):
    """How the positions of the stored weights are encoded."""

    DENSE = "dense"
    BITMASK = "bitmask"
    WINDOW = "window"


_SECTIONS = {
    Structure.DENSE: ("weight",),
    Structure.BITMASK: ("bits", "start", "value"),
    Structure.WINDOW: ("order", "start", "step", "position", "value"),
}


@dataclass(frozen=True)
class Format:
    """One packed-matrix format = one op name and version."""

    structure: Structure
    values: Values
    version: int = 1

    @property
    def name(self) -> str:
        """Name in reports and manifests, for example `bitmask-int8`."""
        return f"{self.structure}-{self.values}"

    @property
    def op_type(self) -> str:
        """ONNX op type, for example `BitmaskLinearInt8`."""
        return f"{self.structure.capitalize()}Linear{self.values.capitalize()}"

    @property
    def weight_inputs(self) -> tuple[str, ...]:
        """Names of the packed sections, in the order of the op's inputs after `x`."""
        sections = _SECTIONS[self.structure]
        if self.values is Values.INT4:
            sections = (*sections, "ratio")
        return (*sections, "scale") if self.values.quantizes_activations else sections


FORMATS: tuple[Format, ...] = (
    *(
        Format(s, v)
        for s in (Structure.DENSE, Structure.BITMASK)
        for v in (Values.FP32, Values.FP16, Values.INT8)
    ),
    Format(Structure.DENSE, Values.INT4),
    Format(Structure.WINDOW, Values.FP16),
    Format(Structure.WINDOW, Values.INT8),
)
"""Every format; y = x · Wᵀ with x float32 (..., c), W (r, c) packed, y float32 (..., r)."""

EMBEDDINGS = {
    Format(Structure.DENSE, v): f"DenseEmbedding{v.capitalize()}"
    for v in (Values.INT8, Values.INT4)
}
"""Op that reads rows of a matrix: ids int64 (...), the format's sections -> float32 (..., c)."""

COLUMNS_ATTRIBUTE = "columns"
VERSION_ATTRIBUTE = "format_version"
CHANNELS_ATTRIBUTE = "channels"

CONFIG_KEY = "ssmpress.config"
"""Metadata entry of an exported model: its configuration as JSON."""

SECTION_ALIGNMENT = 64
"""Bytes. Every packed section starts on, and is padded with zeros to, a multiple of this."""

LIBRARY_NAME = "libssmpress_ops.so"
ISA_VARIABLE = "SSMPRESS_ISA"
"""Environment variable that forces a kernel set: scalar or avx2. Unknown names fail."""


RUNNER_NAME = "ssmrun"
MACHINES = ("x86_64", "aarch64")
"""Machines that the package carries an op library and a runner for, as `uname -m` names them."""


def host_machine() -> str:
    """This machine, as `MACHINES` spells it; one of another name as the system says it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def get_library_path(machine: str | None = None) -> Path:
    """Path of the op library, for `SessionOptions.register_custom_ops_library`.

    Args:
        machine: of `MACHINES`; None is this host.

    Raises:
        DeviceError: the installed package has none for it (a source tree that was not built).
    """
    return _packaged(LIBRARY_NAME, "op library", machine)


def get_runner_path(machine: str | None = None) -> Path:
    """Path of `ssmrun`, which runs a bundle without Python.

    Raises:
        DeviceError: as for `get_library_path`.
    """
    return _packaged(RUNNER_NAME, "runner", machine)


def _packaged(name: str, what: str, machine: str | None) -> Path:
    path = Path(__file__).parent / "lib" / (machine or host_machine()) / name
    if not path.is_file():
        raise DeviceError(
            f"{path}: the {what} is missing; expected it beside the Python files. "
            "Install the package: pip install ."
        )
    return path
