"""The stand-ins' blocks beside mamba-ssm's own: the same tensors, numbers and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins import mambapy, norms, scan, ssd
from ssmpress.nets.stand_ins.block import Block
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.stand_ins.mamba2 import Mamba2, Mamba2Simple
from ssmpress.nets.stand_ins.models import (
    GatedMLP,
    MambaConfig,
    MambaLMHeadModel,
    create_block,
)
from stand_in_checks import B, L, close, drawn, same_blocks, twin

MAMBA: dict[str, dict[str, Any]] = {
    "plain": {},
    "sizes": {"d_state": 3, "d_conv": 2, "expand": 1, "dt_rank": 5},
    "biases": {"bias": True, "conv_bias": False, "dt_init": "constant"},
}


@pytest.mark.parametrize("options", MAMBA.values(), ids=MAMBA)
def test_mamba(real: SimpleNamespace, options: dict[str, Any]) -> None:
    same_blocks(Mamba(8, **options), real.mamba(8, **options), drawn(B, L, 8))


MAMBA2: dict[str, dict[str, Any]] = {
    "plain": {},
    "groups": {"ngroups": 2, "D_has_hdim": True, "norm_before_gate": True},
    "no norm": {"rmsnorm": False, "bias": True, "conv_bias": False, "conv_init": 0.5},
    "limits": {"dt_limit": (0.01, 0.05)},
    "with MLP": {"d_ssm": 8},
}


@pytest.mark.parametrize("options", MAMBA2.values(), ids=MAMBA2)
def test_mamba2(real: SimpleNamespace, options: dict[str, Any]) -> None:
    sizes = {"headdim": 4, "d_state": 8, "chunk_size": 4} | options
    theirs = real.mamba2(8, use_mem_eff_path=False, **sizes)
    same_blocks(Mamba2(8, **sizes), theirs, drawn(B, L, 8))


@pytest.mark.parametrize("bias", [False, True])
def test_the_simple_mamba2(real: SimpleNamespace, bias: bool) -> None:
    sizes: dict[str, Any] = {"headdim": 4, "d_state": 8, "ngroups": 2, "bias": bias}
    sizes |= {"use_mem_eff_path": False, "dt_limit": (0.01, 0.05)}
    same_blocks(Mamba2Simple(8, **sizes), real.mamba2_simple(8, **sizes), drawn(B, L, 8))


def test_first_states_that_are_trained() -> None:
    block = Mamba2Simple(8, headdim=4, d_state=8, learnable_init_states=True)
    x = drawn(B, L, 8)
    before = block(x)
    with torch.no_grad():
        block.init_states.add_(drawn(*block.init_states.shape))
    assert not torch.allclose(block(x), before)
    block(x).sum().backward()
    assert block.init_states.grad.abs().sum() > 0


def test_the_gated_mlp(real: SimpleNamespace) -> None:
    same_blocks(GatedMLP(8, multiple_of=5), real.mlp(8, multiple_of=5), drawn(B, L, 8))


@pytest.mark.parametrize(
    "options", [{}, {"rms_norm": False, "tie_embeddings": False, "d_intermediate": 16}]
)
def test_a_whole_model(real: SimpleNamespace, options: dict[str, Any]) -> None:
    sizes = {"d_model": 8, "n_layer": 2, "vocab_size": 9, "pad_vocab_size_multiple": 4}
    sizes |= {"fused_add_norm": False} | options
    theirs = real.model(real.config(**sizes), device="cpu")
    ours = MambaLMHeadModel(MambaConfig(**sizes))
    twin(ours, theirs)
    tokens = torch.arange(10).reshape(2, 5) % 9
    close(ours(tokens).logits, theirs(tokens).logits)
    close(ours(tokens, num_last_tokens=2).logits, theirs(tokens).logits[:, -2:])
    fused = MambaLMHeadModel(MambaConfig(**sizes | {"fused_add_norm": True}))
    twin(fused, theirs)
    close(fused(tokens).logits, theirs(tokens).logits)


def test_a_block_by_the_arguments_of_either_version() -> None:
    old = create_block(8, {"d_state": 3}, 1e-3, layer_idx=1)
    new = create_block(8, ssm_cfg={"d_state": 3}, norm_epsilon=1e-3, layer_idx=1)
    for block in (old, new):
        assert block.mixer.d_state == 3
        assert (block.mixer.layer_idx, block.mlp) == (1, None)
    assert isinstance(create_block(8, 16, {"layer": "Mamba2", "headdim": 4}).mlp, GatedMLP)
    with pytest.raises(BadInputError, match="got attention, for which ssmpress has no stand-in"):
        create_block(8, layer_idx=1, attn_layer_idx=[1])


def test_nothing_is_downloaded() -> None:
    with pytest.raises(BadInputError, match="owner/name: expected build to make the network by"):
        MambaLMHeadModel.from_pretrained("owner/name")


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
@torch.no_grad()
def test_steps_after_a_prompt(real: SimpleNamespace, kind: str) -> None:
    sizes = {"headdim": 4, "d_state": 8, "use_mem_eff_path": False} if kind == "mamba2" else {}
    theirs = getattr(real, kind)(8, layer_idx=0, **sizes)
    ours = (Mamba2 if kind == "mamba2" else Mamba)(8, layer_idx=0, **sizes)
    twin(ours, theirs)
    x = drawn(B, L, 8)
    close(ours.step(x[:, :1], *ours.allocate_inference_cache(B, L))[0], ours(x[:, :1]))
    # mamba-ssm's reference of the second scan gives no state after a prompt: it steps from zeros.
    results = []
    for block, prompt in ((ours, 2), (theirs, 0)):
        cache = real.inference_params(max_seqlen=L, max_batch_size=B)
        outputs = [block(x[:, :prompt], inference_params=cache)] if prompt else []
        cache.seqlen_offset = 1
        outputs += [block(x[:, t : t + 1], inference_params=cache) for t in range(prompt, L)]
        results.append((torch.cat(outputs, 1), cache.key_value_memory_dict[0]))
    close(*results)
    close(results[0][0], ours(x))


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_the_block_around_a_mixer(real: SimpleNamespace, fused: bool, mlp: bool) -> None:
    halves = partial(nn.Linear, 8)  # a mixer that takes the cache's argument
    mixer = type("Mixer", (nn.Linear,), {"forward": lambda s, x, **_: nn.Linear.forward(s, x)})
    blocks = [
        block(
            8,
            partial(mixer, 8),
            halves if mlp else nn.Identity,
            norm,
            fused_add_norm=fused,
            residual_in_fp32=True,
        )
        for block, norm in ((Block, norms.RMSNorm), (real.block, real.rms_norm))
    ]
    twin(*blocks)
    x, residual = drawn(B, L, 8), drawn(B, L, 8, seed=1)
    close(blocks[0](x), blocks[1](x))
    close(blocks[0](x, residual), blocks[1](x, residual))


@pytest.mark.parametrize("options", MAMBA2.values(), ids=MAMBA2)
def test_all_of_mamba2_after_its_first_product(options: dict[str, Any]) -> None:
    block = Mamba2(8, **({"headdim": 4, "d_state": 8} | options))
    x = drawn(B, L, 8)
    whole = ssd.mamba_split_conv1d_scan_combined(
        block.in_proj(x),
        block.conv1d.weight[:, 0],
        block.conv1d.bias,
        block.dt_bias,
        -block.A_log.exp(),
        block.D.unflatten(0, (block.nheads, -1)) if block.D_has_hdim else block.D,
        4,
        dt_limit=block.dt_limit,
        rmsnorm_weight=block.norm.weight if block.rmsnorm else None,
        rmsnorm_eps=1e-5,
        outproj_weight=block.out_proj.weight,
        outproj_bias=block.out_proj.bias,
        headdim=None if block.D_has_hdim else block.headdim,
        ngroups=block.ngroups,
        norm_before_gate=block.norm_before_gate,
    )
    close(whole, block(x))


# ---- two and three directions ----


def one_direction(block: Mamba, suffix: str) -> Mamba:
    """A block of one direction with the weights of one of several."""
    plain = Mamba(block.d_model)
    weights = block.state_dict()
    names = ("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")
    own = {n: weights[n.replace(".", f"{suffix}.")] for n in names}
    own |= {"A_log": weights[f"A{suffix}_log"], "D": weights[f"D{suffix}"]}
    own |= {n: weights[n] for n in ("in_proj.weight", "out_proj.weight")}
    plain.load_state_dict(own)
    return plain


@pytest.mark.parametrize("divided", [False, True])
def test_two_directions(divided: bool) -> None:
    block = Mamba(8, bimamba_type="v2", if_divide_out=divided, init_layer_scale=0.5)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * drawn(*parameter.shape))
    x = drawn(B, L, 8)
    ahead, back = one_direction(block, ""), one_direction(block, "_b")
    both = (ahead(x) + back(x.flip(1)).flip(1)) / (2 if divided else 1)
    close(block(x), both * block.gamma)
    names = {"A_b_log", "D_b", "conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight"}
    names |= {"dt_proj_b.weight", "dt_proj_b.bias", "gamma"}
    assert set(block.state_dict()) - set(Mamba(8).state_dict()) == names
    other = Mamba(8, bimamba=True, if_devide_out=divided)
    other.load_state_dict({n: t for n, t in block.state_dict().items() if n != "gamma"})
    close(other(x) * block.gamma, block(x))
    assert set(other.state_dict()) == set(block.state_dict()) - {"gamma"}


def test_two_directions_that_share_all_but_the_decay() -> None:
    block = Mamba(8, bimamba_type="v1")
    with torch.no_grad():
        block.A_b_log.add_(0.3)
    x = drawn(B, L, 8)
    b = block
    decays = {"A": -b.A_log.exp(), "A_b": -b.A_b_log.exp(), "D": b.D, "delta_bias": b.dt_proj.bias}
    weights = (b.conv1d.weight, b.conv1d.bias, b.x_proj.weight, b.dt_proj.weight)
    close(
        block(x),
        scan.bimamba_inner_fn(b.in_proj(x).mT, *weights, b.out_proj.weight, None, **decays),
    )
    assert set(block.state_dict()) - set(Mamba(8).state_dict()) == {"A_b_log"}


def test_a_third_direction_through_slices() -> None:
    block = Mamba(8, bimamba_type="v3", nslices=3)
    x = drawn(B, 6, 8)
    ahead, back, across = (one_direction(block, suffix) for suffix in ("", "_b", "_s"))
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # the first steps of three slices, then the second
    crossed = across(x[:, order])[:, order.argsort()]
    close(block(x), ahead(x) + back(x.flip(1)).flip(1) + crossed)
    with pytest.raises(BadInputError, match=r"a length that nslices \(3\) divides; got 7"):
        block(drawn(B, 7, 8))


def test_unknown_directions_are_refused() -> None:
    with pytest.raises(BadInputError, match="bimamba_type: expected none, v1, v2, v3; got 'v9'"):
        Mamba(8, bimamba_type="v9")


# ---- mambapy ----


@pytest.mark.parametrize("options", [{}, {"inner_layernorms": True}, {"mup": True, "bias": True}])
@torch.no_grad()
def test_mambapy_is_mamba_and_goes_step_by_step(options: dict[str, Any]) -> None:
    config = mambapy.MambaConfig(8, 2, **options)
    net = mambapy.Mamba(config)
    x = drawn(B, L, 8)
    if not options:
        plain = Mamba(8)
        twin(plain, net.layers[0].mixer)
        close(net.layers[0].mixer(x), plain(x))
    caches: list[Any] = [(None, torch.zeros(B, config.d_inner, config.d_conv - 1))] * 2
    outputs = []
    for t in range(L):
        y, caches = net.step(x[:, t], caches)
        outputs.append(y)
    close(torch.stack(outputs, 1), net(x))


def test_the_scan_of_mambapy() -> None:
    A, X = drawn(B, L, 3, 2).sigmoid(), drawn(B, L, 3, 2, seed=1)
    h = mambapy.pscan(A, X)
    close(h[:, 0], X[:, 0])
    close(h[:, 1:], A[:, 1:] * h[:, :-1] + X[:, 1:])


# ---- first values, and what an exporter meets ----


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_first_values(real: SimpleNamespace, kind: str) -> None:
    """Those that are not drawn are equal, and step sizes begin where they shall."""
    ours = Mamba(8) if kind == "mamba" else Mamba2(8, headdim=4, A_init_range=(2, 2))
    theirs = real.mamba(8) if kind == "mamba" else real.mamba2(8, headdim=4, A_init_range=(2, 2))
    for name in ("A_log", "D"):
        close(getattr(ours, name), getattr(theirs, name), name)
        assert getattr(ours, name)._no_weight_decay
    bias = ours.dt_proj.bias if kind == "mamba" else ours.dt_bias
    steps = F.softplus(bias)
    assert 0.00099 < steps.min() < steps.max() < 0.101


EXPORTED: dict[str, Callable[[], nn.Module]] = {
    "Mamba": lambda: Mamba(8),
    "two directions": lambda: Mamba(8, bimamba_type="v2"),
    "shared directions": lambda: Mamba(8, bimamba_type="v1"),
    "Mamba-2": lambda: Mamba2(8, headdim=4, d_state=8, ngroups=2),
    "mambapy": lambda: mambapy.MambaBlock(mambapy.MambaConfig(8, 1)),
}


@pytest.mark.parametrize("make", EXPORTED.values(), ids=EXPORTED)
def test_an_exported_block_turns_no_tensor(make: Callable[[], nn.Module]) -> None:
    """All is (b, l, d) from the first product to the last, with any batch and length."""
    axes = {0: Dim("batch"), 1: Dim("length")}
    block = make().eval()
    with torch.no_grad():
        program = torch.export.export(block, (drawn(B, L, 8),), dynamic_shapes=(axes,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.linear.default" in called
    assert not [name for name in called if "transpose" in name or "permute" in name]
    x = drawn(3, 11, 8)
    close(program.module()(x), block(x))
