"""The error of a forecaster over the windows of a series."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ssmpress.callbacks import Steps, silent
from ssmpress.data.series import SeriesWindows
from ssmpress.results.quality import TaskQuality


def forecast_error(
    forecast: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    windows: SeriesWindows,
    *,
    batch: int = 64,
    progress: Steps = silent,
) -> TaskQuality:
    """Mean squared error over every window, time step and variate; the mean absolute one beside it.

    Args:
        forecast: (b, lookback, variates) -> (b, horizon, variates), both z-scored, for example
            `Session.forecast`.
        windows: all of them are evaluated. batch: windows per call.

    Returns:
        The error; not finite where a forecast is not, which no gate passes.
    """
    squared, absolute, predictions = [], [], 0
    for begin in range(0, windows.count, batch):
        numbers = np.arange(begin, min(begin + batch, windows.count))
        inputs, targets, _ = windows.arrays(numbers)
        difference = forecast(inputs).astype(np.float64) - targets
        squared += (difference**2).mean(axis=(1, 2)).tolist()
        absolute += np.abs(difference).mean(axis=(1, 2)).tolist()
        predictions += difference.size
        progress(len(squared), windows.count)
    mse, mae = (float(np.mean(values)) for values in (squared, absolute))
    return TaskQuality(mse, tuple(squared), windows.lookback, predictions, {"mae": mae})
