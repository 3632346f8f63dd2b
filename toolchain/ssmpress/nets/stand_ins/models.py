"""mamba_ssm.models, modules.mlp and utils: stacks of blocks, and what is imported beside them."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins.block import Block
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.stand_ins.mamba2 import Mamba2
from ssmpress.nets.stand_ins.norms import RMSNorm, layer_norm_fn

_MIXERS: Mapping[str, type[nn.Module]] = {"Mamba1": Mamba, "Mamba2": Mamba2}

CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


class GatedMLP(nn.Module):
    """fc2(a silu(b)), with a and b of fc1; arguments and names as in mamba_ssm."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        multiple_of: int = 128,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        wide = int(8 * in_features / 3) if hidden_features is None else hidden_features
        wide = -(-wide // multiple_of) * multiple_of
        out = in_features if out_features is None else out_features
        self.fc1 = nn.Linear(in_features, 2 * wide, bias=bias, device=device, dtype=dtype)
        self.activation = activation
        self.fc2 = nn.Linear(wide, out, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        values, gate = self.fc1(x).chunk(2, dim=-1)
        y: Tensor = self.fc2(values * self.activation(gate))
        return y


def create_block(
    d_model: int,
    d_intermediate: int | Mapping[str, Any] | None = 0,
    ssm_cfg: Mapping[str, Any] | None = None,
    attn_layer_idx: Any = None,
    attn_cfg: Any = None,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: Any = None,
    dtype: Any = None,
) -> Block:
    """A block around a mixer, and with d_intermediate around an MLP.

    ssm_cfg: arguments of the mixer, and `layer`, "Mamba1" or "Mamba2". It may stand second, where
    mamba_ssm 1 has it.

    Raises:
        BadInputError: the block is an attention block.
    """
    wide = d_intermediate if isinstance(d_intermediate, int) else 0
    ssm_cfg = ssm_cfg if isinstance(d_intermediate, int) else d_intermediate
    if attn_layer_idx and layer_idx in attn_layer_idx:
        raise BadInputError(
            "create_block: attn_layer_idx: expected none; got attention, for which ssmpress has no "
            "stand-in. Define the block in your own file, with "
            "torch.nn.functional.scaled_dot_product_attention."
        )
    options = dict(ssm_cfg or {})
    where = {"device": device, "dtype": dtype}
    mixer = _MIXERS[options.pop("layer", "Mamba1")]
    norm = RMSNorm if rms_norm else nn.LayerNorm
    mlp = partial(GatedMLP, hidden_features=wide, out_features=d_model, **where)
    block = Block(
        d_model,
        partial(mixer, layer_idx=layer_idx, **options, **where),
        mlp if wide else nn.Identity,
        norm_cls=partial(norm, eps=norm_epsilon, **where),
        fused_add_norm=fused_add_norm,
        residual_in_fp32=residual_in_fp32,
    )
    block.layer_idx = layer_idx  # type: ignore[assignment]
    return block


def first_values(
    module: nn.Module,
    n_layer: int,
    initializer_range: float = 0.02,
    rescale_prenorm_residual: bool = True,
    n_residuals_per_layer: int = 1,
) -> None:
    """`_init_weights`: what a module starts training with."""
    if isinstance(module, nn.Linear):
        if module.bias is not None and not getattr(module.bias, "_no_reinit", False):
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():
                    parameter.div_(math.sqrt(n_residuals_per_layer * n_layer))


class MixerModel(nn.Module):
    """An embedding, blocks, and a last norm."""

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        d_intermediate: int = 0,
        vocab_size: int = 0,
        ssm_cfg: Mapping[str, Any] | None = None,
        attn_layer_idx: Any = None,
        attn_cfg: Any = None,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = False,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.fused_add_norm, self.residual_in_fp32 = fused_add_norm, residual_in_fp32
        self.embedding = nn.Embedding(vocab_size, d_model, **where)
        options = (norm_epsilon, rms_norm, residual_in_fp32, fused_add_norm)
        before = (d_model, d_intermediate, ssm_cfg, attn_layer_idx, attn_cfg)
        self.layers = nn.ModuleList(
            create_block(*before, *options, layer_idx=i, **where) for i in range(n_layer)
        )
        norm: Any = RMSNorm if rms_norm else nn.LayerNorm
        self.norm_f = norm(d_model, eps=norm_epsilon, **where)
        residuals = 2 if d_intermediate else 1
        initial = {
            "n_layer": n_layer,
            "n_residuals_per_layer": residuals,
            **(initializer_cfg or {}),
        }
        self.apply(partial(first_values, **initial))

    def forward(self, input_ids: Tensor, inference_params: Any = None, **options: Any) -> Tensor:
        """int (b, l) -> (b, l, d_model)."""
        x, residual = self.embedding(input_ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, inference_params=inference_params, **options)
        if self.fused_add_norm:
            normal: Tensor = layer_norm_fn(
                x,
                self.norm_f.weight,
                self.norm_f.bias,
                eps=self.norm_f.eps,
                residual=residual,
                residual_in_fp32=self.residual_in_fp32,
                is_rms_norm=isinstance(self.norm_f, RMSNorm),
            )
            return normal
        total = x if residual is None else x + residual
        return self.norm_f(total.to(self.norm_f.weight.dtype))  # type: ignore[no-any-return]

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **options: Any
    ) -> dict[int, Any]:
        """The states of every block, by its number."""
        blocks: list[Any] = list(self.layers)
        return {
            i: block.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)
            for i, block in enumerate(blocks)
        }


@dataclass
class MambaConfig:
    """The sizes of a `MambaLMHeadModel`."""

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    attn_layer_idx: list[int] = field(default_factory=list)
    attn_cfg: dict[str, Any] = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True


@dataclass
class InferenceParams:
    """What a prompt and the steps after it share: the states of the blocks by number."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Begin again; the states stay where they are."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


class GenerationMixin:
    """Has `generate` there, which nothing calls while a network is built."""


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """A `MixerModel`, and a head for the next token."""

    def __init__(
        self,
        config: MambaConfig,
        initializer_cfg: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.config = config
        multiple = config.pad_vocab_size_multiple
        words = -(-config.vocab_size // multiple) * multiple
        self.backbone = MixerModel(
            config.d_model,
            config.n_layer,
            config.d_intermediate,
            words,
            config.ssm_cfg,
            config.attn_layer_idx,
            config.attn_cfg,
            rms_norm=config.rms_norm,
            initializer_cfg=initializer_cfg,
            fused_add_norm=config.fused_add_norm,
            residual_in_fp32=config.residual_in_fp32,
            device=device,
            dtype=dtype,
        )
        self.lm_head = nn.Linear(config.d_model, words, bias=False, device=device, dtype=dtype)
        self.apply(partial(first_values, n_layer=config.n_layer, **(initializer_cfg or {})))
        self.tie_weights()

    def tie_weights(self) -> None:
        """One matrix for embedding and head, if the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inference_params: Any = None,
        num_last_tokens: int = 0,
        **options: Any,
    ) -> CausalLMOutput:
        """int (b, l) -> logits (b, l, words), or of the last num_last_tokens."""
        x = self.backbone(input_ids, inference_params=inference_params, **options)
        x = x[:, -num_last_tokens:] if num_last_tokens else x
        return CausalLMOutput(logits=self.lm_head(x))

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: Any = None, **options: Any
    ) -> dict[int, Any]:
        """The states of every block, by its number."""
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, dtype, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name: str, *_: Any, **__: Any) -> NoReturn:
        """Refused: weights come from the file that is compressed."""
        load_config_hf(pretrained_model_name)


def load_config_hf(model_name: str) -> NoReturn:
    """Refused: nothing is downloaded while a network is built.

    Raises:
        BadInputError: always.
    """
    raise BadInputError(
        f"{model_name}: expected build to make the network by its sizes; got a name to download. "
        "Write the sizes into build, and give the weights as a file: compress FILE --net NET. A "
        "Mamba language model needs no --net: compress FOLDER."
    )


def load_state_dict_hf(model_name: str, *_: Any, **__: Any) -> NoReturn:
    """As `load_config_hf`."""
    load_config_hf(model_name)
