"""The stand-ins beside mamba-ssm's own PyTorch code: the same numbers, gradients too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_ssm_reference import load
from ssmpress.errors import BadInputError
from ssmpress.nets.stand_ins import mambapy, norms, scan, ssd
from ssmpress.nets.stand_ins.block import Block
from ssmpress.nets.stand_ins.convolution import causal_conv1d_fn, causal_conv1d_update
from ssmpress.nets.stand_ins.mamba1 import Mamba
from ssmpress.nets.stand_ins.mamba2 import Mamba2, Mamba2Simple
from ssmpress.nets.stand_ins.models import (
    GatedMLP,
    MambaConfig,
    MambaLMHeadModel,
    create_block,
)
from ssmpress.nets.stand_ins.state_update import selective_state_update
from tolerances import STAND_IN_FLOAT32, assert_close

B, L, D, N = 2, 7, 6, 4


def close(actual: Any, expected: Any, what: str = "") -> None:
    """Equal tensors, or as many of them."""
    if isinstance(actual, tuple):
        for one, other in zip(actual, expected, strict=True):
            close(one, other, what)
    else:
        assert actual.dtype == expected.dtype
        assert_close(actual.detach(), expected.detach(), STAND_IN_FLOAT32, what)


@pytest.fixture(scope="module")
def real() -> Iterator[SimpleNamespace]:
    yield load()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same_with_gradients(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor | None
) -> None:
    """Both functions give one result, and one gradient for every input."""
    results, gradients = [], []
    for function in (ours, theirs):
        given = [t if t is None else t.clone().requires_grad_() for t in inputs]
        results.append(function(*given))
        (results[-1] * drawn(*results[-1].shape, seed=99)).sum().backward()
        gradients.append([t.grad for t in given if t is not None])
    close(*results)
    for own, other in zip(*gradients, strict=True):
        close(own, other)


SHAPES = {
    "each step": (B, N, L),
    "one group": (B, 1, N, L),
    "three groups": (B, 3, N, L),
    "constant": (D, N),
}


@pytest.mark.parametrize("shape_of_C", SHAPES)
@pytest.mark.parametrize("shape_of_B", SHAPES)
@pytest.mark.parametrize("bare", [False, True])
def test_the_scan(real: SimpleNamespace, shape_of_B: str, shape_of_C: str, bare: bool) -> None:
    tensors = [drawn(B, D, L), drawn(B, D, L, seed=1).abs(), -drawn(D, N, seed=2).exp()]
    tensors += [drawn(*SHAPES[shape_of_B], seed=3), drawn(*SHAPES[shape_of_C], seed=4)]
    optional = [drawn(D, seed=5), drawn(B, D, L, seed=6), drawn(D, seed=7)]
    same_with_gradients(
        *(
            partial(function, delta_softplus=not bare)
            for function in (scan.selective_scan_fn, real.selective_scan_ref)
        ),
        *tensors,
        *([None] * 3 if bare else optional),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_state(real: SimpleNamespace, shape: str) -> None:
    tensors = [drawn(B, D, L), drawn(B, D, L, seed=1), -drawn(D, N, seed=2).exp()]
    tensors += [drawn(*SHAPES[shape], seed=3), drawn(B, N, L, seed=4)]
    close(
        scan.selective_scan_fn(*tensors, delta_softplus=True, return_last_state=True),
        real.selective_scan_ref(*tensors, delta_softplus=True, return_last_state=True),
    )


def test_half_precision_in_is_half_precision_out(real: SimpleNamespace) -> None:
    halves = [t.bfloat16() for t in (drawn(B, D, L), drawn(B, D, L, seed=1))]
    rest = [-drawn(D, N, seed=2).exp(), drawn(B, N, L, seed=3), drawn(B, N, L, seed=4)]
    y = scan.selective_scan_fn(*halves, *rest, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, real.selective_scan_ref(*halves, *rest, delta_softplus=True))


def test_complex_values_are_refused() -> None:
    u, A = drawn(B, D, L), torch.complex(-drawn(D, N).exp(), drawn(D, N))
    with pytest.raises(BadInputError, match="expected real A, B and C; got complex"):
        scan.selective_scan_fn(u, u, A, drawn(B, N, 2 * L), drawn(B, N, 2 * L))


INNER = {  # arguments of mamba_inner_fn
    "xz": (B, 2 * D, L),
    "conv1d_weight": (D, 1, 4),
    "conv1d_bias": (D,),
    "x_proj_weight": (2 + 2 * N, D),
    "delta_proj_weight": (D, 2),
    "out_proj_weight": (5, D),
    "out_proj_bias": (5,),
    "A": (D, N),
}


def inner_arguments() -> dict[str, Tensor]:
    tensors = {name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(INNER.items())}
    return {name: t / 2 for name, t in tensors.items()} | {"A": -tensors["A"].exp()}


def test_the_inner_part(real: SimpleNamespace) -> None:
    tensors = inner_arguments()
    rest = {"D": drawn(D, seed=20), "delta_bias": drawn(D, seed=21)}
    rest |= {f"{name}_proj_bias": drawn(N, seed=22) for name in "BC"}
    names = [*tensors, *rest]
    same_with_gradients(
        lambda *values: scan.mamba_inner_fn(**dict(zip(names, values, strict=True))),
        lambda *values: real.mamba_inner_ref(**dict(zip(names, values, strict=True))),
        *tensors.values(),
        *rest.values(),
    )


def test_the_inner_part_backwards_and_forwards() -> None:
    tensors = inner_arguments()
    A_b = -drawn(D, N, seed=30).exp()
    plain = {name: t for name, t in tensors.items() if not name.startswith("out_proj")}
    x, z = plain["xz"].chunk(2, dim=1)
    u = causal_conv1d_fn(x, plain["conv1d_weight"][:, 0], plain["conv1d_bias"], activation="silu")
    parts = F.linear(u.mT, plain["x_proj_weight"]).split([2, N, N], dim=-1)
    delta = F.linear(parts[0], plain["delta_proj_weight"]).mT
    scanned = (u, delta, parts[1].mT, parts[2].mT, z)

    def scanned_with(A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor) -> Any:
        return scan.selective_scan_fn(u, delta, A, B, C, z=z, delta_softplus=True)

    both = scanned_with(tensors["A"], *scanned)
    both = both + scanned_with(A_b, *(t.flip(-1) for t in scanned)).flip(-1)
    expected = F.linear(both.mT, tensors["out_proj_weight"], tensors["out_proj_bias"])
    close(scan.bimamba_inner_fn(**tensors, A_b=A_b), expected)


# ---- blocks ----


def twin(ours: nn.Module, theirs: nn.Module) -> None:
    """The other block's weights in ours; both have the same names and shapes."""
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(theirs.state_dict())


def same_blocks(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Equal results and gradients of every weight."""
    twin(ours, theirs)
    same_with_gradients(ours, theirs, x)
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, others[name].grad, name)


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


# ---- norms, heads, convolutions ----


@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rms", [False, True])
def test_norms_of_sums(
    real: SimpleNamespace, rms: bool, residual: bool, parallel: bool, prenorm: bool
) -> None:
    options: dict[str, Any] = {"eps": 1e-3, "prenorm": prenorm}
    options |= {"residual": drawn(B, L, D, seed=3)} if residual else {}
    if parallel:
        options |= {"x1": drawn(B, L, D, seed=4), "weight1": drawn(D, seed=5)}
        options |= {"bias1": drawn(D, seed=6)}
    else:
        options["rowscale"] = drawn(B, L, seed=7)
    inputs = (drawn(B, L, D), drawn(D, seed=1), drawn(D, seed=2))
    reference = real.rms_norm_ref if rms else real.layer_norm_ref
    ours = norms.rms_norm_fn if rms else norms.layer_norm_fn
    close(ours(*inputs, **options), reference(*inputs, **options))


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("gate", [None, True, False])
@pytest.mark.parametrize("biased", [False, True])
def test_norms_beside_a_gate(
    real: SimpleNamespace, groups: int | None, gate: bool | None, biased: bool
) -> None:
    inputs = [drawn(B, L, D), drawn(D, seed=1), drawn(D, seed=2) if biased else None]
    inputs.append(None if gate is None else drawn(B, L, D, seed=3))
    options = {"group_size": groups, "norm_before_gate": bool(gate), "eps": 1e-3}
    same_with_gradients(
        partial(norms.rmsnorm_fn, **options), partial(real.gated_norm_ref, **options), *inputs
    )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_the_scan_of_heads(real: SimpleNamespace, gated: bool, per_channel: bool) -> None:
    heads, width = 4, 3
    tensors = [drawn(B, L, heads, width), drawn(B, L, heads, seed=1), -drawn(heads, seed=2).exp()]
    tensors += [drawn(B, L, 2, N, seed=3), drawn(B, L, 2, N, seed=4)]
    D = drawn(heads, width, seed=5) if per_channel else drawn(heads, seed=5)
    z = drawn(B, L, heads, width, seed=6) if gated else None
    options = {"dt_softplus": True, "dt_limit": (0.1, 2.0)}

    def ours(*t: Tensor) -> Tensor:
        return ssd.mamba_chunk_scan_combined(*t[:5], 4, *t[5:], **options)

    def theirs(*t: Tensor) -> Tensor:
        return real.scan_of_heads(*t[:5], *t[5:], **options)

    same_with_gradients(ours, theirs, *tensors, D, z, drawn(heads, seed=7))


def test_the_scan_of_heads_goes_on_from_its_states() -> None:
    heads, width = 4, 3
    tensors = [drawn(B, L, heads, width), drawn(B, L, heads, seed=1), -drawn(heads, seed=2).exp()]
    tensors += [drawn(B, L, 2, N, seed=3), drawn(B, L, 2, N, seed=4)]
    whole = partial(ssd.mamba_chunk_scan_combined, return_final_states=True, dt_softplus=True)

    def cut(part: slice) -> list[Tensor]:
        return [t if t.dim() == 1 else t[:, part] for t in tensors]

    y, last = whole(*tensors, 4)
    first, state = whole(*cut(slice(3)), 4)
    second, end = whole(*cut(slice(3, None)), 4, initial_states=state)
    close(torch.cat([first, second], 1), y)
    close(end, last)
    assert last.shape == (B, heads, width, N)


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


@pytest.mark.parametrize("activation", [None, "silu"])
def test_the_convolution_goes_on_from_its_states(activation: str | None) -> None:
    x, weight, bias = drawn(B, D, L), drawn(D, 4, seed=1), drawn(D, seed=2)
    plain = F.conv1d(x, weight[:, None], bias, padding=3, groups=D)[..., :L]
    plain = plain if activation is None else F.silu(plain)
    close(causal_conv1d_fn(x, weight, bias, activation=activation), plain)
    first, state = causal_conv1d_fn(
        x[..., :2], weight, bias, return_final_states=True, activation=activation
    )
    second = causal_conv1d_fn(x[..., 2:], weight, bias, None, state, activation=activation)
    close(torch.cat([first, second], -1), plain)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("size", [3, 6])
def test_the_convolution_step_by_step(size: int, ring: bool) -> None:
    x, weight, bias = drawn(B, D, L), drawn(D, 4, seed=1), drawn(D, seed=2)
    state, outputs = torch.zeros(B, D, size), []
    for t in range(L):
        lengths = torch.full((B,), t, dtype=torch.int32) if ring else None
        outputs.append(causal_conv1d_update(x[..., t], state, weight, bias, "silu", lengths))
    close(torch.stack(outputs, -1), causal_conv1d_fn(x, weight, bias, "silu"))


@pytest.mark.parametrize("heads", [False, True])
def test_a_step_of_the_scan(real: SimpleNamespace, heads: bool) -> None:
    rows, groups, own = ((B, 4, D), (B, 2, N), (4,)) if heads else ((B, D), (B, N), ())
    tensors = [drawn(*rows, N), drawn(*rows, seed=1), drawn(*rows, seed=2)]
    tensors += [-drawn(*own, D, N, seed=3).exp(), drawn(*groups, seed=4), drawn(*groups, seed=5)]
    tensors += [drawn(*own, D, seed=6), drawn(*rows, seed=7), drawn(*own, D, seed=8)]
    states = [tensors[0].clone(), tensors[0].clone()]
    close(
        selective_state_update(states[0], *tensors[1:], dt_softplus=True),
        real.state_update_ref(states[1], *tensors[1:], dt_softplus=True),
    )
    close(*states)


@pytest.mark.parametrize("call", ["causal_conv1d_fn", "chunk", "split"])
def test_several_sequences_in_one_are_refused(call: str) -> None:
    t = drawn(B, L, 4)
    with pytest.raises(BadInputError, match="expected one sequence per batch entry; got seq_idx"):
        if call == "chunk":
            ssd.mamba_chunk_scan_combined(t, t, t, t, t, 4, seq_idx=t)
        elif call == "split":
            ssd.mamba_split_conv1d_scan_combined(t, t, t, t, t, t, 4, seq_idx=t)
        else:
            causal_conv1d_fn(t, t, t, seq_idx=t)


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
