"""Does the bundle compute what the pruned PyTorch model computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray

from ssmpress.blocks.model import Mamba
from ssmpress.blocks.projection import Projection
from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.errors import ParityError
from ssmpress.formats import Values
from ssmpress.graph.diagnose import first_difference
from ssmpress.measure import metrics
from ssmpress.nets.reference import Reference
from ssmpress.nets.samples import NetworkSamples
from ssmpress.pack.matrix import unpack
from ssmpress.pack.model import PackedModel, PackedTensors
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.devices import Parity
from ssmpress.runtime.loading import open_session, run_file
from ssmpress.stages.bundle import Bundle
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.source import AnySource
from ssmpress.tasks.tools import Model, Outputs

PARITY_TOLERANCE = {
    # float32 sums in another order over up to 24 layers; measured 1e-6 to 2e-5
    Values.FP32: 1e-4,
    Values.FP16: 1e-4,
    # An activation within one rounding error of a step between two int8 values falls to either
    # side; one such step is 1/127 of the token's largest activation, and layers add theirs up.
    # Measured 2e-3 to 2.8e-2 on trained models. Two swapped rows give 7e-2 to 0.7 where their layer
    # reads both, a row with a wrong scale 0.26 to 0.4.
    Values.INT8: 6e-2,
    Values.INT4: 6e-2,
}

INT8_LIMIT = 0.15
"""No spread of the model itself excuses more."""


def check_parity(
    source: AnySource, packed: PackedTensors, bundle: Bundle, recipe: Recipe
) -> Parity:
    """Compare the bundle with PyTorch on a small part of the evaluation.

    PyTorch runs the unpacked weights, and quantises activations where the bundle does.

    Raises:
        ParityError: an output or a state differs; names the first one, in the order of layers.
    """
    task, model = source.task, reference_of(source, packed)
    sample: Any = task.parity_sample(source.evaluation)

    def by_torch() -> Outputs:
        with torch.no_grad():
            return task.by_torch(cast(Model, model), sample)

    expected = by_torch()
    session = open_session(bundle.model, threads=recipe.threads, library=bundle.host_library)
    actual = task.by_session(session, sample)
    try:
        return _within_tolerance(
            packed, expected, actual, lambda: _own_spread(_first_read(model), expected, by_torch)
        )
    except ParityError as error:
        if isinstance(model, Reference):
            raise ParityError(f"{error} {_place(model, sample, bundle, recipe)}") from error
        raise


def _place(reference: Reference, sample: NetworkSamples, bundle: Bundle, recipe: Recipe) -> str:
    """Where a network's graph first computes something else, as a sentence."""

    def run(path: Path, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return run_file(path, inputs, threads=recipe.threads, library=bundle.host_library)

    tolerance = max(PARITY_TOLERANCE.values())
    found = first_difference(reference, bundle.model, sample.batch(0)[0], run, tolerance)
    return "" if found is None else f"{str(found).capitalize()}."


def _within_tolerance(
    packed: PackedTensors, expected: Outputs, actual: Outputs, spread: Callable[[], float]
) -> Parity:
    """The comparison, by what the model itself excuses where a fixed bound is not enough.

    Raises:
        ParityError: an output differs by more.
    """
    tolerance = parity_tolerance(packed)
    parity = metrics.parity(expected, actual, tolerance=tolerance)
    if not parity.ok and tolerance >= PARITY_TOLERANCE[Values.INT8]:
        tolerance = max(tolerance, min(INT8_LIMIT, 4 * spread()))
        parity = metrics.parity(expected, actual, tolerance=tolerance)
    if not parity.ok:
        raise ParityError(
            f"the exported graph disagrees with the pruned PyTorch model: {parity.reason} "
            "This is a defect of ssmpress; please report it with the model's shapes."
        )
    return parity


def parity_tolerance(packed: PackedTensors) -> float:
    """The widest of the formats in use."""
    values = {matrix.format.values for matrix in packed.matrices.values()} or {Values.FP32}
    return max(PARITY_TOLERANCE[kind] for kind in values)


def _own_spread(
    changed: Sequence[torch.Tensor], expected: Outputs, run: Callable[[], Outputs]
) -> float:
    """How far the quantised model goes from itself when its input changes by rounding errors.

    The largest relative distance over four draws of noise as large as the difference between two
    float32 runtimes. A model that was pruned hard and hardly trained amplifies one int8 step more
    than a good one: 8e-2 was seen where trained models have 2e-2.

    Args:
        changed: parameters that the noise goes into. expected: what `run`, which runs the model,
            returned before.
    """
    exact = [parameter.detach().clone() for parameter in changed]
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(4):
        for parameter, values in zip(changed, exact, strict=True):
            noise = 1e-6 * torch.randn(values.shape, generator=generator)
            parameter.data.copy_(values * (1 + noise))
        worst = max(worst, metrics.parity(expected, run()).max_rel)
    for parameter, values in zip(changed, exact, strict=True):
        parameter.data.copy_(values)
    return worst


def reference_of(source: AnySource, packed: PackedTensors) -> torch.nn.Module:
    """The PyTorch model that computes what the packed one should, weights unpacked."""
    if isinstance(source, NetworkSource):
        return source.reference(packed)
    assert isinstance(packed, PackedModel)
    return reference_model(packed)


def _first_read(model: torch.nn.Module) -> list[torch.Tensor]:
    """What a model of blocks reads its input with; of a network, which may read it anywhere, all
    parameters."""
    if not isinstance(model, Mamba):
        return [p for p in model.parameters() if p.is_floating_point()]
    backbone = model.backbone
    first = backbone.embedding if model.config.has_vocabulary else backbone.patch_embedding
    return [first.weight]


def reference_model(packed: PackedModel) -> Mamba:
    """The PyTorch model that computes what the packed one should, weights unpacked."""
    model = Mamba(packed.config).eval()
    unpacked = {name: unpack(matrix) for name, matrix in packed.matrices.items()}
    if packed.frequent is not None:
        errors = unpack(packed.frequent.errors)[:-1]
        unpacked[packed.head_name][packed.frequent.ids] += errors
    tensors = {**packed.tensors, **unpacked}
    model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in tensors.items()},
        strict=not packed.config.tie_embeddings,
    )
    for name, module in model.named_modules():
        if isinstance(module, Projection):
            key = f"{name}.weight"
            if key == LM_HEAD and packed.config.tie_embeddings:
                key = EMBEDDING
            module.int8_inputs = packed.matrices[key].format.values.quantizes_activations
    return model
