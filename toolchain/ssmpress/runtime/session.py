"""ONNX Runtime sessions: prefill, decode, state in and out.

    session = open_session("model.onnx", threads=2, library=get_library_path())
    logits, state = session.prefill(prompt)          # prompt int (b, l) -> (b, 1, vocab)
    logits, state = session.step(token, state)       # token int (b,)    -> (b, vocab)

`prefill` and `step` advance the state they are given in place; `State.copy` keeps one.
`runtime.loading` opens them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ssmpress.errors import (
    NO_MEMORY,
    BadInputError,
    DeviceError,
    SsmpressError,
    UsageError,
    lacks_memory,
)
from ssmpress.runtime.failures import first_line, naming_model
from ssmpress.runtime.interface import ModelInterface
from ssmpress.runtime.pieces import PIECE_TOKENS, pieces
from ssmpress.runtime.sampling import SplitMix64, check_sampling, sample
from ssmpress.runtime.state import State, bind
from ssmpress.tasks import Classification, Forecasting, LanguageModel, NetworkTask
from ssmpress.tasks.task import Port

Logits = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]
_Expected = TypeVar("_Expected", LanguageModel, Classification, Forecasting)


class Session:
    """One loaded model. Made by `open_session`; not safe for use from several threads at once.

    piece_tokens: a prompt runs in pieces of that many tokens, at least 1.
    """

    def __init__(self, onnx_session: Any, interface: ModelInterface, threads: int) -> None:
        self._onnx = onnx_session
        self.interface = interface
        self.threads = threads
        self.piece_tokens = PIECE_TOKENS
        self._decoders: WeakKeyDictionary[State, _Decoder] = WeakKeyDictionary()

    def initial_state(self, batch: int) -> State:
        """The zero state, where every text starts."""
        self._expect(LanguageModel)
        if batch < 1:
            raise UsageError(f"batch: expected at least 1; got {batch}.")
        with naming_model(self.interface.path):
            return State(self.interface.states, batch, self)

    def prefill(
        self, tokens: Integers, state: State | None = None, positions: Integers | None = None
    ) -> tuple[Logits, State]:
        """Run a text of any length, in pieces that carry the state.

        States, and the logits of all positions or of the last one, are those of one call to the
        last bit. (Of a few positions, ONNX Runtime's matrix product may add in another order.)

        Args:
            tokens: int (b, l), 0 .. vocab-1, l >= 1.
            state: the state before them, advanced in place; None starts from the zero state.
            positions: int (p,), 0 .. l-1, whose logits are wanted, or none at all; None is
                the last one.

        Returns:
            logits float32 (b, p, vocab) and the state after the last token.

        Raises:
            BadInputError: a token or position out of range, or shapes that disagree.
            UsageError: the state belongs to another session.
            DeviceError: no memory; the state is then no more good.
        """
        ids = self._tokens(tokens, 2)
        state = self.initial_state(len(ids)) if state is None else self._own(state, len(ids))
        chosen = self._positions(positions, ids.shape[1])
        vocab = self.interface.vocab_size
        with naming_model(self.interface.path):
            logits = np.empty((len(ids), len(chosen), vocab), np.float32)
        begin = 0
        for size in pieces(ids.shape[1], self.piece_tokens):
            here = np.flatnonzero((chosen >= begin) & (chosen < begin + size))
            # A binding keeps addresses alone: what it reads must have a name until it has run.
            piece = np.ascontiguousarray(ids[:, begin : begin + size])
            places = chosen[here] - begin
            one_call = size == ids.shape[1]
            part = logits if one_call else np.empty((len(ids), len(here), vocab), np.float32)
            with naming_model(self.interface.path):
                state.make_room(size)
            self._run(self._bind(piece, places, part, state, state.front))
            state.advance(size)
            if not one_call:
                logits[:, here] = part
            begin += size
        return logits, state

    def predict(self, tokens: Integers, state: State | None = None) -> tuple[Logits, State]:
        """`prefill` with the logits of every position: what `evaluate.perplexity` calls."""
        return self.prefill(tokens, state, np.arange(np.shape(tokens)[-1], dtype=np.int64))

    def step(self, token: Integers, state: State) -> tuple[Logits, State]:
        """Run one token.

        Args:
            token: int (b,), 0 .. vocab-1.
            state: the state before it, advanced in place.

        Returns:
            logits float32 (b, vocab), a fresh array, and the state.

        Raises:
            BadInputError: a token out of range, or another batch size than the state's.
            UsageError: the state belongs to another session.
        """
        ids = self._tokens(token, 1)
        self._own(state, len(ids))
        decoder = self._decoders.get(state)
        if decoder is None:
            decoder = self._decoders[state] = _Decoder(self, state)
        logits = decoder.run(ids, state)
        state.advance(1)
        return logits, state

    def generate(
        self,
        tokens: Integers,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> Iterator[int]:
        """Continue a text, one token at a time; the same tokens as `ssmrun generate`.

        An end token of the model (`interface.end_tokens`) is the last one.

        Args:
            tokens: int (l,), the prompt, l >= 1.
            max_tokens: how many to produce at most, >= 0.
            ignore_eos: go on after an end token.
            temperature: 0 takes the likeliest token; else 1e-6 to 1e6.
            top_k: draw among that many; 0 is all.
            seed: of the draws, 0 to 2^64 - 1.

        Raises:
            BadInputError: a token out of range, or logits that are not finite.
            UsageError: temperature, top_k or seed out of range.
        """
        random = SplitMix64(seed)
        check_sampling(temperature, top_k)
        if max_tokens < 1:
            return
        ends = () if ignore_eos else self.interface.end_tokens
        logits, state = self.prefill(np.asarray(tokens)[None])
        row = logits[0, -1]
        for count in range(max_tokens):
            token = sample(row, temperature, top_k, random)
            yield token
            if token in ends:
                return
            if count + 1 < max_tokens:
                row = self.step(np.array([token]), state)[0][0]

    def classify(self, tokens: Integers) -> Logits:
        """A classifier's logits. tokens: int (b, l), no padding -> float32 (b, classes).

        Raises:
            BadInputError: a token out of range. UsageError: the model is no classifier.
        """
        self._expect(Classification)
        return self.run({"input_ids": tokens})["logits"]

    def forecast(self, series: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """A forecaster's next time steps, z-scored as its input.

        Args:
            series: float (b, lookback, variates), (x - mean) / std by the model's task.

        Returns:
            float32 (b, horizon, variates).

        Raises:
            BadInputError: another shape, or a value that is not finite. UsageError: the model is
                no forecaster.
        """
        self._expect(Forecasting)
        return self.run({"series": series})["forecast"]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs, by name, of a model that carries no state by itself.

        Args:
            inputs: by name, as the ports of the model's task say: int64 tokens, float32, or the
                types of a user's network. States that a network declares may be left out; they
                are zero then, and their outputs are those of the next call.

        Raises:
            BadInputError: another shape or type, a token out of range, or a value that is not
                finite.
            UsageError: the model is a language model.
        """
        task = self.interface.task
        if task.recurrent:
            raise UsageError(
                f"{self.interface.path}: expected a model without states; got a {task.kind} model. "
                "Call prefill and step."
            )
        if isinstance(task, NetworkTask):
            inputs = task.with_states(inputs)
        ports = task.ports(self.interface.vocab_size)
        checked = {port.name: self._checked(port, inputs[port.name]) for port in ports.inputs}
        try:
            outputs = self._onnx.run([port.name for port in ports.outputs], checked)
        except Exception as error:
            raise self._failure(error) from error
        return dict(zip((port.name for port in ports.outputs), outputs, strict=True))

    def _checked(self, port: Port, values: NDArray[Any]) -> NDArray[Any]:
        network = isinstance(self.interface.task, NetworkTask)
        if port.type == "int64" and not network:
            return self._tokens(values, len(port.shape))
        array = _as_type(port, np.asarray(values))
        fits = len(array.shape) == len(port.shape) and all(
            size == expected if isinstance(expected, int) else size > 0
            for size, expected in zip(array.shape, port.shape, strict=True)
        )
        if not fits:
            names = [w if network else str(w)[:1] for w in port.shape if isinstance(w, str)]
            shape = ", ".join(str(w) if isinstance(w, int) else names.pop(0) for w in port.shape)
            raise BadInputError(f"{port.name}: expected ({shape}); got {array.shape}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadInputError(
                f"{port.name}: expected finite values; got NaN or infinity. Fill the gaps."
            )
        return array

    def _expect(self, cls: type[_Expected]) -> _Expected:
        task = self.interface.task
        if not isinstance(task, cls):
            raise UsageError(
                f"{self.interface.path}: expected a {cls.kind} model; got a {task.kind} model. "
                "Call the method of its task."
            )
        return task

    def end_profiling(self) -> Path:
        """Stop a session opened with `profile=True`; the path of its JSON trace."""
        return Path(self._onnx.end_profiling())

    def _bind(
        self,
        ids: NDArray[np.int64],
        wanted: NDArray[np.int64],
        logits: Logits,
        state: State,
        side: int,
    ) -> Any:
        """A binding that reads the buffers of `side` and writes the other ones, all in place."""
        binding = self._onnx.io_binding()
        bind(binding.bind_input, {"input_ids": ids, "logits_positions": wanted})
        bind(binding.bind_output, {"logits": logits})
        state.bind(binding, side)
        return binding

    def _run(self, binding: Any) -> None:
        try:
            self._onnx.run_with_iobinding(binding)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> SsmpressError:
        if lacks_memory(error):
            return DeviceError(f"{self.interface.path}: {NO_MEMORY}")
        return BadInputError(
            f"{self.interface.path}: ONNX Runtime could not run it: {first_line(error)}"
        )

    def _tokens(self, tokens: Integers, dimensions: int) -> NDArray[np.int64]:
        """The tokens as int64, checked: of one out of range the graph would say nothing of why."""
        array = np.asarray(tokens)
        if array.ndim != dimensions or array.size == 0 or array.dtype.kind not in "iu":
            shape = "(b, l)" if dimensions == 2 else "(b,)"
            raise BadInputError(
                f"tokens: expected integers {shape}, at least one; got {array.dtype} {array.shape}."
            )
        low, high, vocab = int(array.min()), int(array.max()), self.interface.vocab_size
        if low < 0 or high >= vocab:
            raise BadInputError(
                f"tokens: expected 0 to {vocab - 1}; got {low} to {high}. The text was made with "
                "another tokenizer than the model's."
            )
        return np.ascontiguousarray(array, np.int64)

    def _positions(self, positions: Integers | None, length: int) -> NDArray[np.int64]:
        if positions is None:
            return np.array([length - 1], np.int64)
        array = np.ascontiguousarray(positions, np.int64)
        if array.ndim != 1 or (array.size and (array.min() < 0 or array.max() >= length)):
            raise BadInputError(f"positions: expected (p,) of 0 to {length - 1}; got {array}.")
        return array

    def _own(self, state: State, batch: int) -> State:
        if state.owner is not self:
            raise UsageError("state: expected one of this session; it belongs to another one.")
        if state.batch != batch:
            raise BadInputError(f"tokens: expected a batch of {state.batch}; got {batch}.")
        return state


def _as_type(port: Port, array: NDArray[Any]) -> NDArray[Any]:
    """The array as the port's type, where no number of it changes but by a float's rounding.

    Raises:
        BadInputError: it would.
    """
    floats = port.type.startswith("float") and array.dtype.kind in "fiu"
    whole = port.type.startswith("int") and array.dtype.kind in "iu"
    if whole and array.size:
        limits = np.iinfo(port.type)
        whole = limits.min <= int(array.min()) and int(array.max()) <= limits.max
    if not (floats or whole or (port.type == "bool" and array.dtype.kind == "b")):
        raise BadInputError(f"{port.name}: expected {port.type}; got {array.dtype}.")
    with np.errstate(over="ignore"):  # beyond float16 is infinite, which is refused
        return np.ascontiguousarray(array, port.type)


class _Decoder:
    """The two bindings of a state for single tokens, made once: a step only writes its token."""

    def __init__(self, session: Session, state: State) -> None:
        self._session = session
        self._ids = np.zeros((state.batch, 1), np.int64)
        self._positions = np.zeros(1, np.int64)
        self._logits = np.empty((state.batch, 1, session.interface.vocab_size), np.float32)
        self._bindings = [
            session._bind(self._ids, self._positions, self._logits, state, side) for side in (0, 1)
        ]

    def run(self, ids: NDArray[np.int64], state: State) -> Logits:
        self._ids[:, 0] = ids
        binding = self._bindings[state.front]
        with naming_model(self._session.interface.path):
            state.make_room(1)
        state.bind_growing(binding)
        self._session._run(binding)
        return self._logits[:, 0].copy()
