"""Which of their modules has which name, and what stands for it; a package stands before what is
in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.nets.stand_ins import kernels, mambapy, models, norms, scan, ssd
from ssmpress.nets.stand_ins.block import Block, OldBlock
from ssmpress.nets.stand_ins.convolution import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
)
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.stand_ins.mamba2 import Mamba2, Mamba2Simple
from ssmpress.nets.stand_ins.state_update import (
    selective_state_update,
    selective_state_update_ref,
)

_Content = Mapping[str, Any]

_CONVOLUTION: _Content = {
    "causal_conv1d_fn": causal_conv1d_fn,
    "causal_conv1d_update": causal_conv1d_update,
}
_SCAN: _Content = {
    name: getattr(scan, name)
    for name in (
        "selective_scan_fn",
        "selective_scan_ref",
        "SelectiveScanFn",
        "mamba_inner_fn",
        "mamba_inner_ref",
        "mamba_inner_fn_no_out_proj",
        "bimamba_inner_fn",
        "bimamba_inner_ref",
    )
}
_NORMS: _Content = {
    name: getattr(norms, name)
    for name in ("RMSNorm", "layer_norm_fn", "rms_norm_fn", "layer_norm_ref", "rms_norm_ref")
}
_UPDATE: _Content = {
    "selective_state_update": selective_state_update,
    "selective_state_update_ref": selective_state_update_ref,
}

MODULES: Mapping[str, _Content] = {
    "mamba_ssm": {
        "__version__": "2.3.2",
        "Mamba": Mamba,
        "Mamba2": Mamba2,
        "MambaLMHeadModel": models.MambaLMHeadModel,
        "selective_scan_fn": scan.selective_scan_fn,
        "mamba_inner_fn": scan.mamba_inner_fn,
    },
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": {
        "Mamba": Mamba,
        "Block": OldBlock,
        **_SCAN,
        **_NORMS,
        **_UPDATE,
        **_CONVOLUTION,
    },
    "mamba_ssm.modules.mamba2": {"Mamba2": Mamba2},
    "mamba_ssm.modules.mamba2_simple": {"Mamba2Simple": Mamba2Simple},
    "mamba_ssm.modules.block": {"Block": Block},
    "mamba_ssm.modules.mlp": {"GatedMLP": models.GatedMLP},
    "mamba_ssm.models": {},
    "mamba_ssm.models.config_mamba": {"MambaConfig": models.MambaConfig},
    "mamba_ssm.models.mixer_seq_simple": {
        "create_block": models.create_block,
        "_init_weights": models.first_values,
        "MixerModel": models.MixerModel,
        "MambaLMHeadModel": models.MambaLMHeadModel,
        "MambaConfig": models.MambaConfig,
    },
    "mamba_ssm.utils": {},
    "mamba_ssm.utils.generation": {
        "GenerationMixin": models.GenerationMixin,
        "InferenceParams": models.InferenceParams,
    },
    "mamba_ssm.utils.hf": {
        "load_config_hf": models.load_config_hf,
        "load_state_dict_hf": models.load_state_dict_hf,
    },
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {**_SCAN, "causal_conv1d_fn": causal_conv1d_fn},
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.layer_norm": _NORMS,
    "mamba_ssm.ops.triton.layernorm": _NORMS,
    "mamba_ssm.ops.triton.layernorm_gated": {
        "RMSNorm": norms.GatedRMSNorm,
        "LayerNorm": norms.GatedLayerNorm,
        "rmsnorm_fn": norms.rmsnorm_fn,
        "layernorm_fn": norms.layernorm_fn,
    },
    "mamba_ssm.ops.triton.ssd_combined": {
        "mamba_chunk_scan_combined": ssd.mamba_chunk_scan_combined,
        "mamba_split_conv1d_scan_combined": ssd.mamba_split_conv1d_scan_combined,
    },
    "mamba_ssm.ops.triton.selective_state_update": _UPDATE,
    "causal_conv1d": _CONVOLUTION,
    "causal_conv1d.causal_conv1d_interface": {
        **_CONVOLUTION,
        "causal_conv1d_ref": causal_conv1d_ref,
    },
    "causal_conv1d.cpp_functions": {
        "causal_conv1d_fwd_function": kernels.conv_fwd,
        "causal_conv1d_bwd_function": kernels.conv_bwd,
        "causal_conv1d_update_function": kernels.conv_update,
    },
    "causal_conv1d_cuda": {
        "causal_conv1d_fwd": kernels.conv_fwd,
        "causal_conv1d_bwd": kernels.conv_bwd,
        "causal_conv1d_update": kernels.conv_update,
    },
    "selective_scan_cuda": {"fwd": kernels.scan_fwd, "bwd": kernels.scan_bwd},
    **{
        f"selective_scan_cuda_{kind}": {"fwd": kernels.rows_fwd, "bwd": kernels.rows_bwd}
        for kind in ("core", "nrow", "oflex")
    },
    "mambapy": {},
    "mambapy.pscan": {"pscan": mambapy.pscan},
    "mambapy.mamba": {
        name: getattr(mambapy, name)
        for name in ("Mamba", "MambaBlock", "MambaConfig", "ResidualBlock", "RMSNorm")
    },
}
