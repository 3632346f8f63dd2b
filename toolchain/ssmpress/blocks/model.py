"""The model in plain PyTorch: blocks stacked between an embedding and a head.

Each block's definition stands in its own file, `mamba1.py` and those beside it. A language model, a
classifier and a forecaster share all of it but what is before the first layer and after the last
norm: see `Backbone.embed` and `Mamba.outputs`.

b batch, l sequence length, d_model width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gpu import PLAIN, BlockCall, How, block_call, call_block
from ssmpress.blocks.norm import NORMS
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.tensors import MatrixSpec, layer_states, weights_of


class TrainedModel(Protocol):
    """What `Mamba.from_checkpoint` reads: a `checkpoint.read.Checkpoint`, or its like."""

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """float32 by canonical name."""
        ...


@dataclass
class State:
    """What the layers carry from one token to the next.

    names: of all tensors, as a bundle has them, such as `scan_state.3`, in the order of layers.
    layers: the tensors of each layer, (batch, ...), in the order of its blocks' states.
    """

    names: tuple[str, ...]
    layers: list[tuple[Tensor, ...]]

    @staticmethod
    def zeros(
        config: ModelConfig,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """The state before the first token."""
        layers = [layer_states(layer, number) for number, layer in enumerate(config.layers)]
        return State(
            tuple(state.name for states in layers for state in states),
            [
                tuple(torch.zeros(s.shape_at(batch), device=device, dtype=dtype) for s in states)
                for states in layers
            ],
        )

    def by_name(self) -> dict[str, Tensor]:
        """The state's tensors by their names."""
        tensors = (tensor for layer in self.layers for tensor in layer)
        return dict(zip(self.names, tensors, strict=True))


class Layer(nn.Module):
    """x + scale * block(norm(x)) for each block of the layer, one after the other or beside it."""

    def __init__(self, config: LayerConfig, model: ModelConfig) -> None:
        super().__init__()
        self.parts = config.parts()
        for part in self.parts:
            self.add_module(part.name, part.block.module(model.d_model))
            self.add_module(part.norm, NORMS[model.norm](model.d_model, model.norm_eps))

    def forward(
        self, x: Tensor, *states: Tensor, call: BlockCall = call_block
    ) -> tuple[Tensor, ...]:
        """x (b, l, d_model) and the states -> the same, after this layer.

        Args:
            call: how a block runs; see `gpu.block_call`.
        """
        after: list[Tensor] = []
        read, normal = "", x
        for name, norm, block, scale in self.parts:
            if norm != read:
                read, normal = norm, getattr(self, norm)(x)
            before = states[len(after) : len(after) + len(block.states())]
            y, *now = call(getattr(self, name), normal, *before)
            x = x + (y if scale == 1 else scale * y)
            after += now
        return x, *after


class Backbone(nn.Module):
    """Embedding, layers and the last norm; parameter names are mamba-ssm's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.task = config.task
        if config.has_vocabulary:
            self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        else:
            self.patch_embedding = Projection(config.patch, config.d_model, bias=True)
        self.layers = nn.ModuleList(Layer(layer, config) for layer in config.layers)
        # The head has no bias, so that what its outputs are multiplied with may be done before it.
        self.norm_f = NORMS[config.norm](config.d_model, config.norm_eps, config.logits_scale)
        self.embedding_scale = config.embedding_scale

    def embed(self, inputs: Tensor) -> Tensor:
        """The first layer's input, float32.

        Args:
            inputs: int (b, l), tokens, or float (b, lookback, variates), a forecaster's windows.

        Returns:
            (b, l, d_model), or (b * variates, patches, d_model): each variate is a sequence.
        """
        embedding = self.embedding if self.task.reads_tokens else self.patch_embedding
        embedded: Tensor = embedding(self.task.entries(inputs)).float()
        return embedded if self.embedding_scale == 1 else embedded * self.embedding_scale


class Mamba(nn.Module):
    """A model of `config.layers`: a language model, a classifier or a forecaster (`config.task`).

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
    def from_checkpoint(source: TrainedModel, device: torch.device | str = "cpu") -> Mamba:
        """The model with the checkpoint's weights, in float32 on `device`, in eval mode."""
        with torch.device("meta"):
            model = Mamba(source.config)
        model = model.to_empty(device=device)
        model.tie_weights()
        tied = source.config.tie_embeddings
        model.load_state_dict(source.tensors, strict=not tied)
        return model.eval()

    @property
    def matrices(self) -> Mapping[str, MatrixSpec]:
        """Canonical name -> what it is, of every matrix."""
        return weights_of(self.config).matrices

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape, of every tensor; a tied head is left out."""
        return weights_of(self.config).shapes

    @property
    def never_pruned(self) -> Mapping[str, str]:
        """Parameters that somebody may ask to prune, and why they cannot be."""
        return weights_of(self.config).never_pruned

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
        after = State(state.names, [])
        for layer, before in zip(self.backbone.layers, state.layers, strict=True):
            x, *now = layer(x, *before)
            after.layers.append(tuple(now))
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

    def hidden(self, inputs: Tensor, how: How = PLAIN) -> Tensor:
        """The head's input from the zero state, of every task: after the last norm.

        Args:
            inputs: as in `Backbone.embed`.

        Returns:
            float32 (b, l, d_model), or (b * variates, patches, d_model) in a forecaster.
        """
        x = self.backbone.embed(inputs)
        state = State.zeros(self.config, x.shape[0], x.device)
        call = block_call(how, x.device)

        def run(layer: nn.Module, x: Tensor, before: Sequence[Tensor]) -> Tensor:
            y: Tensor = layer(x, *before, call=call)[0]
            return y

        for layer, before in zip(self.backbone.layers, state.layers, strict=True):
            if how.recompute:
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
