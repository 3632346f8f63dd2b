"""A Mamba-1 checkpoint as GGUF, llama.cpp's file format, and its quantisations.

Names and layout are those that llama.cpp's `mamba` architecture reads: A as -exp(A_log), the
convolution as (d_inner, d_conv), no output.weight where the head is tied. The file has no tokenizer
(llama.cpp calls that `no_vocab`): the benchmarks feed token numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from peer_worker import silence
from torch import Tensor

from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.errors import BadInputError

CONTEXT = 1 << 20  # llama.cpp's converter writes this for Mamba: its state does not grow

QUANTISATIONS = {
    "F16": (1, False),
    "Q8_0": (7, False),
    "Q4_0": (2, False),
    "Q4_0-pure": (2, True),
    "Q4_K_M": (15, False),
}
"""Name -> LLAMA_FTYPE of llama.h, and `pure`: every matrix the same, the embedding too."""

_IN_LAYER = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.x_proj.weight": "ssm_x.weight",
    "mixer.dt_proj.weight": "ssm_dt.weight",
    "mixer.dt_proj.bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.out_proj.weight": "ssm_out.weight",
}
_OUTSIDE = {
    "backbone.embedding.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """`backbone.layers.3.mixer.D` -> `blk.3.ssm_d`.

    Raises:
        BadInputError: llama.cpp's Mamba has no such tensor (biases of in_proj and out_proj).
    """
    parts = name.split(".", 3)
    in_layer = _IN_LAYER.get(parts[-1]) if parts[1] == "layers" else None
    found = f"blk.{parts[2]}.{in_layer}" if in_layer is not None else _OUTSIDE.get(name)
    if found is None:
        raise BadInputError(
            f"{name}: llama.cpp's Mamba has no tensor for it; only models without biases of "
            "in_proj and out_proj can be written as GGUF."
        )
    return found


def write(config: ModelConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write all tensors as float32.

    Raises:
        BadInputError: the model has a tensor that llama.cpp's Mamba does not know, or no bias in
            its convolution.
    """
    mixer = config.layers[0].mixer
    plain = isinstance(mixer, Mamba1Config) and mixer.dbc_norm_eps is None
    if len(set(config.layers)) > 1 or not plain:
        raise BadInputError(
            f"{path}: expected equal Mamba-1 layers, as llama.cpp's Mamba has them."
        )
    if not mixer.conv_bias:
        raise BadInputError(f"{path}: llama.cpp's Mamba needs conv1d.bias; this model has none.")
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("ssmpress benchmark")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config.n_layer)
    writer.add_ssm_conv_kernel(mixer.d_conv)
    writer.add_ssm_inner_size(mixer.d_inner)
    writer.add_ssm_state_size(mixer.d_state)
    writer.add_ssm_time_step_rank(mixer.dt_rank)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        if name.endswith("A_log"):
            array = -np.exp(array)
        elif name.endswith("conv1d.weight"):
            array = array[:, 0]
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, out: Path, name: str, threads: int) -> None:
    """llama.cpp's own quantisation of an F32 file; name: a key of QUANTISATIONS.

    Raises:
        BadInputError: llama.cpp refuses.
    """
    import llama_cpp

    silence(llama_cpp)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype, parameters.pure = QUANTISATIONS[name]
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(out).encode(), ctypes.byref(parameters)
    )
    if code != 0:
        raise BadInputError(f"{source}: llama.cpp could not quantise it to {name}: code {code}.")
