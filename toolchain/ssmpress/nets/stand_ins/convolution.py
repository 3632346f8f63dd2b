"""causal_conv1d: the depthwise causal convolution, and its step with a cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmpress.errors import BadInputError
from ssmpress.nets import operators


def has_silu(activation: str | None) -> bool:
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(f"activation: expected None, silu or swish; got {activation!r}.")
    return activation is not None


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | str | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The convolution over a sequence.

    Args:
        x: float (b, d, l). weight: (d, k). bias: (d,). initial_states: (b, d, k-1).
        seq_idx: not read; a text there is the activation, as in causal_conv1d before 1.2.

    Returns:
        (b, d, l); with return_final_states also the last k-1 inputs (b, d, k-1).

    Raises:
        BadInputError: the batch is of several sequences, one after the other (seq_idx).
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    if seq_idx is not None:
        raise several_sequences("causal_conv1d_fn", "seq_idx")
    state = None if initial_states is None else initial_states.transpose(1, 2)
    y, last = operators.causal_conv1d(x.transpose(1, 2), weight, bias, state, has_silu(activation))
    y, last = y.transpose(1, 2), last.transpose(1, 2)
    if not return_final_states:
        return y
    return y, last if final_states_out is None else final_states_out.copy_(last)


causal_conv1d_ref = causal_conv1d_fn


def several_sequences(function: str, argument: str) -> BadInputError:
    """What is said of a batch of sequences that stand one after the other."""
    return BadInputError(
        f"{function}: expected one sequence per batch entry; got {argument}, several after one "
        "another, which is for training on packed text. Leave it out in the network that you give."
    )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """The convolution of the next steps; conv_state is changed in place.

    Args:
        x: float (b, d) or (b, d, l). conv_state: (b, d, s), s >= k-1, the last inputs.
        weight: (d, k). bias: (d,). cache_seqlens: int (b,), steps before; conv_state is then a ring
            that goes on at this place.

    Returns:
        As x.
    """
    steps = x[..., None] if x.dim() == 2 else x
    (batch, channels, length), taps = steps.shape, weight.shape[1]
    size = conv_state.shape[-1]
    if cache_seqlens is None:
        whole = torch.cat([conv_state, steps.to(conv_state.dtype)], dim=-1)
        before = conv_state[..., size - taps + 1 :].clone()
        conv_state.copy_(whole[..., -size:])
    else:
        ends = cache_seqlens.long()[:, None]
        places = (ends + torch.arange(1 - taps, length, device=x.device)) % size
        places = places[:, None].expand(batch, channels, -1)
        before = conv_state.gather(2, places[..., : taps - 1])
        conv_state.scatter_(2, places[..., taps - 1 :], steps.to(conv_state.dtype))
    y, _ = operators.causal_conv1d(
        steps.transpose(1, 2), weight, bias, before.transpose(1, 2), has_silu(activation)
    )
    y = y.transpose(1, 2)
    return y.squeeze(-1) if x.dim() == 2 else y


def window_after(x: Tensor, taps: int) -> Tensor:
    """The state that their blocks keep after a prompt x (b, l, d): its last k steps, (b, d, k)."""
    return F.pad(x.transpose(1, 2), (taps - x.shape[1], 0))
