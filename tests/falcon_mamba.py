"""FalconMamba for the tests: small random models, and Hugging Face's own code for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import random_checkpoint, small_config
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.checkpoint.dialects import config_json, hugging_face
from ssmpress.checkpoint.read import Checkpoint

EPS = 0.25
"""Of the norms over delta, B and C: so large that a model with another one differs."""


def falcon_config(**changes: Any) -> ModelConfig:
    """Odd sizes, with the norms."""
    return small_config(**({"dbc_norm_eps": EPS} | changes))


def falcon_checkpoint(seed: int = 0, **changes: Any) -> Checkpoint:
    """Random weights."""
    return random_checkpoint(falcon_config(**changes), seed)


def reference(checkpoint: Checkpoint) -> Any:
    """transformers' FalconMambaForCausalLM with the same weights, on its plain PyTorch path."""
    transformers = pytest.importorskip("transformers")
    config = transformers.FalconMambaConfig(**config_json(checkpoint.config, "huggingface"))
    model = transformers.FalconMambaForCausalLM(config).eval()
    weights = hugging_face.spelled(checkpoint.tensors, checkpoint.config)
    if checkpoint.config.tie_embeddings:
        weights[LM_HEAD] = checkpoint.tensors[EMBEDDING]
    model.load_state_dict(weights)
    return model


def real_inputs(checkpoint: Checkpoint, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each projection multiplies in Hugging Face's model: name -> (tokens, columns).

    dt_proj is no module that is called there: its input is what the norm of delta returns.
    """
    model, seen = reference(checkpoint), {}
    for number, layer in enumerate(model.backbone.layers):
        prefix, mixer = f"backbone.layers.{number}.mixer", layer.mixer

        def see(name: str) -> Any:
            def hook(module: object, inputs: tuple[torch.Tensor, ...], *output: Any) -> None:
                x = output[0] if output else inputs[0]
                seen[name] = x.flatten(0, -2)

            return hook

        for component in ("in_proj", "x_proj", "out_proj"):
            module = getattr(mixer, component)
            module.register_forward_pre_hook(see(f"{prefix}.{component}.weight"))
        mixer.dt_layernorm.register_forward_hook(see(f"{prefix}.dt_proj.weight"))
    with torch.no_grad():
        model(tokens)
    return seen
