"""What blocks say of themselves is true of what they compute, whatever their sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import draw_tokens, random_checkpoint, small_config
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.model import Mamba, State
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.tensors import (
    Role,
    layer_states,
    matrix_specs,
    state_tensors,
    tensor_shapes,
    tensor_specs,
)
from thoroughness import examples

SIZES: dict[str, st.SearchStrategy[Any]] = {
    "d_model": st.integers(1, 9),
    "n_layer": st.integers(1, 3),
    "vocab_size": st.integers(2, 9),
    "d_state": st.integers(1, 4),
    "d_conv": st.integers(1, 4),
    "d_inner": st.integers(1, 9),
    "dt_rank": st.integers(1, 3),
    "conv_bias": st.booleans(),
    "proj_bias": st.booleans(),
    "tie_embeddings": st.booleans(),
    "norms": st.sampled_from(
        [{}]
        + [
            {"dbc_norm_eps": eps, "dbc_norm_weights": weights}
            for eps in (1e-6, 0.5)
            for weights in (False, True)
        ]
    ),
}
configs = st.fixed_dictionaries(SIZES).map(
    lambda sizes: small_config(**{n: v for n, v in sizes.items() if n != "norms"}, **sizes["norms"])
)


@settings(max_examples=examples(40))
@given(configs)
def test_the_tensors_are_those_of_the_module(config: ModelConfig) -> None:
    model = Mamba(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors().items()}
    assert shapes == tensor_shapes(config)
    possible = tensor_specs(config, absent=True)
    assert possible.keys() >= shapes.keys()
    assert all(possible[name].flag for name in possible.keys() - shapes.keys())


@settings(max_examples=examples(40))
@given(configs)
def test_the_matrices_are_the_linear_layers_and_the_embedding(config: ModelConfig) -> None:
    model, specs = Mamba(config), matrix_specs(config)
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
    if config.tie_embeddings:
        linear.remove("lm_head.weight")
    assert specs.keys() == linear
    for layer in range(config.n_layer):
        components = [spec.component for spec in specs.values() if spec.layer == layer]
        assert len(set(components)) == len(components) == 4


@settings(max_examples=examples(40))
@given(configs)
def test_the_states_are_those_that_the_module_returns(config: ModelConfig) -> None:
    with torch.no_grad():
        _, state = Mamba.from_checkpoint(random_checkpoint(config))(draw_tokens(config, 2, 3))
    for number, (layer, tensors) in enumerate(zip(config.layers, state.layers, strict=True)):
        expected = [s.shape_at(2, 3) for s in layer_states(layer, number)]
        assert [tuple(tensor.shape) for tensor in tensors] == expected
    assert list(state.by_name()) == [s.name for s in state_tensors(config)]


@settings(max_examples=examples(40))
@given(configs)
def test_projections_of_one_input_read_the_same_tensor(config: ModelConfig) -> None:
    """And of another input another one: one Gram matrix per word is neither too few nor wrong."""
    model = Mamba.from_checkpoint(random_checkpoint(config))
    specs = {n: s for n, s in matrix_specs(config).items() if s.role is Role.PROJECTION}
    seen: dict[str, torch.Tensor] = {}
    for name in specs:
        module = model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(module, Projection)
        module.observer = lambda x, name=name: seen.__setitem__(name, x)
    with torch.no_grad():
        model(draw_tokens(config, 2, 5), State.zeros(config, 2))
    assert seen.keys() == specs.keys(), "every projection is asked for its product"
    shapes = tensor_shapes(config)
    for name, spec in specs.items():
        assert seen[name].shape == (2, 5, shapes[name][1])
        for other, its in specs.items():
            if spec.layer == its.layer and name < other:
                assert (seen[name] is seen[other]) == (spec.input == its.input), (name, other)


def test_a_layer_may_be_another_one_than_the_next() -> None:
    """Layers are data: widths, norms and biases differ from one to the next."""
    kinds = small_config(), small_config(d_inner=13, d_state=2), small_config(dbc_norm_eps=0.1)
    config = ModelConfig(d_model=20, vocab_size=61, layers=tuple(kind.layers[0] for kind in kinds))
    model = Mamba.from_checkpoint(random_checkpoint(config))
    tokens = draw_tokens(config, 2, 9)
    with torch.no_grad():
        whole, _ = model(tokens)
        first, state = model(tokens[:, :4])
        rest, _ = model(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-4, atol=1e-4)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.title == "Mamba-1 + FalconMamba"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"block": "mamba9"},
            "block: expected mamba1 or mamba2 or attention or gated_mlp or squared_relu_mlp; "
            "got 'mamba9'",
        ),
        ({"heads": 3}, "layers: mamba1: expected only .*got 'heads'"),
        ({"d_inner": 0}, "d_inner: expected an integer from 1 to 262144; got 0"),
        ({"conv_bias": 1}, "conv_bias: expected true or false; got 1"),
        ({"dbc_norm_eps": -1}, "dbc_norm_eps: expected a positive number; got -1"),
    ],
)
def test_a_configuration_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    from ssmpress.errors import BadInputError

    values = small_config().to_dict()
    values["layers"][1]["mixer"] |= change
    with pytest.raises(BadInputError, match=message):
        ModelConfig.from_dict(values)
