"""A network of the user's own: whatever goes in, whatever comes out, and the user's metric."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssmpress import replies
from ssmpress.callbacks import Steps
from ssmpress.errors import BadInputError
from ssmpress.results.devices import Sample
from ssmpress.results.quality import TaskQuality
from ssmpress.tasks.block import block_error
from ssmpress.tasks.network_data import NetworkData
from ssmpress.tasks.network_ports import BATCH, NetPort, read_port
from ssmpress.tasks.task import Metric, Ports, Reference, Times, Timing
from ssmpress.tasks.tools import Device, Model, Outputs, Session
from ssmpress.tasks.whole import PARITY_SAMPLES, PREDICTIONS, milliseconds
from ssmpress.tasks.words import TASK_BATCH, Words

MAX_METRIC_NAME = 60

METRIC_TOLERANCE = 1e-3
"""Of a device's metric, relative: as of a language model's perplexity."""

DEVICE_BYTES = 16 << 20
"""Of the inputs that a device is sent, at most."""

_PYTHON = """\
session = ssmpress.open_session("model.onnx", library="libssmpress_ops.so")
print(session.interface.task.inputs)  # names, types and sizes
outputs = session.run(inputs)         # NumPy arrays by name, both ways"""


@dataclass(frozen=True, kw_only=True)
class NetworkTask:
    """The block of a network, checked when built.

        {"kind": "network", "metric_name": "accuracy", "higher_is_better": true, "states": {},
         "inputs": [{"name": "x", "type": "float32", "shape": ["batch", 16, 3],
                     "example": [1, 16, 3]}],
         "outputs": [...]}

    inputs, outputs: in the graph's order. metric_name, higher_is_better: of the user's metric.
    states: input -> output that is its value in the next call; such an input may be left out, and
        is zero then.

    Raises:
        BadInputError: a field is out of its range.
    """

    inputs: tuple[NetPort, ...]
    outputs: tuple[NetPort, ...]
    metric_name: str = "score"
    higher_is_better: bool = True
    states: Mapping[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "network"
    reads_tokens: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False
    long_samples: ClassVar[bool] = True

    words: ClassVar[Words] = Words(
        model="A network with Mamba blocks",
        does="runs",
        one="call",
        single="one call",
        time_of_one="time of one call",
        sample="call",
        step="a call",
        whole_step="call",
        steps="samples",
        length="{} sample",
        many="calls together",
        throughput="samples/s",
        prompt="{} at once",
        samples="batches",
        evaluated="batches",
        more="Return more batches for samples('evaluation').",
        suspects=(
            "the weights are not those of this network, samples are prepared otherwise than for "
            "training, or build() leaves something out that training had"
        ),
        counted="call",
        pipeline="other",
        dataset="samples",
        python=_PYTHON,
        command="bench {name}",
    )

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs"):
            ports = tuple(map(read_port, getattr(self, name)))
            object.__setattr__(self, name, ports)
            names = [port.name for port in ports]
            if not names or len(set(names)) < len(names):
                raise block_error(name, "different names, at least one", names)
        text = self.metric_name
        if (
            not isinstance(text, str)
            or not 0 < len(text) <= MAX_METRIC_NAME
            or not text.isprintable()
        ):
            raise block_error("metric_name", f"1 to {MAX_METRIC_NAME} printable characters", text)
        if not isinstance(self.higher_is_better, bool):
            raise block_error("higher_is_better", "true or false", self.higher_is_better)
        self._check_states()

    def _check_states(self) -> None:
        if not isinstance(self.states, Mapping):
            raise block_error("states", "an object", self.states)
        inputs = {port.name: port for port in self.inputs}
        outputs = {port.name: port for port in self.outputs}
        for before, after in self.states.items():
            known = before in inputs and isinstance(after, str) and after in outputs
            if not known or inputs[before].type != outputs[after].type:
                raise block_error("states", "inputs with outputs of their type", {before: after})
        if len(self.states) >= len(self.inputs):
            raise block_error("states", "an input that is no state", dict(self.states))

    @property
    def metric(self) -> Metric:
        """The user's."""
        article = "an" if self.metric_name[0].lower() in "aeio" else "a"
        return Metric(self.metric_name, f"{article} {self.metric_name}", self.higher_is_better)

    @property
    def batches(self) -> bool:
        """Whether several samples may go in at once."""
        return all(port.shape[:1] == (BATCH,) for port in self.inputs)

    def summary(self) -> str:
        """What goes in and comes out."""
        inputs = ", ".join(port.name for port in self.inputs)
        return f" network, {inputs} -> {', '.join(port.name for port in self.outputs)}"

    def to_dict(self) -> dict[str, Any]:
        """The task's block of the bundle's configuration."""
        return {
            "kind": self.kind,
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "metric_name": self.metric_name,
            "higher_is_better": self.higher_is_better,
            "states": dict(self.states),
        }

    def digest(self, data: NetworkData) -> bytes:
        """SHA-256 of all batches."""
        return data.digest()

    def ports(self, vocab_size: int) -> Ports:
        """The network's own."""
        return Ports(
            tuple(port.port for port in self.inputs), tuple(port.port for port in self.outputs)
        )

    def with_states(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The inputs, and zeros for the states that are not among them.

        Raises:
            BadInputError: another input is missing, or one is unknown.
        """
        names = [port.name for port in self.inputs]
        if unknown := [name for name in inputs if name not in names]:
            raise BadInputError(
                f"inputs: expected {', '.join(names)}; got {ascii(unknown[0])[1:-1][:60]}."
            )
        if missing := [n for n in names if n not in inputs and n not in self.states]:
            raise BadInputError(f"inputs: expected {', '.join(names)}; got no {missing[0]}.")
        sizes: dict[str, int] = {}
        for port in self.inputs:
            if port.name in inputs:
                pairs = zip(port.shape, np.shape(inputs[port.name]), strict=False)
                sizes |= {named: size for named, size in pairs if isinstance(named, str)}
        return {
            port.name: np.asarray(inputs[port.name]) if port.name in inputs else port.zeros(sizes)
            for port in self.inputs
        }

    # ---- quality ----

    def evaluate(self, session: Session, evaluation: NetworkData, progress: Steps) -> TaskQuality:
        """The mean of the user's metric over the batches."""
        scores = []
        for number in range(evaluation.count):
            outputs = session.run(evaluation.arrays(number))
            scores.append(_score(evaluation, number, outputs))
            progress(number + 1, evaluation.count)
        return _quality(scores, evaluation)

    def drawn_together(self, evaluation: NetworkData) -> int:
        """Batches are independent, as far as is known."""
        return 1

    def further(
        self, qualities: Mapping[str, Any], evaluation: NetworkData, tokenizer: Path | None
    ) -> dict[str, dict[str, float]]:
        """The user has one metric."""
        return {name: {} for name in qualities}

    def guesses(
        self, calibration: NetworkData, evaluation: NetworkData, vocab_size: int
    ) -> Mapping[str, TaskQuality]:
        """The mean output every time: the network's on its first batch, over all but the last axis,
        or over all where that fits no other batch."""
        scores = [
            _score(evaluation, number, evaluation.mean_outputs(number))
            for number in range(evaluation.count)
        ]
        return {"its own mean output every time": _quality(scores, evaluation)}

    def by_class(self, qualities: Mapping[str, Any], evaluation: Any) -> None:
        """What the outputs mean is the user's to know."""

    # ---- parity ----

    def parity_sample(self, evaluation: NetworkData) -> NetworkData:
        """The first batches."""
        return evaluation.some(list(range(min(PARITY_SAMPLES, evaluation.count))))

    def by_torch(self, model: Model, sample: NetworkData) -> Outputs:
        """The outputs of each batch by the module."""

        def run(number: int) -> Mapping[str, NDArray[Any]]:
            flat = sample.flat(sample.call(model, sample.batch(number)[0]))  # type: ignore[arg-type]
            return {name: tensor.numpy() for name, tensor in flat.items()}

        return self._of_each(sample, run)

    def by_session(self, session: Session, sample: NetworkData) -> Outputs:
        """The same by a bundle's model."""
        return self._of_each(sample, lambda number: session.run(sample.arrays(number)))

    def _of_each(
        self, sample: NetworkData, run: Callable[[int], Mapping[str, NDArray[Any]]]
    ) -> Outputs:
        """Outputs of floating-point numbers, which rounding moves by little; all if there are none.

        Integers, such as the number of the largest logit, may change as a whole.
        """
        real = [port.name for port in self.outputs if port.type.startswith("float")]
        names = real or [port.name for port in self.outputs]
        results = [run(number) for number in range(sample.count)]
        return {
            f"{name} of batch {number}": np.asarray(result[name], np.float32)
            for number, result in enumerate(results)
            for name in names
        }

    # ---- time ----

    def timing(self, evaluation: NetworkData) -> Timing:
        """Single calls, and several samples at once where the network takes them."""
        return Timing(steps=1, singles=PREDICTIONS, prefills=TASK_BATCH if self.batches else 1)

    def first_prediction(self, session: Session) -> None:
        """The outputs for zeros, or the least integers that an input takes."""
        session.run(
            {port.name: np.full(port.example, port.low or 0, port.type) for port in self.inputs}
        )

    def timed_round(
        self, session: Session, random: np.random.Generator, steps: int, singles: int
    ) -> Times:
        """Random inputs of the example's sizes; 8 samples at once, or one where that cannot be."""

        def draw(batch: int | None) -> dict[str, NDArray[Any]]:
            return {port.name: port.draw(random, batch) for port in self.inputs}

        together = draw(TASK_BATCH if self.batches else None)
        prefill_ms = milliseconds(partial(session.run, together))
        each = [draw(1 if self.batches else None) for _ in range(singles)]
        return prefill_ms, [milliseconds(partial(session.run, one)) for one in each]

    # ---- a device ----

    def reference(self, session: Session, evaluation: NetworkData, folder: Path) -> Reference:
        """The outputs for the first batch.

        Raises:
            BadInputError: it is too large to be sent.
        """
        sample = evaluation.some([0])
        inputs = self.with_states(sample.arrays(0))
        size = sum(array.nbytes for array in inputs.values())
        if size > DEVICE_BYTES:
            raise BadInputError(
                f"samples('evaluation'): expected a first batch of at most {DEVICE_BYTES >> 20} "
                f"MiB, since a device is sent it; got {size / 2**20:.0f}. Return smaller batches."
            )
        outputs = session.run(inputs)
        quality = _quality([_score(sample, 0, outputs)], sample)
        return Reference(sample, outputs, quality, length=1)

    def by_device(self, device: Device, reference: Reference) -> Outputs:
        """The device's outputs for the batch."""
        inputs = self.with_states(reference.sample.arrays(0))
        reply = device.ask({"do": "run", "inputs": {n: _sent(a) for n, a in inputs.items()}})
        return {
            name: replies.typed_array(reply, ("outputs", name), expected.dtype, expected.shape)
            for name, expected in reference.outputs.items()
        }

    def metric_there(self, device: Device, outputs: Outputs, reference: Reference) -> Sample:
        """The user's metric of the device's own outputs. difference: relative."""
        host = reference.quality.value
        there = _score(reference.sample, 0, outputs)
        least = max(abs(host), float(np.finfo(np.float32).tiny))
        return Sample(
            tokens=reference.quality.predictions,
            window=1,
            host=host,
            device=there,
            difference=abs(there - host) / least,
            tolerance=METRIC_TOLERANCE,
        )


def _score(data: NetworkData, number: int, outputs: Mapping[str, NDArray[Any]]) -> float:
    """The user's metric of a batch."""
    return data.metric(data.structured(outputs), data.batch(number)[1])


def _quality(scores: list[float], data: NetworkData) -> TaskQuality:
    samples = sum(data.sizes)
    return TaskQuality(float(np.mean(scores)), tuple(scores), max(data.sizes), samples)


def _sent(array: NDArray[Any]) -> dict[str, Any]:
    """An array as a request has it."""
    whole = np.ascontiguousarray(array)
    return {
        "shape": list(whole.shape),
        "type": str(whole.dtype),
        "data": base64.b64encode(whole.tobytes()).decode(),
    }
