"""Mamba-1 in plain PyTorch: the definition of every layer, for prefill and for one token.

Paper: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752 (sections and equations below are its own).

Glossary
    b, l        batch, sequence length
    d_model     width of the residual stream
    d, d_inner  channels of the mixer (expand * d_model)
    n, d_state  state size per channel
    r, dt_rank  rank of the delta projection
    k, d_conv   taps of the causal convolution
    delta       step size after softplus;  A = -exp(A_log), negative
    state       what a layer carries to the next token: conv (b, k-1, d) and scan (b, n, d)

Tensors are channel-last, the scan state is (b, n, d) and A is (n, d): the layout of the ONNX ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmpress.checkpoint import Checkpoint, ModelConfig
from ssmpress.selective_scan import selective_scan

ScanFunction = Callable[..., tuple[Tensor, Tensor]]
"""Takes and returns what `selective_scan` does."""


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution over time, then SiLU.

        y_t = silu(bias + sum_j weight_j x_{t - (k-1) + j})

    Args:
        x: float (b, l, d). weight: float (k, d), the last row meets the newest token.
        bias: float (d,). state: float (b, k-1, d), the inputs before x, oldest first.

    Returns:
        y (b, l, d) and the last k-1 inputs (b, k-1, d).

    Source: arXiv 2312.00752, section 3.4.
    """
    taps, length = weight.shape[0], x.shape[1]
    padded = torch.cat([state.to(x.dtype), x], dim=1)  # (b, k-1+l, d)
    y = bias.expand_as(x)
    for j in range(taps):
        y = torch.addcmul(y, padded[:, j : j + length], weight[j])
    return F.silu(y), padded[:, length:]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32. x: (..., d_model)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, float (..., d_model); the result is float32."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 activations, one scale per token: the definition in docs/sparse_format.md.

    Args:
        x: float32 (..., c).

    Returns:
        Integers in [-127, 127] as float32 (..., c), and the scale (..., 1).
    """
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
    return torch.round(x / scale), scale


class Projection(nn.Linear):
    """y = x Wᵀ + b; with `int8_inputs`, x is quantised first, as the int8 ops do it.

    The weights are not touched: give it the unpacked ones.
    """

    int8_inputs = False

    def product(self, x: Tensor) -> Tensor:
        """x Wᵀ without the bias. x: (..., columns) -> (..., rows)."""
        if not self.int8_inputs:
            return F.linear(x, self.weight)
        x_q, scale = quantize_activations(x.float())
        return F.linear(x_q, self.weight) * scale

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., columns) -> (..., rows)."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias


@dataclass
class State:
    """What the layers carry from one token to the next; one tensor per layer in each list.

    conv: float (b, d_conv - 1, d_inner), the last inputs of the convolution, oldest first.
    scan: float (b, d_state, d_inner), h of the selective scan.
    """

    conv: list[Tensor]
    scan: list[Tensor]

    @staticmethod
    def zeros(
        config: ModelConfig,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """The state before the first token."""

        def layers(rows: int) -> list[Tensor]:
            shape = (batch, rows, config.d_inner)
            return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]

        return State(conv=layers(config.d_conv - 1), scan=layers(config.d_state))


class Mixer(nn.Module):
    """The Mamba block: in_proj, convolution, selective scan, out_proj (figure 3 of the paper)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, n, r = config.d_inner, config.d_state, config.dt_rank
        self.dt_rank, self.d_state = r, n
        self.in_proj = Projection(config.d_model, 2 * d, bias=config.proj_bias)
        self.conv1d = nn.Conv1d(d, d, config.d_conv, groups=d, bias=config.conv_bias)
        self.x_proj = Projection(d, r + 2 * n, bias=False)
        self.dt_proj = Projection(r, d, bias=True)
        self.A_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(d, 1))  # (d, n)
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = Projection(d, config.d_model, bias=config.proj_bias)

    def conv_weight(self) -> tuple[Tensor, Tensor]:
        """Weight (k, d) and bias (d,) of the convolution; the bias is zero where there is none."""
        weight = self.conv1d.weight[:, 0].T
        bias = self.conv1d.bias
        return weight, torch.zeros_like(weight[0]) if bias is None else bias

    def forward(
        self, x: Tensor, conv: Tensor, scan: Tensor, scan_by: ScanFunction = selective_scan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model), the layer's two states -> y (b, l, d_model), the states after it."""
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (b, l, d) each
        u, conv = causal_conv1d(u, *self.conv_weight(), conv)
        delta, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = self.dt_proj.product(delta)  # its bias belongs to the scan
        A = -torch.exp(self.A_log.float()).T  # (n, d)
        with torch.autocast(x.device.type, enabled=False):
            tensors = (t.float() for t in (u, delta, self.dt_proj.bias, A, B, C, self.D, z, scan))
            y, scan = scan_by(*tensors)
        return self.out_proj(y), conv, scan


def fused_kernels() -> Any | None:
    """`mamba_inner_fn` of the optional package mamba-ssm, or None where it cannot be used."""
    if not torch.cuda.is_available():
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn
    except ImportError:
        return None
    return mamba_inner_fn


class Layer(nn.Module):
    """x + Mixer(RMSNorm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer = Mixer(config)
        self.norm = RMSNorm(config)

    def forward(
        self, x: Tensor, conv: Tensor, scan: Tensor, scan_by: ScanFunction = selective_scan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, l, d_model) and the states -> the same, after this layer."""
        y, conv, scan = self.mixer(self.norm(x), conv, scan, scan_by)
        return x + y, conv, scan

    def forward_fused(self, x: Tensor, mamba_inner_fn: Any) -> Tensor:
        """`forward` from the zero state by mamba-ssm's CUDA kernels; the states are not kept."""
        m = self.mixer
        b, length, _ = x.shape
        flat = torch.matmul(m.in_proj.weight, self.norm(x).flatten(0, 1).t())  # one product
        xz = flat.view(-1, b, length).transpose(0, 1)  # (b, 2d, l)
        if m.in_proj.bias is not None:
            xz = xz + m.in_proj.bias[:, None]
        y: Tensor = mamba_inner_fn(
            xz, m.conv1d.weight, m.conv1d.bias, m.x_proj.weight, m.dt_proj.weight,
            m.out_proj.weight, m.out_proj.bias, -torch.exp(m.A_log.float()), None, None,
            m.D.float(), delta_bias=m.dt_proj.bias.float(), delta_softplus=True,
        )  # fmt: skip
        return x + y


class Backbone(nn.Module):
    """Embedding, layers and the last norm; parameter names are mamba-ssm's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config)


class Mamba(nn.Module):
    """A Mamba-1 language model.

    `forward` is prefill and decode: tokens (b, l) and the state before them give logits and the
    state after them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = Projection(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    @staticmethod
    def from_checkpoint(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Mamba:
        """The model with the checkpoint's weights, in float32 on `device`, in eval mode."""
        with torch.device("meta"):
            model = Mamba(checkpoint.config)
        model = model.to_empty(device=device)
        model.tie_weights()
        model.load_state_dict(checkpoint.tensors, strict=not checkpoint.config.tie_embeddings)
        return model.eval()

    def tie_weights(self) -> None:
        """Make the head the embedding again, where the configuration ties them."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def tensors(self) -> dict[str, Tensor]:
        """Weights under their canonical names; a tied head is left out. Shares storage."""
        tensors = {name: t.detach() for name, t in self.state_dict().items()}
        if self.config.tie_embeddings:
            del tensors["lm_head.weight"]
        return tensors

    def layer_inputs(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Residual stream after the last layer, before the last norm, and the state.

        Args:
            tokens: int (b, l). state: the state before them; None is the zero state.

        Returns:
            float32 (b, l, d_model) and the state after the tokens.
        """
        if state is None:
            state = State.zeros(self.config, tokens.shape[0], tokens.device)
        x = self.backbone.embedding(tokens).float()
        after = State([], [])
        for layer, conv, scan in zip(self.backbone.layers, state.conv, state.scan, strict=True):
            x, conv, scan = layer(x, conv, scan)
            after.conv.append(conv)
            after.scan.append(scan)
        return x, after

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., vocab_size) from the residual stream (..., d_model)."""
        logits: Tensor = self.lm_head(self.backbone.norm_f(x))
        return logits

    def forward(
        self, tokens: Tensor, state: State | None = None, positions: Sequence[int] | None = None
    ) -> tuple[Tensor, State]:
        """tokens int (b, l) -> logits float (b, l or len(positions), vocab_size) and the state."""
        x, after = self.layer_inputs(tokens, state)
        if positions is not None:
            x = x[:, list(positions)]
        return self.head(x), after

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (b, l, vocab_size) from the zero state: the path for training and calibration.

        Uses mamba-ssm's kernels on a GPU where that package is importable.
        """
        mamba_inner_fn = fused_kernels() if tokens.is_cuda else None
        if mamba_inner_fn is None:
            return self.forward(tokens)[0]
        x = self.backbone.embedding(tokens).float()
        for layer in self.backbone.layers:
            assert isinstance(layer, Layer)
            x = layer.forward_fused(x, mamba_inner_fn)
        return self.head(x)
