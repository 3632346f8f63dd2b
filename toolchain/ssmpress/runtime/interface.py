"""Names, types and shapes of a bundle's ONNX inputs and outputs, checked when it is opened.

    input_ids         int64  (b, l)        logits        float32 (b, p, vocab)
    logits_positions  int64  (p)           present_NAME  as past_NAME
    past_NAME         state  (b, ...)      for every state of the metadata entry `ssmpress.states`

of a language model; a classifier and a forecaster carry no state:

    input_ids  int64   (b, l)                     logits    float32 (b, classes)
    series     float32 (b, lookback, variates)    forecast  float32 (b, horizon, variates)

A user's network has whatever its task lists. Task and vocabulary are in the metadata entry
`ssmpress.config`, as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError
from ssmpress.formats import CONFIG_KEY, END_TOKEN_LIMIT, END_TOKENS_KEY, SIZE_LIMIT
from ssmpress.runtime import old_bundles
from ssmpress.states import STATES_KEY, StateTensor, read_states
from ssmpress.strict_json import parse_json
from ssmpress.tasks import LanguageModel, Task, bundle_task_of
from ssmpress.tasks.task import Port

_Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> type, shape

_TYPES = {  # ONNX Runtime's names
    "int64": "tensor(int64)",
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int32": "tensor(int32)",
    "bool": "tensor(bool)",
}
_FREE = -1  # a dimension that the caller chooses


@dataclass(frozen=True)
class ModelInterface:
    """What a caller needs to know to feed the model.

    config: all of the metadata's `ssmpress.config`. vocab_size: 0 in a forecaster. states: in the
    order of layers; none but in a language model. end_tokens: after which a text is over; none in a
    bundle that does not list them.
    """

    path: Path
    config: dict[str, Any]
    vocab_size: int
    states: tuple[StateTensor, ...] = ()
    task: Task = field(default_factory=LanguageModel)
    end_tokens: tuple[int, ...] = ()

    def state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Name without `past_` or `present_` -> shape before the first token, in layer order."""
        return {state.name: state.shape_at(batch) for state in self.states}


def read_interface(session: Any, path: Path) -> ModelInterface:
    """Read the metadata of a loaded `onnxruntime.InferenceSession` and check that all of it fits.

    Raises:
        BadInputError: metadata missing or damaged; an input or output missing, surplus, of
            another type or another shape.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    interface = _parse(metadata, len(session.get_inputs()), path)
    ports = interface.task.ports(interface.vocab_size)
    inputs, outputs = _signature(ports.inputs), _signature(ports.outputs)
    for state in interface.states:
        tensor = _TYPES[state.dtype], state.shape_at(_FREE, _FREE)
        inputs[f"past_{state.name}"] = outputs[f"present_{state.name}"] = tensor
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


def _parse(metadata: Mapping[str, str], inputs: int, path: Path) -> ModelInterface:
    text, where = metadata.get(CONFIG_KEY), f"{path}: {CONFIG_KEY}"
    if text is None:
        raise BadInputError(
            f"{path}: expected the metadata entry {CONFIG_KEY}; it has none. "
            "Only models that ssmpress exported can be opened."
        )
    try:
        config = parse_json(text)
    except ValueError as error:
        raise BadInputError(f"{where}: expected JSON; got {text[:40]!r}: {error}.") from error
    if not isinstance(config, dict):
        raise BadInputError(f"{where}: expected an object; got {text[:40]!r}.")
    try:
        task = bundle_task_of(config)
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from error
    vocab_size, least = config.get("vocab_size"), int(task.reads_tokens)
    if type(vocab_size) is not int or not least <= vocab_size <= SIZE_LIMIT:
        raise BadInputError(
            f"{where}: vocab_size: expected an integer of at least {least}; got {vocab_size!r}."
        )
    states: tuple[StateTensor, ...] = ()
    if STATES_KEY in metadata:
        states = read_states(metadata[STATES_KEY], f"{path}: {STATES_KEY}")
    elif task.recurrent:
        states = old_bundles.states_of(config, inputs, where)
    ends = _end_tokens(config, vocab_size, where) if task.recurrent else ()
    return ModelInterface(path, config, vocab_size, states, task, ends)


def _end_tokens(config: Mapping[str, Any], vocab_size: int, where: str) -> tuple[int, ...]:
    tokens = config.get(END_TOKENS_KEY, [])
    integers = isinstance(tokens, list) and all(type(token) is int for token in tokens)
    if (
        not integers
        or len(tokens) > END_TOKEN_LIMIT
        or len(set(tokens)) < len(tokens)
        or not all(0 <= token < vocab_size for token in tokens)
    ):
        raise BadInputError(
            f"{where}: {END_TOKENS_KEY}: expected at most {END_TOKEN_LIMIT} different tokens from "
            f"0 to {vocab_size - 1}; got {str(tokens)[:40]}."
        )
    return tuple(tokens)


def _check(
    path: Path,
    kind: str,
    expected: _Tensors,
    tensors: list[Any],
    *,
    fixed: bool,
) -> None:
    """Compare names, types and shapes.

    fixed: a number that is expected must be declared; outputs may leave any dimension open.
    """
    actual = {item.name: item for item in tensors}
    if missing := [name for name in expected if name not in actual]:
        raise BadInputError(f"{path}: expected an {kind} named {missing[0]}; it has none.")
    if surplus := [name for name in actual if name not in expected]:
        raise BadInputError(
            f"{path}: unexpected {kind} {surplus[0]}; the metadata and the graph disagree."
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
                f"{tuple(item.shape)}. The metadata and the graph disagree."
            )
