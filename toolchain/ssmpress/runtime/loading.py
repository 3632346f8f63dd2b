"""A model file to a session of ONNX Runtime: options, op library, instruction set."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ssmpress.errors import (
    NO_MEMORY,
    BadInputError,
    DeviceError,
    UsageError,
    lacks_memory,
)
from ssmpress.runtime.external_data import check_external_data
from ssmpress.runtime.failures import first_line
from ssmpress.runtime.interface import read_interface
from ssmpress.runtime.onnx_runtime import import_onnxruntime
from ssmpress.runtime.session import Session


def open_session(
    model_path: str | Path,
    *,
    threads: int,
    library: str | Path | None,
    profile: bool = False,
) -> Session:
    """Load a model.

        >>> import numpy as np
        >>> from ssmpress import get_library_path, open_session
        >>> session = open_session("bundle/model.onnx", threads=1, library=get_library_path())
        >>> logits, state = session.prefill(np.array([[5, 7, 11]]))  # (b, l) -> (b, 1, vocab)
        >>> logits, state = session.step(logits[:, 0].argmax(-1), state)  # (b,) -> (b, vocab)
        >>> logits.shape
        (1, 1024)

    Args:
        model_path: model.onnx of a bundle.
        threads: of ONNX Runtime and the ops, >= 1.
        library: the op library; None runs the ops' fallbacks in stock ONNX Runtime.
        profile: write ONNX Runtime's trace; see `Session.end_profiling`.

    Raises:
        BadInputError: the model is missing, damaged, keeps tensors in a file other than its own, or
            lacks the inputs and outputs expected.
        DeviceError: the library is missing, cannot be loaded, or refuses SSMPRESS_ISA.
    """
    path = Path(model_path)
    session = _load(path, threads, library, profile)
    return Session(session, read_interface(session, path), threads)


def run_file(
    path: Path, inputs: Mapping[str, NDArray[Any]], *, threads: int, library: Path | None
) -> dict[str, NDArray[Any]]:
    """All outputs of any ONNX model, by name; it need not be one that `open_session` takes.

    Raises:
        BadInputError, DeviceError: it cannot be loaded, as `open_session` says.
    """
    session = _load(path, threads, library, profile=False)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _load(path: Path, threads: int, library: str | Path | None, profile: bool) -> Any:
    """ONNX Runtime's own session of a model."""
    if threads < 1:
        raise UsageError(f"--threads: expected at least 1; got {threads}.")
    if not path.is_file():
        raise BadInputError(f"{path}: expected an ONNX model; there is no such file.")
    check_external_data(path)
    options = _options(threads, profile)
    if library is not None:
        _register(options, Path(library))
    onnxruntime = import_onnxruntime()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if lacks_memory(error):
            raise DeviceError(f"{path}: {NO_MEMORY}") from error
        raise BadInputError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {first_line(error)}"
        ) from error


def _options(threads: int, profile: bool) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # the exception says it; stderr is the caller's
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "ssmpress")
    return options


def _register(options: Any, library: Path) -> None:
    library_isa(library)
    try:
        options.register_custom_ops_library(str(library.resolve()))
    except Exception as error:
        raise DeviceError(
            f"{library}: ONNX Runtime cannot use this op library: {first_line(error)}"
        ) from error


def library_isa(library: str | Path) -> str:
    """The instruction set that an op library uses on this machine, for example `avx2`.

    Raises:
        DeviceError: the library is missing or not loadable, or SSMPRESS_ISA names a set it
            cannot use; then the library's own sentence.
    """
    path = Path(library)
    if not path.is_file():
        raise DeviceError(
            f"{path}: the op library is missing. Install the package (pip install .), or run in "
            "stock ONNX Runtime by giving no library."
        )
    try:
        function = ctypes.CDLL(str(path.resolve())).ssmpress_isa
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path}: not an ssmpress op library for this CPU: {error}.") from error
    function.restype = ctypes.c_char_p
    answer = (function() or b"").decode("utf-8", "replace")
    if not answer.replace("_", "").isalnum():
        raise DeviceError(f"{path.name}: {answer}.")
    return str(answer)
