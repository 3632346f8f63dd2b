"""Small checkpoint files as people have them, each with what reading it says.

`python tests/files_as_found.py FOLDER` writes all of them, a folder each, to look at or to try
another tool on. checkpoint/test_files_as_found.py makes and reads each one.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import mamba1_config, random_checkpoint
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba
from ssmpress.checkpoint.write import write_checkpoint

SIZES = {"d_model": 8, "n_layer": 2, "vocab_size": 16, "d_state": 4, "d_inner": 16, "dt_rank": 3}
CONFIG = mamba1_config(**SIZES)
LAYER = "backbone.layers.1.mixer."
IN_PROJ = LAYER + "in_proj.weight"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """A file as somebody has it.

    make: writes it into an empty folder, and returns what to give to compress. says: pattern of the
    note, or of the error where it is refused. config: of the model in it. tensors: those of the
    model that are not `weights()`. weights_of: what --weights-of must say.
    """

    make: Callable[[Path], Path]
    says: str
    refused: bool = False
    config: ModelConfig = CONFIG
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    weights_of: str | None = None


def weights(config: ModelConfig = CONFIG) -> Tensors:
    """The trained weights that all the files hold."""
    return random_checkpoint(config).tensors


def other_weights() -> Tensors:
    """Those of a second model of the same sizes."""
    return random_checkpoint(CONFIG, seed=1).tensors


def two_models() -> dict[str, Tensors]:
    """A module that holds its average beside itself."""
    average = named("ema_model.{}".format, other_weights())
    return {"state_dict": named("model.{}".format) | average}


def saved(make: Callable[[], Any], name: str = "weights.pt", **options: Any) -> Callable[..., Path]:
    """A file of torch.save; in a safetensors file if the name says so."""

    def write(folder: Path) -> Path:
        path = folder / name
        if path.suffix == ".safetensors":
            save_file(make(), path)
        else:
            torch.save(make(), path, **options)
        return path

    return write


def raw(content: bytes, name: str) -> Callable[[Path], Path]:
    """A file of these bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def beside(
    make: Callable[[Path], Path], **others: Mapping[str, Any] | str
) -> Callable[[Path], Path]:
    """The same with JSON files, or texts, beside it."""

    def write(folder: Path) -> Path:
        for name, content in others.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name.replace("__", ".")).write_text(text)
        return make(folder)

    return write


def named(change: Callable[[str], str], tensors: Mapping[str, Tensor] | None = None) -> Tensors:
    return {change(name): tensor for name, tensor in (tensors or weights()).items()}


def folder_with(
    change: Callable[[Tensors], Tensors], config: ModelConfig = CONFIG, **values: Any
) -> Callable[[Path], Path]:
    """A folder of mamba-ssm with other tensors, or other values in config.json."""

    def write(folder: Path) -> Path:
        write_checkpoint(config, weights(config), folder)
        torch.save(change(weights(config)), folder / "pytorch_model.bin")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return folder

    return write


# ---- objects in a pickle ----


@contextmanager
def their_classes() -> Iterator[types.ModuleType]:
    """A module of somebody's project, which is gone when the file is read."""
    module = types.ModuleType("their_project")
    for name in ("Config", "Scheduler"):
        setattr(module, name, type(name, (), {"__module__": "their_project"}))
    sys.modules["their_project"] = module
    try:
        yield module
    finally:
        del sys.modules["their_project"]


def lightning(folder: Path, **options: Any) -> Path:
    """A checkpoint of Lightning with what its loop, its scheduler and its callbacks keep."""
    with their_classes() as theirs:
        config, scheduler = theirs.Config(), theirs.Scheduler()
        config.model, scheduler.config, scheduler.owner = {"d_model": 8}, config, scheduler
        model = nn.Linear(3, 2)
        content = {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": OrderedDict(named("model.{}".format)),
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(1)}},
            "optimizer_states": [torch.optim.AdamW(model.parameters()).state_dict()],
            "lr_schedulers": [scheduler],
            "hyper_parameters": argparse.Namespace(config=config, lr=1e-3, path=Path("runs")),
            "best": np.float64(0.5),
        }
        torch.save(content, folder / "last.ckpt", **options)
    return folder / "last.ckpt"


def whole_module() -> nn.Module:
    """torch.save(model) itself, which most tutorials once taught."""
    return Mamba.from_checkpoint(random_checkpoint(CONFIG))


# ---- weights in parts ----


def parted(
    part: Callable[[nn.Module], Any], layers: slice = slice(None)
) -> tuple[Tensors, Tensors]:
    """The state dict of a model whose in_proj and out_proj compute their weights from parts, and
    those weights."""
    model = Mamba.from_checkpoint(random_checkpoint(replace(CONFIG, tie_embeddings=False)))
    torch.manual_seed(0)
    chosen = [(n, m) for n, m in model.named_modules() if n.endswith(("in_proj", "out_proj"))]
    for _, module in chosen[layers]:
        part(module)
    model.eval()
    model(torch.zeros(1, 3, dtype=torch.int64))  # old-style parts are put together by a call
    whole = {f"{name}.weight": module.weight.detach().clone() for name, module in chosen}
    return dict(model.state_dict()), whole


def parted_case(part: Callable[[nn.Module], Any], says: str) -> Found:
    with warnings.catch_warnings():  # torch's older ways of parting weights are what people used
        warnings.simplefilter("ignore")
        stored, whole = parted(part)
    config = replace(CONFIG, tie_embeddings=False)
    return Found(saved(lambda: stored), says, config=config, tensors=weights(config) | whole)


def prune_half(module: nn.Module) -> None:
    from torch.nn.utils import prune

    prune.l1_unstructured(module, "weight", amount=0.5)


class Masked(nn.Module):
    """A mask as a parametrization, as torch.ao.pruning has it."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return self.mask * weight


class Doubled(nn.Module):
    """A parametrization whose formula is in nobody's file."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def masked(module: nn.Module) -> None:
    mask = (torch.rand_like(module.weight) > 0.4).float()
    nn.utils.parametrize.register_parametrization(module, "weight", Masked(mask))


# ---- LoRA ----


def lora(
    change: Callable[[str], str] = lambda name: name, adapter: str = ".default", rank: int = 2
) -> Tensors:
    """A model with a pair beside in_proj and x_proj, as PEFT's state dict has it."""
    generator = torch.Generator().manual_seed(5)
    result = dict(weights())
    for name in (IN_PROJ, LAYER + "x_proj.weight"):
        module, weight = name.removesuffix(".weight"), result.pop(name)
        result[f"{module}.base_layer.weight"] = weight
        first = torch.randn(rank, weight.shape[1], generator=generator)
        result[f"{module}.lora_A{adapter}.weight"] = first
        second = torch.randn(weight.shape[0], rank, generator=generator)
        result[f"{module}.lora_B{adapter}.weight"] = second
    return named(lambda name: change("base_model.model." + name), result)


def merged(alpha: float, rank: int = 2, stabilised: bool = False) -> Tensors:
    stored, result = lora(rank=rank), {}
    for name in (IN_PROJ, LAYER + "x_proj.weight"):
        module = "base_model.model." + name.removesuffix(".weight")
        product = (
            stored[f"{module}.lora_B.default.weight"] @ stored[f"{module}.lora_A.default.weight"]
        )
        scale = alpha / (rank**0.5 if stabilised else rank)
        result[name] = weights()[name] + scale * product
    return result


# ---- files of others ----


def torchscript(folder: Path) -> Path:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(x)

    torch.jit.save(torch.jit.script(Tiny()), folder / "model.pt")
    return folder / "model.pt"


def npz(folder: Path) -> Path:
    np.savez(folder / "weights.npz", **{n: t.numpy() for n, t in weights().items()})
    return folder / "weights.npz"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        archive.writestr("run/best.ckpt", b"x")
    return folder / "w.zip"


def keras(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    return folder / "model.keras"


def files(**contents: str) -> Callable[[Path], Path]:
    """A folder of files by name, two underlines for a dot."""

    def write(folder: Path) -> Path:
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_text(content)
        return folder

    return write


def quantised(method: str, suffixes: tuple[str, ...]) -> Tensors:
    """Names and types that a quantiser leaves, beside the rest of the model."""
    result = dict(weights())
    module = IN_PROJ.removesuffix("weight")
    del result[IN_PROJ]
    kinds = {"qweight": torch.int32, "qzeros": torch.int32, "g_idx": torch.int32}
    for suffix in suffixes:
        result[module + suffix] = torch.ones(4, 4, dtype=kinds.get(suffix, torch.float16))
    return result


def blocks(prefix: str, count: int, second: bool) -> Tensors:
    """Mamba blocks of a network of another kind."""
    result: Tensors = {"head.weight": torch.ones(3, 8), "head.bias": torch.ones(3)}
    for number in range(count):
        block = f"{prefix}{number}.mixer."
        result[block + "in_proj.weight"] = torch.ones(32, 8)
        result[block + "out_proj.weight"] = torch.ones(8, 16)
        result[block + "A_log"] = torch.ones(2) if second else torch.ones(16, 4)
        if second:
            result[block + "dt_bias"] = torch.ones(2)
        else:
            result[block + "x_proj.weight"] = torch.ones(11, 16)
    return result


def mamba_py(name: str) -> str:
    """alxndrTL's mamba.py has the embedding, the last norm and the head outside of `mamba`."""
    name = name.removeprefix("backbone.")
    return f"mamba.{name}" if name.startswith("layers.") else name


LAYER_NORM = replace(CONFIG, norm="layer")
UNPADDED = replace(CONFIG, vocab_size=13)
COUNTERS = {
    "backbone.bn.num_batches_tracked": torch.tensor(7),
    "n_averaged": torch.tensor(100),
}

CASES: dict[str, Found] = {
    # what training loops put around a model
    "plain": Found(saved(weights), r"configuration inferred from the shapes"),
    "model_state_dict": Found(
        saved(lambda: {"model_state_dict": weights(), "epoch": 3, "loss": 2.5}),
        r"found under 'model_state_dict'; not used: epoch, loss",
    ),
    **{
        key: Found(saved(lambda key=key: {key: weights(), "epoch": 3}), rf"found under '{key}'")
        for key in ("state_dict", "model", "model_ema", "ema", "net", "params", "weights", "module")
    },
    "deepspeed": Found(
        saved(
            lambda: {
                "module": named("module.{}".format),
                "ds_version": "0.15",
                "mp_world_size": 1,
                "optimizer": None,
                "client_lr_scheduler": argparse.Namespace(lr=1),
            },
            "mp_rank_00_model_states.pt",
        ),
        r"found under 'module'; .*argparse\.Namespace.*prefix 'module\.' removed",
    ),
    "lightning": Found(
        lightning,
        r"found under 'state_dict'; not used: epoch.*objects of other classes, neither imported "
        r"nor called: .*hyper_parameters \(argparse\.Namespace\).*prefix 'model\.' removed",
    ),
    "lightning, protocol 4": Found(
        lambda folder: lightning(folder, pickle_protocol=4), r"argparse\.Namespace"
    ),
    "the module itself": Found(
        saved(whole_module, "model.pth"),
        r"objects of other classes, neither imported nor called: the file \(ssmpress\.blocks\.model"
        r"\.Mamba\)",
    ),
    "a trainer's object": Found(
        saved(lambda: argparse.Namespace(model=whole_module(), step=3)), r"found under 'model'"
    ),
    "numpy arrays": Found(
        saved(lambda: {name: tensor.numpy() for name, tensor in weights().items()}),
        r"A_log: expected a dense tensor .*got an array of NumPy\. Save tensors: torch\.save|"
        r"weight: expected a dense tensor .*got an array of NumPy\. Save tensors: torch\.save",
        refused=True,
    ),
    # prefixes
    "ddp": Found(saved(lambda: named("module.{}".format)), r"prefix 'module\.' removed"),
    "fsdp": Found(
        saved(lambda: named(lambda n: n.replace("layers.1.", "layers.1._fsdp_wrapped_module."))),
        r"prefix '_fsdp_wrapped_module\.' of FSDP removed",
    ),
    "fsdp, flat": Found(
        saved(lambda: {"_fsdp_wrapped_module._flat_param": torch.ones(9)}),
        r"got FSDP's flat ones\. Save them whole: .*FULL_STATE_DICT",
        refused=True,
    ),
    "compiled": Found(
        saved(lambda: named("_orig_mod.{}".format)), r"prefix '_orig_mod\.' of torch\.compile"
    ),
    "checkpointed": Found(
        saved(lambda: named(lambda n: n.replace("mixer.", "_checkpoint_wrapped_module.mixer."))),
        r"'_checkpoint_wrapped_module\.' of activation checkpointing removed",
    ),
    "peft": Found(
        saved(lambda: named("base_model.model.{}".format)), r"prefix 'base_model\.model\.' removed"
    ),
    "lightning's net": Found(saved(lambda: named("net.{}".format)), r"prefix 'net\.' removed"),
    "lightning's loss": Found(
        saved(lambda: named("net.{}".format) | {"criterion.weight": torch.ones(5)}),
        r"prefix 'net\.' removed; no part of the model, left out: criterion\.weight",
    ),
    "all of them": Found(
        saved(
            lambda: {"state_dict": named("module._orig_mod.model._fsdp_wrapped_module.{}".format)}
        ),
        r"'_orig_mod\.'.*'_fsdp_wrapped_module\.'.*prefix 'module\.model\.' removed",
    ),
    "mamba.py": Found(saved(lambda: named(mamba_py)), r"'mamba\.' of mamba\.py's layers removed"),
    "without backbone": Found(
        saved(lambda: named(lambda n: n.removeprefix("backbone."))), r"prefix 'backbone\.' added"
    ),
    "counters": Found(
        saved(lambda: {"state_dict": named("module.{}".format) | COUNTERS}),
        r"counters, left out: backbone\.bn\.num_batches_tracked, n_averaged",
    ),
    # several models
    "model and ema": Found(
        saved(lambda: {"model": weights(), "ema": other_weights(), "step": 9}),
        r"expected one model; got several: 'model' \(\d+ tensors, [\d,]+ values\), 'ema' "
        r"\(.*\)\. Say which: --weights-of ema\.",
        refused=True,
    ),
    "model and ema, said": Found(
        saved(lambda: {"model": weights(), "ema": other_weights(), "step": 9}),
        r"found under 'ema'; not used: model, step",
        tensors=other_weights(),
        weights_of="ema",
    ),
    "model and ema, one dict": Found(
        saved(two_models),
        r"got several: 'state_dict\.model' .*'state_dict\.ema_model' .*--weights-of state_dict\.e",
        refused=True,
    ),
    "model and ema, one dict, said": Found(
        saved(two_models),
        r"found under 'state_dict', 'ema_model'; not used: model",
        tensors=other_weights(),
        weights_of="ema_model",
    ),
    # weights in parts
    "pruned": parted_case(
        prune_half, r"pruned already: 4 masks applied, which make 50\.0% of their weights zero"
    ),
    "pruned, parametrized": parted_case(masked, r"pruned already: 4 masks applied"),
    "weight_norm": parted_case(nn.utils.weight_norm, r"weight_norm: 4 weights put together"),
    "weight_norm, of all": parted_case(
        lambda module: nn.utils.weight_norm(module, dim=None), r"weight_norm: 4 weights"
    ),
    "weight_norm, parametrized": parted_case(
        nn.utils.parametrizations.weight_norm, r"weight_norm: 4 weights put together"
    ),
    "spectral_norm": parted_case(nn.utils.spectral_norm, r"spectral_norm: 4 weights divided"),
    "spectral_norm, parametrized": parted_case(
        nn.utils.parametrizations.spectral_norm, r"spectral_norm: 4 weights divided"
    ),
    "parametrized otherwise": replace(
        parted_case(
            lambda m: nn.utils.parametrize.register_parametrization(m, "weight", Doubled()),
            r"got another parametrization, whose formula no file tells\. .*remove_parametrizations",
        ),
        refused=True,
    ),
    # LoRA
    "lora": Found(
        beside(saved(lora), adapter_config__json={"peft_type": "LORA", "lora_alpha": 16, "r": 2}),
        r"LoRA: 2 pairs of rank 2 merged with alpha 16 of .*adapter_config\.json",
        tensors=merged(16),
    ),
    "lora, stabilised": Found(
        beside(saved(lora), adapter_config__json={"lora_alpha": 6, "use_rslora": True}),
        r"merged with alpha 6",
        tensors=merged(6, stabilised=True),
    ),
    "lora, alpha in the file": Found(
        saved(lambda: {"model": lora(), "hyper_parameters": argparse.Namespace(lora_alpha=4)}),
        r"merged with alpha 4 of lora_alpha in",
        tensors=merged(4),
    ),
    "lora, alpha unknown": Found(
        saved(lora),
        r"expected lora_alpha, .*there is no adapter_config\.json beside the weights.*Put the "
        r"adapter_config\.json that training wrote there.*merge_and_unload",
        refused=True,
    ),
    "lora, two": Found(
        saved(lambda: lora() | lora(adapter=".style")),
        r"expected one LoRA adapter; got default, style",
        refused=True,
    ),
    "dora": Found(
        beside(saved(lora), adapter_config__json={"lora_alpha": 16, "use_dora": True}),
        r"expected plain LoRA; got LORA with use_dora",
        refused=True,
    ),
    "adapter alone": Found(
        files(adapter_config__json='{"lora_alpha": 16}', adapter_model__safetensors="x"),
        r"got a LoRA adapter without its base model .*merge_and_unload",
        refused=True,
    ),
    # shapes
    "vocabulary, unpadded": Found(
        folder_with(lambda t: t, UNPADDED, vocab_size=13, pad_vocab_size_multiple=8),
        r"vocabulary of 13, the rows of .*although config\.json leads to 16 \(vocab_size 13, ",
        config=UNPADDED,
    ),
    "vocabulary, padded further": Found(
        folder_with(lambda t: t, vocab_size=7), r"vocabulary of 16, the rows of", config=CONFIG
    ),
    "LayerNorm": Found(folder_with(lambda t: t, LAYER_NORM), r"^$", config=LAYER_NORM),
    "LayerNorm, bare": Found(
        saved(lambda: weights(LAYER_NORM)), r"LayerNorm, tied embedding", config=LAYER_NORM
    ),
    "LayerNorm, said to be RMS": Found(
        folder_with(lambda t: t, LAYER_NORM, rms_norm=True),
        r"norm\.bias: expected no such tensor; got one\. Check rms_norm in config\.json",
        refused=True,
    ),
    "a network, Mamba-2": Found(
        saved(lambda: blocks("encoder.layers.", 3, second=True)),
        r"It has 3 Mamba-2 blocks under 'encoder\.layers\.', and 2 other tensors, such as "
        r"head\.weight\. Give the weights of a whole language model.*checkpoints\.md",
        refused=True,
    ),
    "a network, Mamba-1": Found(
        saved(lambda: {"net": blocks("enc.", 2, second=False)}, "best.ckpt"),
        r"It has 2 Mamba-1 blocks under 'enc\.'",
        refused=True,
    ),
    "no Mamba": Found(
        saved(lambda: nn.Linear(3, 2).state_dict()),
        r"It has no Mamba block; its 2 tensors are weight \(2, 3\), bias \(2,\)",
        refused=True,
    ),
    # other formats
    "gguf": Found(raw(b"GGUF" + bytes(60), "m.gguf"), r"got a GGUF file, of llama\.cpp", True),
    "onnx": Found(raw(b"\x08\x08\x12\x07pytorch" + bytes(60), "m.onnx"), r"ONNX model", True),
    "onnx, renamed": Found(
        raw(b"\x08\x08\x12\x07pytorch" + bytes(60), "m.bin"),
        r"got an ONNX model, whose weights have lost their names.*Give the checkpoint",
        True,
    ),
    "npz": Found(npz, r"got arrays of NumPy \(\.npz\)\. .*np\.load\('weights\.npz'\)", True),
    "npy": Found(raw(b"\x93NUMPY\x01\x00", "a.npy"), r"got a single array of NumPy", True),
    "torchscript": Found(torchscript, r"TorchScript program\. .*torch\.jit\.load\('FILE'\)", True),
    "keras, h5": Found(
        raw(b"\x89HDF\r\n\x1a\n" + bytes(60), "m.h5"), r"got an HDF5 file, of Keras", True
    ),
    "keras": Found(keras, r"got a model of Keras", True),
    "tensorflow": Found(files(saved_model__pb="x"), r"got a model of TensorFlow", True),
    "tflite": Found(raw(b"\x1c\0\0\0TFL3" + bytes(60), "m.tflite"), r"TensorFlow Lite", True),
    "flax": Found(raw(b"\x81\xa6params" + bytes(60), "flax_model.msgpack"), r"of Flax", True),
    "distributed": Found(
        files(__0_0__distcp="x", __metadata="x"), r"format_utils dcp_to_torch", True
    ),
    "zero": Found(files(zero_pp_rank_0_mp_rank_00_optim_states__pt="x"), r"zero_to_fp32\.py", True),
    "gzip": Found(raw(b"\x1f\x8b\x08" + bytes(60), "w.pt.gz"), r"gunzip w\.pt\.gz", True),
    "no config.json": Found(
        lambda folder: saved(weights, "best.ckpt")(folder).parent,
        r"expected a config\.json beside the weights; there is none\. .*the sizes: .*best\.ckpt",
        True,
    ),
    "weights of tensorflow": Found(
        files(config__json='{"d_model": 8, "n_layer": 2, "vocab_size": 16}', tf_model__h5="x"),
        r"got tf_model\.h5, of TensorFlow\. Convert them with transformers 4",
        True,
    ),
    "zipped": Found(zipped, r"got a zip file of weights\. Unpack it first: unzip w\.zip", True),
    "a web page": Found(raw(b"<!DOCTYPE html><html>", "w.bin"), r"got a web page", True),
    "pickle": Found(
        raw(pickle.dumps({"a": np.ones(3)}), "w.pkl"), r"got a plain pickle, .*torch\.save", True
    ),
    # rounded weights
    "gptq": Found(
        saved(lambda: quantised("gptq", ("qweight", "qzeros", "scales", "g_idx"))),
        r"got GPTQ\. Convert quantised",
        True,
    ),
    "awq": Found(
        saved(lambda: quantised("awq", ("qweight", "qzeros", "scales"))), r"got AWQ or GPTQ", True
    ),
    "bitsandbytes": Found(
        saved(lambda: quantised("bitsandbytes", ("weight", "SCB"))), r"got bitsandbytes", True
    ),
    "by config.json": Found(
        folder_with(lambda t: t, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantization_config: expected none; got gptq\. Give the checkpoint that it was made from",
        True,
    ),
    "float8": Found(
        saved(lambda: weights() | {IN_PROJ: weights()[IN_PROJ].to(torch.float8_e4m3fn)}),
        r"got float8_e4m3fn\. Convert quantised .*ssmpress rounds the weights itself",
        True,
    ),
    "float8, safetensors": Found(
        saved(
            lambda: weights() | {IN_PROJ: weights()[IN_PROJ].to(torch.float8_e4m3fn)},
            "w.safetensors",
        ),
        r"got float8_e4m3fn",
        True,
    ),
    "int8": Found(
        saved(lambda: weights() | {IN_PROJ: torch.ones(32, 8, dtype=torch.int8)}),
        r"got int8\. Convert quantised",
        True,
    ),
}


def main(folder: Path) -> None:
    """Write every file into a folder of its name, with what is expected of it."""
    for name, found in CASES.items():
        place = folder / name.replace(" ", "_").replace(",", "").replace("'", "")
        place.mkdir(parents=True)
        path = found.make(place)
        verdict = "refused" if found.refused else "read"
        print(f"{path.relative_to(folder)}: {verdict}: {found.says}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
