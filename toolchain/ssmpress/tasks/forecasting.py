"""A forecaster: a window of a time series in, the time steps after it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ssmpress import replies
from ssmpress.callbacks import Note, Steps
from ssmpress.data.series import SeriesWindows, first_windows, load_series, to_csv
from ssmpress.files import write_text
from ssmpress.results.devices import Sample
from ssmpress.results.quality import TaskQuality
from ssmpress.tasks import whole
from ssmpress.tasks.block import (
    block_dict,
    block_error,
    check_choice,
    check_integer,
    check_names,
    check_numbers,
)
from ssmpress.tasks.forecast_error import forecast_error
from ssmpress.tasks.guess import series_guesses
from ssmpress.tasks.task import (
    Data,
    Metric,
    Port,
    Ports,
    Reference,
    Request,
    Times,
    Timing,
)
from ssmpress.tasks.tools import Device, Graph, Model, Outputs, Session
from ssmpress.tasks.words import BATCH, TASK_BATCH, Words

if TYPE_CHECKING:
    import onnx_ir as ir
    from tokenizers import Tokenizer
    from torch import Tensor

DEVICE_SAMPLES = 32
DEVICE_NUMBERS = 200_000
"""Numbers that are read in all on a device, at most: they travel as text."""
ERROR_TOLERANCE = 1e-3
"""Of a device's mean squared error, relative: as of a language model's perplexity."""
INSTANCE_EPS = 1e-5
"""Added to the variance of a window before the root: a constant window has none."""


_PYTHON = """\
session = ssmpress.open_session("model.onnx", library="libssmpress_ops.so")
task = session.interface.task  # values are (x - mean) / std by it
forecast = session.forecast(series)  # (1, lookback, variates) -> (1, horizon, variates)"""


@dataclass(frozen=True, kw_only=True)
class Forecasting:
    """The block of a forecaster, checked when built.

        {"kind": "forecast", "lookback": 96, "horizon": 96, "variates": ["load", "oil"],
         "mean": [7.4, 13.3], "std": [7.1, 8.6], "patch": 16, "stride": 8,
         "normalisation": "instance"}

    lookback, horizon: time steps that are read and predicted.
    variates: names of the columns, each once. The model forecasts each by itself, with the same
        weights.
    mean, std: of each variate over the training part; inputs and forecasts are (x - mean) / std.
    patch, stride: time steps per token and between the starts of two tokens.
    normalisation: "instance" subtracts each window's mean and divides by its standard deviation
        before the model, and undoes it after; "none".

    Raises:
        BadInputError: a field is out of its range.
    """

    lookback: int
    horizon: int
    variates: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch: int
    stride: int
    normalisation: str = "instance"

    kind: ClassVar[str] = "forecast"
    reads_tokens: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False
    long_samples: ClassVar[bool] = False
    metric: ClassVar[Metric] = Metric("MSE", "an MSE", higher_is_better=False)

    words: ClassVar[Words] = Words(
        model="A Mamba forecaster",
        does="predicts",
        one="forecast",
        single="one forecast",
        time_of_one="time of one forecast",
        sample="forecast",
        step="a forecast",
        whole_step="forecast",
        steps="time steps",
        length="{} time steps",
        many=BATCH,
        throughput=f"{BATCH} steps/s",
        prompt=f"{BATCH} of {{}} time steps each",
        samples="windows",
        evaluated="windows of the series that do not overlap",
        more="Evaluate more time steps: a longer series as --evaluation.",
        suspects=(
            "mean, std or the order of the variates in the task are those of another model, or the "
            "weights are damaged"
        ),
        also={"mae": "MAE"},
        counted="forecast",
        pipeline="time-series-forecasting",
        dataset="series",
        python=_PYTHON,
        command="eval {name} series.csv",
    )

    def __post_init__(self) -> None:
        for name in ("lookback", "horizon", "patch", "stride"):
            check_integer(name, getattr(self, name))
        check_names("variates", self.variates, least=1)
        check_choice("normalisation", self.normalisation, ("instance", "none"))
        count = len(self.variates)
        check_numbers("mean", self.mean, count, "variate", positive=False)
        check_numbers("std", self.std, count, "variate", positive=True)
        if self.patch > self.lookback or (self.lookback - self.patch) % self.stride:
            raise block_error(
                "patch",
                f"patches of {self.patch} every {self.stride} steps that end with the lookback",
                f"lookback {self.lookback}",
            )

    @property
    def outputs(self) -> int:
        """Rows of the head: a value per time step of the horizon."""
        return self.horizon

    @property
    def patches(self) -> int:
        """Tokens that one variate's window becomes."""
        return (self.lookback - self.patch) // self.stride + 1

    def summary(self) -> str:
        """How many variates there are, and how far it looks."""
        return (
            f" forecaster of {len(self.variates)} variates, {self.horizon} steps from "
            f"{self.lookback}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The task's block of config.json."""
        return block_dict(self)

    # ---- data ----

    def read(self, request: Request, note: Note) -> Data:
        """Every window of a series."""

        def load(paths: tuple[Path, ...], tokenizer: Tokenizer | None) -> SeriesWindows:
            return load_series(paths, self, note)

        return whole.read_samples(
            request,
            self.kind,
            "a CSV file of the series",
            load,
            lambda windows: len(windows.values),
            reads_tokens=False,
            note=note,
        )

    def digest(self, data: SeriesWindows) -> bytes:
        """SHA-256 of what decides the windows."""
        return data.digest()

    # ---- the graph ----

    def ports(self, vocab_size: int) -> Ports:
        """A window, and the time steps after it."""
        read = "time steps that are read, z-scored by the task's mean and std"
        predicted = "the time steps after them, z-scored"
        variates = len(self.variates)
        return Ports(
            (Port("series", "float32", ("batch", self.lookback, variates), read),),
            (Port("forecast", "float32", ("batch", self.horizon, variates), predicted),),
        )

    def nodes(self, graph: Graph, *inputs: ir.Value) -> list[ir.Value]:
        """`entries` and `read_out`: each variate is a sequence of patches, and its last position
        forecasts."""
        normal, scale = self._instance_nodes(graph, *inputs)
        by_variate = graph.node("Transpose", "by_variate", [normal], perm=[0, 2, 1])
        steps = np.arange(self.patches)[:, None] * self.stride + np.arange(self.patch)
        positions = graph.constant("patch_positions", steps)
        cut = graph.node("Gather", "patches/by_variate", [by_variate, positions], axis=2)
        shape = graph.constant("patches_shape", np.array([-1, self.patches, self.patch]))
        x = graph.layers(graph.node("Reshape", "patches", [cut, shape]))  # (b v, patches, patch)
        last = graph.node("Gather", "last_patch", [x, graph.constant("last", np.array(-1))], axis=1)
        head = graph.head(graph.norm(last), "head")
        shape = graph.constant("forecast_shape", np.array([-1, len(self.variates), self.horizon]))
        rows = graph.node("Reshape", "head/by_variate", [head, shape])
        if not scale:
            return [graph.node("Transpose", "forecast", [rows], perm=[0, 2, 1])]
        mean, deviation = scale
        steps_first = graph.node("Transpose", "head/by_time", [rows], perm=[0, 2, 1])
        wide = graph.node("Mul", "head/scaled", [steps_first, deviation])
        return [graph.node("Add", "forecast", [wide, mean])]

    def _instance_nodes(
        self, graph: Graph, series: ir.Value
    ) -> tuple[ir.Value, tuple[ir.Value, ...]]:
        """`instance_scale`: the normalised windows, and their mean and deviation."""
        if self.normalisation == "none":
            return series, ()
        axes = graph.constant("axis_time", np.array([1], np.int64))
        mean = graph.node("ReduceMean", "instance/mean", [series, axes], keepdims=1)
        centred = graph.node("Sub", "instance/centred", [series, mean])
        squares = graph.node("Mul", "instance/squares", [centred, centred])
        variance = graph.node("ReduceMean", "instance/variance", [squares, axes], keepdims=1)
        eps = graph.constant("instance_eps", np.array(INSTANCE_EPS, np.float32))
        above_zero = graph.node("Add", "instance/variance_eps", [variance, eps])
        deviation = graph.node("Sqrt", "instance/deviation", [above_zero])
        normal = graph.node("Div", "instance/normal", [centred, deviation])
        return normal, (mean, deviation)

    # ---- what it computes, in PyTorch ----

    def entries(self, inputs: Tensor) -> Tensor:
        """Patches of each variate's normalised window: a sequence of its own.

        Args:
            inputs: float (b, lookback, variates).

        Returns:
            float (b * variates, patches, patch).
        """
        import torch

        mean, scale = self.instance_scale(inputs)
        series = ((inputs - mean) / scale).transpose(1, 2).flatten(0, 1)  # (b v, lookback)
        starts = torch.arange(self.patches) * self.stride
        steps = starts[:, None] + torch.arange(self.patch)  # (patches, patch)
        return series[:, steps.to(series.device)]

    def read_out(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Tensor,
        inputs: Tensor,
        lengths: Tensor | None,
    ) -> Tensor:
        """Forecasts (b, horizon, variates) by the last patch of hidden (b v, patches, d_model)."""
        forecast = head(hidden[:, -1]).float()  # (b v, horizon)
        forecast = forecast.view(inputs.shape[0], -1, self.horizon).transpose(1, 2)
        mean, scale = self.instance_scale(inputs)
        return forecast * scale + mean

    def instance_scale(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over time of each variate of each window, (b, 1, v) each.

        Args:
            series: float (b, lookback, variates).

        Source: Kim et al., "Reversible Instance Normalization", ICLR 2022, without the affine part.
        """
        if self.normalisation == "none":
            shape = (series.shape[0], 1, series.shape[2])
            return series.new_zeros(shape), series.new_ones(shape)
        mean = series.mean(dim=1, keepdim=True)
        variance = (series - mean).square().mean(dim=1, keepdim=True)
        return mean, (variance + INSTANCE_EPS).sqrt()

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """T: the mean squared error. Both: (b, horizon, variates)."""
        import torch.nn.functional as F

        return F.mse_loss(outputs.float(), targets)

    def teacher_loss(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """D: the mean squared difference of two forecasts (b, horizon, variates)."""
        import torch.nn.functional as F

        return F.mse_loss(outputs.float(), teacher.float())

    def metric_sums(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Each window's mean squared and mean absolute error."""
        difference = (outputs - targets).double()
        numbers = difference[0].numel()
        return {
            "mse": float(difference.square().sum()) / numbers,
            "mae": float(difference.abs().sum()) / numbers,
        }

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Each window's mean squared error."""
        return (outputs.float() - targets).square().flatten(1).mean(1)

    # ---- quality ----

    def evaluate(self, session: Session, evaluation: SeriesWindows, progress: Steps) -> TaskQuality:
        """Mean squared error over the windows."""
        return forecast_error(partial(_forecast, session), evaluation, progress=progress)

    def drawn_together(self, evaluation: SeriesWindows) -> int:
        """A window overlaps with as many as it has time steps."""
        return self.lookback + self.horizon

    def further(
        self,
        qualities: Mapping[str, Any],
        evaluation: SeriesWindows,
        tokenizer: Path | None,
    ) -> dict[str, dict[str, float]]:
        """The mean absolute error."""
        return {name: quality.also for name, quality in qualities.items()}

    def guesses(
        self, calibration: SeriesWindows, evaluation: SeriesWindows, vocab_size: int
    ) -> Mapping[str, TaskQuality]:
        """The mean, or the last value again."""
        return series_guesses(evaluation)

    def by_class(self, qualities: Mapping[str, Any], evaluation: Any) -> None:
        """Forecasts have no classes."""

    # ---- parity ----

    def parity_sample(self, evaluation: SeriesWindows) -> SeriesWindows:
        """The first windows."""
        return first_windows(evaluation, whole.PARITY_SAMPLES)

    def by_torch(self, model: Model, sample: SeriesWindows) -> Outputs:
        """Forecasts of each window by itself."""
        return whole.each_by_torch(model, sample)

    def by_session(self, session: Session, sample: SeriesWindows) -> Outputs:
        """The same by a bundle's model."""
        return whole.each_by_session(session, "series", "forecast", sample)

    # ---- time ----

    def timing(self, evaluation: SeriesWindows) -> Timing:
        """A batch, and single windows."""
        return Timing(steps=self.lookback, singles=whole.PREDICTIONS, prefills=TASK_BATCH)

    def first_prediction(self, session: Session) -> None:
        """The forecast of a window of zeros."""
        _forecast(session, np.zeros((1, self.lookback, len(self.variates)), np.float32))

    def timed_round(
        self, session: Session, random: np.random.Generator, steps: int, singles: int
    ) -> Times:
        """Windows of random numbers."""

        def draw(count: int) -> whole.Inputs:
            shape = (count, self.lookback, len(self.variates))
            return {"series": random.normal(size=shape).astype(np.float32)}

        return whole.timed_round(session, draw, singles)

    # ---- a device ----

    def reference(self, session: Session, evaluation: SeriesWindows, folder: Path) -> Reference:
        """Forecasts of the first windows, so that the device's runner cuts them from a file as
        this host does, and their error."""
        windows, file = some_windows(evaluation), folder / "sample.csv"
        write_text(file, to_csv(windows, self))
        inputs, _, _ = windows.arrays(np.arange(windows.count))
        outputs = {"predictions": _forecast(session, inputs)}
        quality = forecast_error(partial(_forecast, session), windows)
        return Reference(windows, outputs, quality, self.lookback, file)

    def by_device(self, device: Device, reference: Reference) -> Outputs:
        """The forecasts of all windows."""
        windows: SeriesWindows = reference.sample
        inputs, _, _ = windows.arrays(np.arange(windows.count))
        reply = device.ask({"do": "forecast", "series": inputs.ravel().tolist()})
        shape = reference.outputs["predictions"].shape
        return {"predictions": replies.array(reply, "forecast", shape)}

    def metric_there(self, device: Device, outputs: Outputs, reference: Reference) -> Sample:
        """The mean squared error. difference: relative; tolerance: as far as the device's own
        forecasts move it."""
        windows: SeriesWindows = reference.sample
        quality, file = reference.quality, reference.file
        assert file is not None
        _, targets, _ = windows.arrays(np.arange(windows.count))
        own = ((outputs["predictions"].astype(np.float64) - targets) ** 2).mean(axis=(1, 2))
        least = max(quality.value, float(np.finfo(np.float32).tiny))
        moved = float(np.abs(own - np.array(quality.scores)).mean()) / least
        there = replies.number(device.evaluate(file), "mse")
        return Sample(
            tokens=quality.predictions,
            window=quality.length,
            host=quality.value,
            device=there,
            difference=abs(there - quality.value) / least,
            tolerance=max(ERROR_TOLERANCE, moved),
        )


def _forecast(session: Session, series: NDArray[np.float32]) -> NDArray[np.float32]:
    """(b, lookback, variates) -> (b, horizon, variates)."""
    return session.run({"series": series})["forecast"]


def some_windows(windows: SeriesWindows) -> SeriesWindows:
    """The first ones, as many as a device can take."""
    numbers = windows.lookback * windows.values.shape[1]
    return first_windows(windows, min(DEVICE_SAMPLES, DEVICE_NUMBERS // numbers))
