"""The states of a bundle that does not list them: what ssmpress wrote before `ssmpress.states`.

All of those are stacks of Mamba-1 layers with the sizes in `ssmpress.config`: `n_layer`, `d_conv`,
`d_state`, `d_inner`, and `channels` where dead channels were removed. No other place knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.formats import SIZE_LIMIT
from ssmpress.states import StateTensor

_SIZES = ("n_layer", "d_conv", "d_state", "d_inner")


def states_of(config: Mapping[str, Any], inputs: int, where: str) -> tuple[StateTensor, ...]:
    """The states that the configuration of an old language model implies.

    Args:
        config: the object in `ssmpress.config`.
        inputs: of the graph: layers beyond them are damage, and are not listed.
        where: the file and the entry, for messages.

    Raises:
        BadInputError: a size is missing or out of range.
    """
    layers, d_conv, d_state, d_inner = (_size(config, name, where) for name in _SIZES)
    if layers > inputs:
        raise BadInputError(
            f"{where}: n_layer {layers}: expected two states of every layer; the graph has "
            f"{inputs} inputs. The metadata and the graph disagree."
        )
    states = []
    for layer, channels in enumerate(_channels(config, layers, d_inner, where)):
        states.append(StateTensor(f"conv_state.{layer}", (d_conv - 1, channels)))
        states.append(StateTensor(f"scan_state.{layer}", (d_state, channels)))
    return tuple(states)


def _size(config: Mapping[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if type(value) is not int or not 1 <= value <= SIZE_LIMIT:
        raise BadInputError(f"{where}: {name}: expected an integer of at least 1; got {value!r}.")
    return value


def _channels(config: Mapping[str, Any], layers: int, d_inner: int, where: str) -> list[int]:
    """Channels of each layer."""
    if "channels" not in config:
        return [d_inner] * layers
    channels = config["channels"]
    integers = isinstance(channels, list) and all(type(count) is int for count in channels)
    if not integers or len(channels) != layers or not all(1 <= n <= d_inner for n in channels):
        raise BadInputError(
            f"{where}: channels: expected {layers} integers from 1 to {d_inner}; "
            f"got {str(channels)[:40]}."
        )
    return list(channels)
