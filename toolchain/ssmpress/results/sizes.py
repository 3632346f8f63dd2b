"""Matrices of a bundle and the bytes of everything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredShape:
    """What of a matrix is stored: without the channels that were removed, and its zeros there."""

    rows: int
    columns: int
    zeros: int


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of the bundle.

    name: checkpoint key. layer: 0 .. n_layer - 1, None outside the layers. component: in_proj,
    x_proj, dt_proj, out_proj, embedding or lm_head. rows, columns: in the checkpoint; the bundle
    has fewer where channels were removed. zeros: weights that are exactly 0. empty_rows: rows
    of zeros. format: name of an `ops.Format`. stored_bytes: packed sections with padding. reason:
    why this format was chosen, one clause. stored: the shape that format, bytes and reason refer
    to; None: the checkpoint's.
    """

    name: str
    layer: int | None
    component: str
    rows: int
    columns: int
    zeros: int
    empty_rows: int
    prunable: bool
    format: str
    stored_bytes: int
    reason: str
    stored: StoredShape | None = None

    @property
    def weights(self) -> int:
        """rows x columns."""
        return self.rows * self.columns

    @property
    def dense_bytes(self) -> int:
        """Bytes as dense float32."""
        return 4 * self.weights


@dataclass(frozen=True)
class LayerState:
    """The state of a layer, for one sequence.

    dense_numbers, numbers: per channel, in the checkpoint and in the bundle; None where the layer
    has no such number, as attention. dense_bytes, bytes: of all that it carries to the next token,
    float32; of one token where that grows with every token.
    """

    layer: int
    dense_numbers: int | None
    numbers: int | None
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class Size:
    """Bytes. dense_fp32: all parameters as float32, tied ones once. input_checkpoint: the weight
    files that were read. model: model.onnx with its external data. bundle: every file of this
    model that a device needs (model, op library, tokenizer), without the report and the manifest.
    runtime: ONNX Runtime and ssmrun, the same for every bundle.
    """

    dense_fp32_bytes: int
    input_checkpoint_bytes: int
    model_bytes: int
    bundle_bytes: int
    runtime_bytes: int = 0
