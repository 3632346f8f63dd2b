"""What a network's task and its recovery ask of the user's samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn


class NetworkData(Protocol):
    """Batches of one split, and the user's functions. `nets.samples.NetworkSamples`."""

    @property
    def count(self) -> int:
        """The number of batches."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The samples of each batch: the length of axis 0 of its first input."""

    def batch(self, number: int) -> tuple[dict[str, Tensor], Any]:
        """The inputs by name and the target of a batch, on the CPU."""

    def arrays(self, number: int) -> dict[str, NDArray[Any]]:
        """The inputs of a batch for ONNX Runtime."""

    def call(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
        """What the module returns."""

    def flat(self, outputs: Any) -> dict[str, Tensor]:
        """The outputs of a call by name, in the graph's order."""

    def structured(self, arrays: Mapping[str, NDArray[Any]]) -> Any:
        """ONNX Runtime's outputs as the module returns them."""

    def mean_outputs(self, number: int) -> dict[str, NDArray[Any]]:
        """What the dense module returns on average, as if it were its outputs for a batch."""

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """The user's loss, a scalar with gradients."""

    def distance(self, student: Any, teacher: Any) -> Tensor:
        """How far the outputs of a pruned module are from the dense one's, a scalar."""

    def metric(self, outputs: Any, target: Any) -> float:
        """The user's metric of a batch."""

    def digest(self) -> bytes:
        """SHA-256 of all batches."""

    def part_in(self, other: NetworkData) -> float:
        """Part of these batches, 0 .. 1, that others have too."""

    def some(self, numbers: list[int]) -> NetworkData:
        """The batches with these numbers alone."""
