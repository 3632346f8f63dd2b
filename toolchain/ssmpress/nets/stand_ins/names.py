"""Which of their modules has which name, and what stands for it; a package stands before what is
in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.nets.stand_ins import mambapy, norms, scan, ssd
from ssmpress.nets.stand_ins.block import Block, OldBlock
from ssmpress.nets.stand_ins.convolution import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
)
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.stand_ins.mamba2 import Mamba2
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
    "mamba_ssm.modules.block": {"Block": Block},
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
    "mambapy": {},
    "mambapy.mamba": {
        name: getattr(mambapy, name)
        for name in ("Mamba", "MambaBlock", "MambaConfig", "ResidualBlock", "RMSNorm")
    },
}
