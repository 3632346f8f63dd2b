"""The proof: parity, quality, latency, memory and size of the files that a bundle is made of."""

from __future__ import annotations

from functools import partial
from math import isfinite, prod
from pathlib import Path

from ssmpress.blocks.tensors import EMBEDDING, LM_HEAD
from ssmpress.bundle.files import RUNTIME_FILES
from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.callbacks import Progress
from ssmpress.devices.boards import lower_bounds
from ssmpress.devices.check import make_expected
from ssmpress.devices.plan import describe_target, run_devices
from ssmpress.devices.real import BundleFiles
from ssmpress.errors import BadInputError
from ssmpress.gate.unasked import OVERFLOW
from ssmpress.machine import get_library_path
from ssmpress.measure import metrics
from ssmpress.measure.interleaved import MeasureSettings, Variant, host_environment, measure_host
from ssmpress.measure.remembered import recall, remember
from ssmpress.pack.model import PackedModel, PackedTensors, as_matrix
from ssmpress.parity import PARITY_TOLERANCE, check_parity
from ssmpress.prune import mask
from ssmpress.results.devices import DeviceResult, judged_measurements
from ssmpress.results.measured import Measurement
from ssmpress.results.quality import Guess, Quality, VariantQuality
from ssmpress.results.run import Results
from ssmpress.results.sizes import LayerState, Matrix, Size, StoredShape
from ssmpress.runtime.loading import open_session
from ssmpress.stages.bundle import Bundle
from ssmpress.stages.network_source import NetworkSource
from ssmpress.stages.packed import removed_channels
from ssmpress.stages.pruned import Pruned, narrowed
from ssmpress.stages.run import Run
from ssmpress.stages.source import AnySource
from ssmpress.stages.states import compared_states
from ssmpress.tasks import NetworkTask, Task


def validate(
    run: Run, pruned: Pruned, packed: PackedTensors, bundle: Bundle, progress: Progress
) -> Results:
    """Parity, quality, latency, memory and size of what was written.

    Raises:
        ParityError: the graph does not compute what the pruned PyTorch model computes, or a
            device something else than this host.
        DeviceError: a device could not be used.
    """
    recipe, source, deployment = run.recipe, run.source, run.deployment
    parity = check_parity(source, packed, bundle, recipe)
    quality = measure_quality(run, bundle, progress)
    measurements = measure_latency(run, bundle, progress)
    devices = validate_devices(run, bundle, progress)
    shapes, sizes = narrowed(source, pruned).weights.shapes, step_bytes(source, packed)
    return Results(
        model=source.describe(),
        quality=quality,
        matrices=_matrices(run, pruned, packed),
        removed_channels=removed_channels(packed),
        states=_states(source, packed),
        model_weights=sum(map(prod, shapes.values())),
        model_zeros=sum(int((t == 0).sum()) for t in pruned.tensors.values()),
        size=_size(source, bundle),
        measurements=measurements or judged_measurements(devices),
        parity=parity,
        environment=host_environment(threads=recipe.threads, library=bundle.host_library),
        calibration=source.calibration_use,
        evaluation=source.evaluation_use,
        seen=source.seen,
        recovery=pruned.summary(),
        target=describe_target(deployment, devices, lower_bounds(deployment.machine, sizes)),
        devices=devices,
    )


def measure_quality(run: Run, bundle: Bundle, progress: Progress) -> Quality:
    """The task's metric of the dense baseline, unless it is known, and of the bundle: both in ONNX
    Runtime."""
    source, task = run.source, run.source.task
    dense, guess = measure_dense(run, progress)
    compressed = _evaluate(run, "compressed", bundle.model, bundle.host_library, progress)
    qualities = {"dense": dense, "compressed": compressed}
    further = task.further(qualities, source.evaluation, source.tokenizer)
    block = task.drawn_together(source.evaluation)
    return Quality(
        dense,
        compressed,
        metrics.retention(dense, compressed, task.metric),
        metrics.retention_interval(dense, compressed, task.metric, block=block),
        task.metric.name,
        {name: {v: further[v][name] for v in further} for name in further["dense"]},
        guess,
        task.by_class(qualities, source.evaluation),
    )


def measure_dense(run: Run, progress: Progress) -> tuple[VariantQuality, Guess]:
    """The dense baseline's metric, and what can be had without a model; measured once, also where
    the same command goes on after an interruption."""
    source, task = run.source, run.source.task
    kept = run.dense.kept
    if run.dense.quality is None and kept is not None:
        run.dense.quality = recall(kept)
    if run.dense.quality is None:
        library = get_library_path()
        run.dense.quality = _evaluate(run, "dense", run.dense.model, library, progress)
        _check_metric(task, run.dense.quality)
        if kept is not None:
            remember(kept, run.dense.quality)
    if run.dense.guess is None:
        guesses = task.guesses(source.calibration, source.evaluation, source.vocab_size)
        block = task.drawn_together(source.evaluation)
        run.dense.guess = metrics.best_guess(guesses, run.dense.quality, task.metric, block=block)
    return run.dense.quality, run.dense.guess


def _check_metric(task: Task, dense: VariantQuality) -> None:
    """Whether a user's metric can be kept: what is kept is a ratio.

    Raises:
        BadInputError: it cannot.
    """
    if isinstance(task, NetworkTask) and dense.value <= 0:
        raise BadInputError(
            f"Network: metric: expected a number above 0 of the dense network, since the quality "
            f"kept is a ratio; got {dense.value:.4g}. Return an error, or a part that is right."
        )


def describe_dense(run: Run, progress: Progress) -> str:
    """The dense baseline in a sentence, before any long work on it: one that is no better than
    guessing is worth none."""
    dense, guess = measure_dense(run, progress)
    task = run.source.task
    if not isfinite(dense.value):
        return f"dense {task.metric.name} is not finite. {OVERFLOW}"
    sentence = f"dense {task.metric.name} {dense.value:.4g}, that of {guess.how} {guess.value:.4g}"
    if guess.advantage > 1:
        return sentence
    return (
        f"{sentence}: no better than guessing, and whatever is kept of it cannot pass. Probably "
        f"{task.words.suspects}"
    )


def _evaluate(
    run: Run, name: str, model: Path, library: Path, progress: Progress
) -> VariantQuality:
    task = run.source.task
    session = open_session(model, threads=run.recipe.threads, library=library)
    return task.evaluate(
        session, run.source.evaluation, partial(progress, f"{task.metric.name}, {name}")
    )


def measure_latency(run: Run, bundle: Bundle, progress: Progress) -> dict[str, Measurement]:
    """Dense, stock and compressed on this host; nothing where the bundle is not for it."""
    if not run.deployment.measures_host:
        return {}
    variants = {
        "dense": Variant(run.dense.model, bundle.library),
        "stock": Variant(run.dense.model, None),
        "compressed": Variant(bundle.model, bundle.library),
    }
    return measure_host(variants, _measure_settings(run), partial(progress, "latency"))


def _measure_settings(run: Run) -> MeasureSettings:
    timing = run.source.task.timing(run.source.evaluation)
    return MeasureSettings(
        prompt_tokens=timing.steps,
        decode_tokens=timing.singles,
        prompts=timing.prefills,
        threads=run.recipe.threads,
        seed=run.recipe.seed,
    )


def validate_devices(run: Run, bundle: Bundle, progress: Progress) -> tuple[DeviceResult, ...]:
    """The bundle's own files on every device, held against this host's result."""
    expected = partial(
        make_expected,
        bundle.model,
        bundle.host_library,
        run.source.evaluation,
        run.dense.model.parent,
        threads=run.recipe.threads,
        tolerance=PARITY_TOLERANCE[run.recipe.pack.values],
    )
    files = BundleFiles(bundle.model.parent, (*bundle.names, MANIFEST_NAME), run.dense.model)
    settings = _measure_settings(run)
    return run_devices(run.recipe, run.deployment, files, expected, settings, progress)


def step_bytes(source: AnySource, packed: PackedTensors) -> dict[str, int]:
    """Weights that one decode step reads, by variant: all of them, but of an embedding that is
    not the head too only one row, which is left out."""
    shapes = source.weights.shapes
    compressed = {name: packed.bytes_of(name) for name in packed.matrices}
    compressed |= {name: tensor.nbytes for name, tensor in packed.tensors.items()}
    unread = {EMBEDDING} if {EMBEDDING, LM_HEAD} <= set(shapes) else set()
    return {
        "dense": sum(4 * prod(shape) for name, shape in shapes.items() if name not in unread),
        "compressed": sum(size for name, size in compressed.items() if name not in unread),
    }


def _matrices(run: Run, pruned: Pruned, packed: PackedTensors) -> tuple[Matrix, ...]:
    weights = run.source.weights
    prunable = mask.prunable_names(weights, run.recipe.prune.prunable)
    specs = weights.matrices
    matrices = {n: as_matrix(specs[n], pruned.tensors[n].numpy()) for n in packed.matrices}
    return tuple(
        Matrix(
            name=name,
            layer=specs[name].layer,
            component=specs[name].component,
            rows=matrices[name].shape[0],
            columns=matrices[name].shape[1],
            zeros=int((matrices[name] == 0).sum()),
            empty_rows=int((matrices[name] == 0).all(1).sum()),
            prunable=name in prunable,
            format=matrix.format.name,
            stored_bytes=packed.bytes_of(name),
            reason=matrix.reason,
            stored=StoredShape(matrix.rows, matrix.columns, matrix.zeros),
        )
        for name, matrix in packed.matrices.items()
    )


def _states(source: AnySource, packed: PackedTensors) -> tuple[LayerState, ...]:
    """The states of the layers, dense and packed; none of a network of one's own."""
    if isinstance(source, NetworkSource) or not isinstance(packed, PackedModel):
        return ()
    return compared_states(source.checkpoint.config, packed.config)


def _size(source: AnySource, bundle: Bundle) -> Size:
    return Size(
        dense_fp32_bytes=4 * sum(map(prod, source.weights.shapes.values())),
        input_checkpoint_bytes=source.input_bytes,
        model_bytes=bundle.model_bytes,
        bundle_bytes=bundle.bytes_of(n for n in bundle.names if n not in RUNTIME_FILES),
        runtime_bytes=bundle.bytes_of(RUNTIME_FILES),
    )
