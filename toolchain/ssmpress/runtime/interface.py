"""Names, types and shapes of a bundle's ONNX inputs and outputs, checked when it is opened.

    input_ids          int64   (b, l)                     logits               float32 (b, p, vocab)
    logits_positions   int64   (p)                        present_conv_state.i  as past_...
    past_conv_state.i  float32 (b, d_conv - 1, d)         present_scan_state.i  as past_...
    past_scan_state.i  float32 (b, d_state, d)

of a language model, with d = d_inner, or the layer's entry of `channels` where dead channels were
removed; a classifier and a forecaster carry no state:

    input_ids          int64   (b, l)                     logits    float32 (b, classes)
    series             float32 (b, lookback, variates)    forecast  float32 (b, horizon, variates)

The model's configuration is the metadata entry `ssmpress.config`, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.formats import CONFIG_KEY
from ssmpress.tasks import LanguageModel, Task, task_of
from ssmpress.tasks.task import Port

_Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> type, shape

_SIZES = ("n_layer", "vocab_size", "d_conv", "d_state", "d_inner")
_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}  # ONNX Runtime's names
_FREE = -1  # a dimension that the caller chooses
_LIMIT = 1 << 24  # no size of a real model comes near; one beyond it is damage


@dataclass(frozen=True)
class ModelInterface:
    """What a caller needs to know to feed the model. config: all of the metadata's entry.

    vocab_size: 0 in a forecaster. channels: of each layer where dead ones were removed, else none.
    """

    path: Path
    n_layer: int
    vocab_size: int
    d_conv: int
    d_state: int
    d_inner: int
    config: dict[str, Any]
    task: Task = field(default_factory=LanguageModel)
    channels: tuple[int, ...] = ()

    def state_shapes(self, batch: int) -> dict[str, tuple[int, int, int]]:
        """Name without `past_` or `present_` -> shape, in layer order."""
        shapes = {}
        for layer in range(self.n_layer):
            channels = self.channels[layer] if self.channels else self.d_inner
            shapes[f"conv_state.{layer}"] = (batch, self.d_conv - 1, channels)
            shapes[f"scan_state.{layer}"] = (batch, self.d_state, channels)
        return shapes


def read_interface(session: Any, path: Path) -> ModelInterface:
    """Read the metadata of a loaded `onnxruntime.InferenceSession` and check that all of it fits.

    Raises:
        BadInputError: metadata missing or damaged; an input or output missing, surplus, of
            another type or another shape.
    """
    interface = _parse(session.get_modelmeta().custom_metadata_map.get(CONFIG_KEY), path)
    ports = interface.task.ports(interface.vocab_size)
    inputs, outputs = _signature(ports.inputs), _signature(ports.outputs)
    if interface.task.recurrent:
        states = interface.state_shapes(_FREE).items()
        inputs |= {f"past_{name}": (_TYPES["float32"], shape) for name, shape in states}
        outputs |= {f"present_{name}": (_TYPES["float32"], shape) for name, shape in states}
    _check(path, "input", inputs, session.get_inputs(), fixed=True)
    _check(path, "output", outputs, session.get_outputs(), fixed=False)
    return interface


def _signature(ports: tuple[Port, ...]) -> _Tensors:
    return {
        port.name: (
            _TYPES[port.type],
            tuple(size if isinstance(size, int) else _FREE for size in port.shape),
        )
        for port in ports
    }


def _parse(text: str | None, path: Path) -> ModelInterface:
    if text is None:
        raise BadInputError(
            f"{path}: expected the metadata entry {CONFIG_KEY}; it has none. "
            "Only models that ssmpress exported can be opened."
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {CONFIG_KEY}: expected JSON; got {text[:40]!r}.") from error
    try:
        task = task_of(config) if isinstance(config, dict) else LanguageModel()
    except BadInputError as error:
        raise BadInputError(f"{path}: {CONFIG_KEY}: {error}") from error
    sizes = {}
    for name in _SIZES:
        value = config.get(name) if isinstance(config, dict) else None
        if name == "vocab_size" and value == 0 and not task.reads_tokens:
            sizes[name] = 0
            continue
        if type(value) is not int or not 1 <= value <= _LIMIT:
            raise BadInputError(
                f"{path}: {CONFIG_KEY}: {name}: expected an integer of at least 1; got {value!r}."
            )
        sizes[name] = value
    channels = _channels(config, sizes, path)
    return ModelInterface(path=path, config=config, task=task, channels=channels, **sizes)


def _channels(config: dict[str, Any], sizes: dict[str, int], path: Path) -> tuple[int, ...]:
    if "channels" not in config:
        return ()
    channels, layers, most = config["channels"], sizes["n_layer"], sizes["d_inner"]
    integers = isinstance(channels, list) and all(type(count) is int for count in channels)
    if not integers or len(channels) != layers or not all(1 <= n <= most for n in channels):
        raise BadInputError(
            f"{path}: {CONFIG_KEY}: channels: expected {layers} integers from 1 to {most}; "
            f"got {str(channels)[:40]}."
        )
    return tuple(channels)


def _check(
    path: Path, kind: str, expected: _Tensors, found: list[Any], *, fixed: bool,
) -> None:  # fmt: skip
    """Compare names, types and shapes.

    fixed: a number that is expected must be declared; outputs may leave any dimension open.
    """
    actual = {item.name: item for item in found}
    if missing := [name for name in expected if name not in actual]:
        raise BadInputError(f"{path}: expected an {kind} named {missing[0]}; it has none.")
    if surplus := [name for name in actual if name not in expected]:
        raise BadInputError(
            f"{path}: unexpected {kind} {surplus[0]}; {CONFIG_KEY} and the graph disagree."
        )
    for name, (dtype, shape) in expected.items():
        item = actual[name]
        fits = len(item.shape) == len(shape) and all(
            got == want if isinstance(got, int) else want == _FREE or not fixed
            for got, want in zip(item.shape, shape, strict=False)
        )
        if item.type != dtype or not fits:
            want_text = ", ".join("any" if size == _FREE else str(size) for size in shape)
            raise BadInputError(
                f"{path}: {kind} {name}: expected {dtype} ({want_text}); got {item.type} "
                f"{tuple(item.shape)}. {CONFIG_KEY} and the graph disagree."
            )
