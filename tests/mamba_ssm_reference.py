"""mamba-ssm's own models on a CPU: its kernels replaced by its own PyTorch references of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
import torch
import torch.nn.functional as F

from ssmpress.checkpoint.dialects import config_json
from ssmpress.checkpoint.read import Checkpoint


class _Absent:
    """Finds a stand-in for what mamba-ssm imports and this test never calls: GPU code."""

    packages = ("triton", "selective_scan_cuda")
    modules = ("mamba_ssm.modules.mamba3",)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.split(".")[0] in self.packages or name in self.modules:
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> Any:
        stand_in = MagicMock(name=spec.name)
        stand_in.__version__ = "3.0.0"
        # What is compared with numbers when kernels are defined.
        stand_in.Config = lambda kwargs=None, **_: SimpleNamespace(num_warps=4, kwargs=kwargs or {})
        stand_in.autotune = lambda configs, **_: lambda _: SimpleNamespace(configs=configs)
        return stand_in

    def exec_module(self, module: ModuleType) -> None:
        pass


def load() -> SimpleNamespace:
    """mamba-ssm's model, its kernels replaced by its own PyTorch references of them."""
    if importlib.util.find_spec("mamba_ssm") is None:
        pytest.skip(
            "mamba-ssm is not installed, so its reference was not compared. `make test` installs "
            "it: MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-deps "
            "--no-build-isolation mamba-ssm==2.3.2.post1, after setuptools, wheel, packaging and "
            "einops"
        )
    pytest.importorskip("transformers")  # before the stand-ins, which it would take for triton
    finder: Any = _Absent()
    sys.meta_path.insert(0, finder)
    try:
        names = (
            "models.mixer_seq_simple",
            "models.config_mamba",
            "modules.mamba_simple",
            "ops.selective_scan_interface",
            "ops.triton.layer_norm",
            "utils.generation",
            "modules.mamba2",
            "ops.triton.ssd_combined",
            "ops.triton.layernorm_gated",
            "ops.triton.selective_state_update",
            "modules.block",
            "modules.mamba2_simple",
            "modules.mlp",
        )
        modules = [importlib.import_module(f"mamba_ssm.{name}") for name in names]
        model, config, simple, scan, norm, generation, mamba2, ssd, gated, update, *others = modules
        block, mamba2_simple, mlp = others
    finally:
        sys.meta_path.remove(finder)
        own = {name: module for name, module in sys.modules.items() if name.startswith("mamba_ssm")}
        # Nothing else shall find them: transformers, too, takes mamba-ssm's kernels where it can.
        for name in [n for n in sys.modules if n.split(".")[0] in (*_Absent.packages, "mamba_ssm")]:
            del sys.modules[name]
    simple.selective_scan_fn = scan.selective_scan_fn = scan.selective_scan_ref
    scan.causal_conv1d_fn = causal_conv1d_ref
    simple.selective_state_update = None  # the plain PyTorch lines beside it
    norm.RMSNorm.forward = lambda self, x: norm.rms_norm_ref(x, self.weight, None, eps=self.eps)
    gated.RMSNorm.forward = lambda self, x, z=None: gated.rms_norm_ref(
        x, self.weight, None, z, self.eps, self.group_size, self.norm_before_gate
    )
    mamba2.mamba_chunk_scan_combined = partial(_scan_of_heads, ssd.ssd_selective_scan, own)
    mamba2_simple.mamba_chunk_scan_combined = mamba2.mamba_chunk_scan_combined
    mamba2.causal_conv1d_fn = mamba2.selective_state_update = None
    block.layer_norm_fn = partial(_norm_of_sum, norm)
    return SimpleNamespace(
        model=model.MambaLMHeadModel,
        config=config.MambaConfig,
        inference_params=generation.InferenceParams,
        selective_scan_ref=scan.selective_scan_ref,
        mamba_inner_ref=scan.mamba_inner_ref,
        mamba=simple.Mamba,
        mamba2=mamba2.Mamba2,
        mamba2_simple=mamba2_simple.Mamba2Simple,
        block=block.Block,
        mlp=mlp.GatedMLP,
        rms_norm=norm.RMSNorm,
        rms_norm_ref=norm.rms_norm_ref,
        layer_norm_ref=norm.layer_norm_ref,
        gated_norm_ref=gated.rms_norm_ref,
        scan_of_heads=partial(_scan_of_heads, ssd.ssd_selective_scan, own),
        state_update_ref=update.selective_state_update_ref,
    )


def _scan_of_heads(
    reference: Any, modules: dict[str, ModuleType], *arguments: Any, **options: Any
) -> Any:
    """Its reference of Mamba-2's scan, which imports another of its modules."""
    used = ("D", "z", "dt_bias", "dt_softplus", "dt_limit")
    with patch.dict(sys.modules, modules):
        return reference(*arguments, **{name: options[name] for name in used if name in options})


def _norm_of_sum(norm: Any, *tensors: torch.Tensor, is_rms_norm: bool, **options: Any) -> Any:
    """Its reference of the norm between its blocks, which knows no residual in float32."""
    del options["residual_in_fp32"]
    return (norm.rms_norm_ref if is_rms_norm else norm.layer_norm_ref)(*tensors, **options)


def causal_conv1d_ref(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """What the package causal-conv1d computes. x: (b, d, l). weight: (d, k)."""
    assert activation == "silu"
    padding = weight.shape[1] - 1
    y = F.conv1d(x, weight[:, None], bias, padding=padding, groups=len(weight))
    return F.silu(y[..., : x.shape[-1]])


def with_head(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors, a tied head too."""
    yield from checkpoint.tensors.items()
    if checkpoint.config.tie_embeddings:
        yield "lm_head.weight", checkpoint.tensors["backbone.embedding.weight"]


def model_of(package: SimpleNamespace, checkpoint: Checkpoint) -> Any:
    """The checkpoint as mamba-ssm's MambaLMHeadModel."""
    values = config_json(checkpoint.config, "mamba-ssm") | {
        "pad_vocab_size_multiple": 1,
        "fused_add_norm": False,
    }
    if values["ssm_cfg"]["layer"] == "Mamba2":
        values["ssm_cfg"] |= {"use_mem_eff_path": False}
    model = package.model(package.config(**values), device="cpu").eval()
    model.load_state_dict(dict(with_head(checkpoint)))
    return model
