"""Files and weights that are not read: what each one is, and the way from it to one that is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files that may be weights of PyTorch."""

_HEADS: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"GGUF",
        "a GGUF file, of llama.cpp",
        "Give the checkpoint that it was converted from; its values are rounded already",
    ),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, of Keras or TensorFlow",
        "Load it there and save the weights by their names in PyTorch's layout (a Dense kernel is "
        "transposed): torch.save({name: torch.tensor(array)}, 'weights.pt')",
    ),
    (0, b"\x93NUMPY", "a single array of NumPy", "Give a file with all tensors by name"),
    (4, b"TFL3", "a model of TensorFlow Lite", "Give the checkpoint that it was converted from"),
    (0, b"\x1f\x8b", "a gzip file", "Unpack it first: gunzip FILE, or tar xzf FILE"),
    (0, b"\xfd7zXZ\x00", "an xz file", "Unpack it first: unxz FILE, or tar xJf FILE"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "Unpack it first: unzstd FILE"),
    (0, b"BZh", "a bzip2 file", "Unpack it first: bunzip2 FILE, or tar xjf FILE"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z file", "Unpack it first: 7z x FILE"),
    (0, b"Rar!", "a rar file", "Unpack it first: unrar x FILE"),
)
_EXPORTED = {"serialized_exported_program.json", "models/model.json", "archive_format"}
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


def check_head(path: Path, head: bytes) -> None:
    """Whether a file's first bytes are those of a known format that is not read.

    Args:
        head: at least 64 bytes, or the whole file.

    Raises:
        BadInputError: they are; says which one and what to do.
    """
    for place, magic, what, way in _HEADS:
        if head[place:].startswith(magic):
            raise _refused(path, what, way)
    if _PAGE.match(head):
        raise _refused(
            path, "a web page", "The address was a page about the file: download the file itself"
        )
    if path.suffix == ".onnx" or re.match(rb"\x08[\x01-\x20]\x12.[\x20-\x7e]{3}", head):
        raise _refused(
            path,
            "an ONNX model, whose weights have lost their names and layout",
            "Give the checkpoint that it was exported from",
        )
    if path.suffix == ".msgpack":
        raise _refused(path, "weights of Flax", "Load them in JAX and save them from PyTorch")


def check_zip(path: Path, names: Collection[str]) -> None:
    """Whether a zip file is of a known kind that is no torch.save archive.

    Args:
        names: of its entries, within the folder that such an archive has for all of them.

    Raises:
        BadInputError: it is; says which one and what to do.
    """
    if "constants.pkl" in names:
        raise BadInputError(
            f"{path}: expected a state dict; got a TorchScript program. Take the weights out of "
            "it: torch.save(torch.jit.load('FILE').state_dict(), 'weights.pt')."
        )
    if names and all(name.endswith(".npy") for name in names):
        raise _refused(
            path,
            "arrays of NumPy (.npz)",
            "Save them as tensors, under their names in the PyTorch model: torch.save({k: "
            "torch.from_numpy(v) for k, v in np.load('FILE').items()}, 'weights.pt')",
        )
    if any(name.endswith(WEIGHT_SUFFIXES) for name in names):
        raise _refused(path, "a zip file of weights", "Unpack it first: unzip FILE")
    if "model.weights.h5" in names:
        raise _refused(
            path, "a model of Keras", "Load it there and save the weights by their PyTorch names"
        )
    if not _EXPORTED.isdisjoint(names):
        raise _refused(
            path,
            "a program of torch.export",
            "Take the weights out of it: torch.save(torch.export.load('FILE').state_dict, "
            "'weights.pt')",
        )


def check_folder(folder: Path) -> None:
    """Whether a folder is a checkpoint of a known kind that is not read.

    Raises:
        BadInputError: it is; says which one and what to do.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names & {"config.json", "model.safetensors", "pytorch_model.bin"}:
        return
    for found, what, way in _folders(names):
        if found:
            raise BadInputError(f"{folder}: expected a checkpoint of PyTorch; got {what}. {way}.")


def check_weights(folder: Path) -> None:
    """Whether a folder with config.json has weights of another library only.

    Raises:
        BadInputError: it has; says which ones and what to do.
    """
    names = {path.name for path in folder.iterdir()}
    library = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax"}
    for name in library.keys() & names:
        way = "from_tf" if name.endswith(".h5") else "from_flax"
        raise BadInputError(
            f"{folder}: expected weights of PyTorch; got {name}, of {library[name]}. Convert them "
            f"with transformers 4: AutoModelForCausalLM.from_pretrained(FOLDER, {way}=True)"
            ".save_pretrained('converted')."
        )
    for found, what, way in _folders(names):
        if found:
            raise BadInputError(f"{folder}: expected weights of PyTorch; got {what}. {way}.")


def _folders(names: set[str]) -> Iterable[tuple[bool, str, str]]:
    adapter = "adapter_config.json" in names
    yield adapter, "a LoRA adapter without its base model (adapter_config.json)", MERGE_ADAPTER
    yield (
        any(name.endswith(".distcp") for name in names),
        "a distributed checkpoint of PyTorch (.distcp)",
        "Make one file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
        "FOLDER weights.pt",
    )
    yield (
        "zero_to_fp32.py" in names or any(name.startswith("zero_pp_rank_") for name in names),
        "the parts of a DeepSpeed ZeRO checkpoint",
        "Make one file of them: python zero_to_fp32.py . pytorch_model.bin",
    )
    yield (
        "saved_model.pb" in names or any(name.endswith(".ckpt.index") for name in names),
        "a model of TensorFlow",
        "Load it there and save the weights by their names in PyTorch's layout",
    )
    yield (
        any(name.endswith(".gguf") for name in names),
        "GGUF files, of llama.cpp",
        "Give the checkpoint that they were converted from",
    )


MERGE_ADAPTER = (
    "Merge it and give the folder that this writes: PeftModel.from_pretrained(base, ADAPTER)"
    ".merge_and_unload().save_pretrained('merged')"
)

_QUANTISED: tuple[tuple[str, str], ...] = (
    (r"\.(g_idx)$", "GPTQ"),
    (r"\.(qweight|qzeros)$", "AWQ or GPTQ"),
    (r"\.(absmax|quant_map|nested_absmax|quant_state\.\S+|SCB|weight_format)$", "bitsandbytes"),
    (r"\.(weight_packed|weight_scale|weight_zero_point)$", "compressed-tensors"),
    (r"\.(weight_scale_inv|input_scale)$", "float8"),
    (r"\.(W_q)$", "HQQ"),
    (r"\._packed_params\.\S+$", "PyTorch's quantised modules"),
)
_ROUNDED = ("float8", "float4", "f8", "uint4", "int4", "qint", "quint")  # types
_DEQUANTISE = (
    "Give the checkpoint that it was made from, in float16, bfloat16 or float32; ssmpress rounds "
    "the weights itself, after pruning"
)


def check_quantised(names: Mapping[str, Any], where: str) -> None:
    """Whether weights are in a form that holds rounded values.

    Args:
        names: tensors or their like by name, of which `dtype` is asked.

    Raises:
        BadInputError: they are; says whose form it is.
    """
    for pattern, method in _QUANTISED:
        if name := next((name for name in names if re.search(pattern, name)), None):
            raise _quantised(where, method, name)
    for name, tensor in names.items():
        kind = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
        if kind.lower().startswith(_ROUNDED):
            raise _quantised(where, kind, name)


def check_quantised_config(values: Mapping[str, Any], where: str) -> None:
    """Whether config.json says that the weights are quantised.

    Raises:
        BadInputError: it does; says by which method.
    """
    quantised = values.get("quantization_config")
    if isinstance(quantised, dict):
        method = str(quantised.get("quant_method", "an unknown method"))[:40]
        raise BadInputError(
            f"{where}: quantization_config: expected none; got {ascii(method)[1:-1]}. "
            f"{_DEQUANTISE}."
        )


def _quantised(where: str, method: str, name: str) -> BadInputError:
    return BadInputError(
        f"{where}: {ascii(name[:120])[1:-1]}: expected dense float16, bfloat16, float32 or float64 "
        f"values; got {method}. Convert quantised or sparse weights to floats first: "
        f"{_DEQUANTISE[0].lower()}{_DEQUANTISE[1:]}."
    )


def _refused(path: Path, what: str, way: str) -> BadInputError:
    return BadInputError(
        f"{path}: expected weights of PyTorch (.pt, .pth, .bin, .ckpt, .safetensors); got {what}. "
        f"{way.replace('FILE', path.name)}."
    )
