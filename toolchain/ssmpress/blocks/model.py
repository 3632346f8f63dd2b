"""Mamba-1 in plain PyTorch: the definition of every layer, for prefill and for one token.

A language model, a classifier and a forecaster share all of it but what is before the first layer
and after the last norm: see `Backbone.embed` and `Mamba.outputs`.

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
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmpress.blocks.ordered_scan import ordered_kernels
from ssmpress.blocks.selective_scan import selective_scan
from ssmpress.checkpoint.config import ModelConfig
from ssmpress.checkpoint.read import Checkpoint

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

    conv: float (b, d_conv - 1, d), the last inputs of the convolution, oldest first.
    scan: float (b, d_state, d), h of the selective scan. d: the layer's channels.
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
            shapes = [(batch, rows, config.channels_of(i)) for i in range(config.n_layer)]
            return [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]

        return State(conv=layers(config.d_conv - 1), scan=layers(config.d_state))


class Mixer(nn.Module):
    """The Mamba block: in_proj, convolution, selective scan, out_proj (figure 3 of the paper)."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        d, n, r = channels, config.d_state, config.dt_rank
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

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.mixer = Mixer(config, channels)
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
        self.task = config.task
        if config.has_vocabulary:
            self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        else:
            self.patch_embedding = Projection(config.patch, config.d_model, bias=True)
        self.layers = nn.ModuleList(
            Layer(config, config.channels_of(i)) for i in range(config.n_layer)
        )
        self.norm_f = RMSNorm(config)

    def embed(self, inputs: Tensor) -> Tensor:
        """The first layer's input, float32.

        Args:
            inputs: int (b, l), tokens, or float (b, lookback, variates), a forecaster's windows.

        Returns:
            (b, l, d_model), or (b * variates, patches, d_model): each variate is a sequence.
        """
        embedding = self.embedding if self.task.reads_tokens else self.patch_embedding
        embedded: Tensor = embedding(self.task.entries(inputs))
        return embedded.float()


class Mamba(nn.Module):
    """A Mamba-1 model: a language model, a classifier or a forecaster (`config.task`).

    `forward` is a language model's prefill and decode: tokens (b, l) and the state before them give
    logits and the state after them. `predict` is the other two's whole way.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        if config.outputs:
            self.head = Projection(config.d_model, config.outputs, bias=True)
            return
        self.lm_head = Projection(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    @staticmethod
    def from_checkpoint(source: Checkpoint, device: torch.device | str = "cpu") -> Mamba:
        """The model with the checkpoint's weights, in float32 on `device`, in eval mode."""
        with torch.device("meta"):
            model = Mamba(source.config)
        model = model.to_empty(device=device)
        model.tie_weights()
        tied = source.config.tie_embeddings
        model.load_state_dict(source.tensors, strict=not tied)
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
        x = self.backbone.embed(tokens)
        after = State([], [])
        for layer, conv, scan in zip(self.backbone.layers, state.conv, state.scan, strict=True):
            x, conv, scan = layer(x, conv, scan)
            after.conv.append(conv)
            after.scan.append(scan)
        return x, after

    def lm_logits(self, x: Tensor) -> Tensor:
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
        return self.lm_logits(x), after

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (b, l, vocab_size) from the zero state: the path for training and calibration."""
        logits: Tensor = self.lm_head(self.hidden(tokens))
        return logits

    def hidden(
        self,
        inputs: Tensor,
        recompute: bool = False,
        ordered: bool = False,
        checkpoint_level: int | None = None,
    ) -> Tensor:
        """The head's input from the zero state, of every task: after the last norm.

        Uses mamba-ssm's kernels on a GPU where that package is importable.

        Args:
            inputs: as in `Backbone.embed`.
            recompute: keep only each layer's input for the backward pass and run the layer again
                there: a third more work, a fraction of the memory.
            ordered: add gradients up in a fixed order on a GPU too; on a CPU it is always fixed.
            checkpoint_level: of mamba-ssm's kernels; 0 keeps two more tensors per layer, 5 %
                faster. None is theirs.

        Returns:
            float32 (b, l, d_model), or (b * variates, patches, d_model) in a forecaster.
        """
        kernels = fused_kernels() if inputs.is_cuda and not ordered else None
        scan = (ordered_kernels() if inputs.is_cuda and ordered else None) or selective_scan
        if kernels is not None and checkpoint_level is not None and not recompute:
            kernels = partial(kernels, checkpoint_lvl=checkpoint_level)
        x = self.backbone.embed(inputs)
        state = State.zeros(self.config, x.shape[0], x.device)

        def run(layer: Any, x: Tensor, before: Sequence[Tensor]) -> Tensor:
            if kernels is not None:
                fused: Tensor = layer.forward_fused(x, kernels)
                return fused
            y: Tensor = layer(x, *before, scan)[0]
            return y

        for layer, *before in zip(self.backbone.layers, state.conv, state.scan, strict=True):
            if recompute:
                x = checkpoint(run, layer, x, before, use_reentrant=False)
            else:
                x = run(layer, x, before)
        hidden: Tensor = self.backbone.norm_f(x)
        return hidden

    def outputs(self, hidden: Tensor, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """A classifier's or forecaster's predictions from what `hidden` returns for `inputs`.

        Args:
            lengths: int (b,), tokens of each text before its padding; None is all of them.

        Returns:
            float32 logits (b, classes), or forecasts (b, horizon, variates).
        """
        head = self.head if self.config.outputs else self.lm_head
        return self.config.task.read_out(head, hidden, inputs, lengths)

    def predict(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`outputs` of `hidden`: from the inputs to a classifier's or forecaster's predictions."""
        return self.outputs(self.hidden(inputs), inputs, lengths)
