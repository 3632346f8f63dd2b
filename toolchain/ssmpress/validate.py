"""The proof: parity, quality, latency, memory and size of the files that a bundle is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress.blocks.model import Mamba, Projection
from ssmpress.bundle.files import RUNTIME_FILES
from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.callbacks import Progress
from ssmpress.checkpoint.config import tensor_shapes
from ssmpress.data import text as data
from ssmpress.data.labelled import LabelledTexts
from ssmpress.data.series import SeriesWindows
from ssmpress.devices.boards import lower_bounds
from ssmpress.devices.check import AnyReference, make_reference
from ssmpress.devices.plan import Deployment, describe_target, run_devices
from ssmpress.devices.real import BundleFiles
from ssmpress.devices.task_check import make_task_reference
from ssmpress.errors import ParityError
from ssmpress.formats import Values
from ssmpress.measure import metrics as evaluate
from ssmpress.measure.interleaved import MeasureSettings, Variant, host_environment, measure_host
from ssmpress.pack import matrix as packing
from ssmpress.pack.model import PackedModel
from ssmpress.prune import mask
from ssmpress.recipe.settings import Recipe
from ssmpress.results import (
    DeviceResult,
    LanguageModelQuality,
    Matrix,
    Measurement,
    Parity,
    Quality,
    Results,
    Size,
    TaskQuality,
    judged_measurements,
)
from ssmpress.runtime.session import Session, open_session
from ssmpress.stages import Bundle, Pruned, Source, describe_model
from ssmpress.tasks import Forecasting
from ssmpress.tasks.task import Samples
from ssmpress.tasks.words import TASK_BATCH

PARITY_TOKENS = 128
PARITY_DECODE_TOKENS = 8
PARITY_SAMPLES = 4
LATENCY_TOKENS = 1024
"""Longest text that a classifier's latency is measured with."""
TASK_PREDICTIONS = 12
"""Predictions per round and variant: with 10 rounds enough for a 99th percentile."""
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

Outputs = dict[str, NDArray[Any]]
"""What a model computes, by name, in the order of layers."""


def validate(
    recipe: Recipe,
    source: Source,
    pruned: Pruned,
    packed: PackedModel,
    bundle: Bundle,
    deployment: Deployment,
    progress: Progress,
) -> Results:
    """Parity, quality, latency, memory and size of what was written.

    Raises:
        ParityError: the graph does not compute what the pruned PyTorch model computes, or a
            device something else than this host.
        DeviceError: a device could not be used.
    """
    parity = check_parity(source, packed, bundle, recipe)
    quality = measure_quality(recipe, source, bundle, progress)
    measurements = measure_latency(recipe, source, bundle, deployment, progress)
    devices = validate_devices(recipe, source, bundle, deployment, progress)
    shapes, sizes = tensor_shapes(source.checkpoint.config), step_bytes(source, packed)
    return Results(
        model=describe_model(source.checkpoint),
        quality=quality,
        matrices=_matrices(recipe, source, pruned, packed),
        removed_channels=packed.removed_channels,
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


def _measure_settings(recipe: Recipe, source: Source) -> MeasureSettings:
    """A task's predictions are measured whole, texts at the median length of the evaluation's."""
    settings = MeasureSettings(threads=recipe.threads, seed=recipe.seed)
    if source.samples is None:
        return settings
    length = min(LATENCY_TOKENS, int(np.median(source.samples.lengths)))
    return replace(
        settings, prompt_tokens=length, decode_tokens=TASK_PREDICTIONS, prompts=TASK_BATCH
    )


def measure_latency(
    recipe: Recipe, source: Source, bundle: Bundle, deployment: Deployment, progress: Progress
) -> dict[str, Measurement]:
    """Dense, stock and compressed on this host; nothing where the bundle is not for it."""
    if not deployment.measures_host:
        return {}
    variants = {
        "dense": Variant(bundle.dense.model, bundle.library),
        "stock": Variant(bundle.dense.model, None),
        "compressed": Variant(bundle.model, bundle.library),
    }
    settings = _measure_settings(recipe, source)
    return measure_host(variants, settings, lambda done, total: progress("latency", done, total))


def validate_devices(
    recipe: Recipe, source: Source, bundle: Bundle, deployment: Deployment, progress: Progress
) -> tuple[DeviceResult, ...]:
    """The bundle's own files on every device, held against this host's result."""

    def reference() -> AnyReference:
        model, library = bundle.model, bundle.host_library
        tolerance, threads = PARITY_TOLERANCE[recipe.pack.values], recipe.threads
        if source.samples is None:
            return make_reference(
                model, library, source.windows, threads=threads, tolerance=tolerance
            )
        assert isinstance(source.samples, LabelledTexts | SeriesWindows)
        return make_task_reference(
            model, library, source.samples, bundle.dense.model.parent, threads=threads,
            tolerance=tolerance,
        )  # fmt: skip

    files = BundleFiles(bundle.model.parent, (*bundle.names, MANIFEST_NAME), bundle.dense.model)
    settings = _measure_settings(recipe, source)
    return run_devices(recipe, deployment, files, reference, settings, progress)


def step_bytes(source: Source, packed: PackedModel) -> dict[str, int]:
    """Weights that one decode step reads, by variant: all of them, but of an embedding that is
    not the head too only one row, which is left out."""
    config = source.checkpoint.config
    shapes = tensor_shapes(config)
    compressed = {name: packed.bytes_of(name) for name in packed.matrices}
    compressed |= {name: tensor.nbytes for name, tensor in packed.tensors.items()}
    unread = set() if config.tie_embeddings else {"backbone.embedding.weight"}
    return {
        "dense": sum(4 * prod(shape) for name, shape in shapes.items() if name not in unread),
        "compressed": sum(size for name, size in compressed.items() if name not in unread),
    }


def measure_quality(recipe: Recipe, source: Source, bundle: Bundle, progress: Progress) -> Quality:
    """Perplexity, or the task's metric, of the dense baseline, unless it is known, and of the
    bundle: ONNX Runtime."""
    if source.samples is not None:
        return _task_quality(recipe, source.samples, bundle, progress)

    def measure(name: str, path: Path) -> LanguageModelQuality:
        session = open_session(path, threads=recipe.threads, library=bundle.host_library)

        def advance(done: int, total: int) -> None:
            progress(f"perplexity, {name}", done, total)

        return evaluate.perplexity(session.predict, source.windows, progress=advance)

    known = bundle.dense.quality
    dense = known if isinstance(known, LanguageModelQuality) else None
    dense = bundle.dense.quality = dense or measure("dense", bundle.dense.model)
    compressed = measure("compressed", bundle.model)
    found, text = {"dense": dense, "compressed": compressed}, _predicted_text(source)
    return Quality(
        dense,
        compressed,
        evaluate.retention(dense, compressed),
        evaluate.retention_interval(dense, compressed),
        also=_by_metric({name: evaluate.text_metrics(q, text) for name, q in found.items()}),
    )


def _predicted_text(source: Source) -> str:
    """What the evaluation windows ask for: all their tokens but the first of each, decoded."""
    assert source.tokenizer is not None
    rows = source.windows[:, 1:].tolist()
    decoded = data.load_tokenizer(source.tokenizer).decode_batch(rows, skip_special_tokens=False)
    return "".join(decoded)


def _by_metric(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Variant -> metric -> value, turned round."""
    names = next(iter(found.values()))
    return {metric: {name: found[name][metric] for name in found} for metric in names}


def _task_quality(recipe: Recipe, samples: Samples, bundle: Bundle, progress: Progress) -> Quality:
    """Accuracy or error of the dense baseline, unless it is known, and of the bundle."""
    series = isinstance(samples, SeriesWindows)
    metric = "MSE" if series else "accuracy"

    def measure(name: str, path: Path) -> TaskQuality:
        session = open_session(path, threads=recipe.threads, library=bundle.host_library)

        def advance(done: int, total: int) -> None:
            progress(f"{metric}, {name}", done, total)

        if isinstance(samples, SeriesWindows):
            return evaluate.forecast_error(session.forecast, samples, progress=advance)
        assert isinstance(samples, LabelledTexts)
        return evaluate.accuracy(session.classify, samples, progress=advance)

    known = bundle.dense.quality
    dense = known if isinstance(known, TaskQuality) else None
    dense = bundle.dense.quality = dense or measure("dense", bundle.dense.model)
    compressed = measure("compressed", bundle.model)
    block = samples.lookback + samples.horizon if isinstance(samples, SeriesWindows) else 1
    return Quality(
        dense,
        compressed,
        evaluate.task_retention(dense, compressed, error=series),
        evaluate.task_retention_interval(dense, compressed, error=series, block=block),
        metric,
        _by_metric({"dense": dense.also, "compressed": compressed.also}),
    )


def check_parity(source: Source, packed: PackedModel, bundle: Bundle, recipe: Recipe) -> Parity:
    """Compare the bundle with PyTorch on the first evaluation tokens: prefill, then decode.

    PyTorch runs the unpacked weights, and quantises activations where the bundle does.

    Raises:
        ParityError: a state or the logits differ; names the first one, in the order of layers.
    """
    if source.samples is not None:
        return _task_parity(source.samples, packed, bundle, recipe)
    tokens = source.windows[:1, :PARITY_TOKENS].astype(np.int64)
    split = max(1, tokens.shape[1] - PARITY_DECODE_TOKENS)
    model = reference_model(packed)
    expected = _outputs(model, tokens)
    session = open_session(bundle.model, threads=recipe.threads, library=bundle.host_library)
    first, after = session.predict(tokens[:, :split])
    rest = []
    for token in tokens[0, split:]:
        row, after = session.step(np.array([token]), after)
        rest.append(row[:, None])
    actual = dict(after.arrays()) | {"logits": np.concatenate([first, *rest], axis=1)}

    def spread() -> float:
        return _own_spread(model, expected, lambda: _outputs(model, tokens))

    return _within_tolerance(packed, expected, actual, spread)


def _task_parity(samples: Samples, packed: PackedModel, bundle: Bundle, recipe: Recipe) -> Parity:
    """Compare the predictions of the first samples, each text by itself."""
    model = reference_model(packed)
    session = open_session(bundle.model, threads=recipe.threads, library=bundle.host_library)
    numbers = range(min(PARITY_SAMPLES, samples.count))
    inputs: Outputs = {f"sample {i}": samples.arrays(np.array([i]))[0] for i in numbers}

    def outputs() -> Outputs:
        with torch.no_grad():
            return {
                key: model.predict(torch.from_numpy(array)).numpy() for key, array in inputs.items()
            }

    expected = outputs()
    actual = {key: _predict(session, array) for key, array in inputs.items()}
    return _within_tolerance(
        packed, expected, actual, lambda: _own_spread(model, expected, outputs)
    )


def _predict(session: Session, inputs: NDArray[Any]) -> NDArray[np.float32]:
    if isinstance(session.interface.task, Forecasting):
        return session.forecast(inputs)
    return session.classify(inputs)


def _within_tolerance(
    packed: PackedModel, expected: Outputs, actual: Outputs, spread: Callable[[], float]
) -> Parity:
    """The comparison, by what the model itself excuses where a fixed bound is not enough.

    Raises:
        ParityError: an output differs by more.
    """
    tolerance = parity_tolerance(packed)
    parity = evaluate.parity(expected, actual, tolerance=tolerance)
    if not parity.ok and tolerance >= PARITY_TOLERANCE[Values.INT8]:
        tolerance = max(tolerance, min(INT8_LIMIT, 4 * spread()))
        parity = evaluate.parity(expected, actual, tolerance=tolerance)
    if not parity.ok:
        raise ParityError(
            f"the exported graph disagrees with the pruned PyTorch model: {parity.reason} "
            "This is a defect of ssmpress; please report it with the model's shapes."
        )
    return parity


def parity_tolerance(packed: PackedModel) -> float:
    """The widest of the formats in use."""
    return max(PARITY_TOLERANCE[m.format.values] for m in packed.matrices.values())


def _outputs(model: Mamba, tokens: NDArray[np.int64]) -> Outputs:
    """States and logits of tokens (1, l), in the order of layers."""
    with torch.no_grad():
        logits, state = model(torch.from_numpy(tokens))
    outputs: dict[str, NDArray[Any]] = {}
    for i, (conv, scan) in enumerate(zip(state.conv, state.scan, strict=True)):
        outputs[f"conv_state.{i}"] = conv.numpy()
        outputs[f"scan_state.{i}"] = scan.numpy()
    outputs["logits"] = logits.numpy()
    return outputs


def _own_spread(model: Mamba, expected: Outputs, run: Callable[[], Outputs]) -> float:
    """How far the quantised model goes from itself when its input changes by rounding errors.

    The largest relative distance over four draws of noise as large as the difference between two
    float32 runtimes. A model that was pruned hard and hardly trained amplifies one int8 step more
    than a good one: 8e-2 was seen where trained models have 2e-2.

    Args:
        expected: what `run`, which runs the model, returned before.
    """
    backbone = model.backbone
    first = backbone.embedding if model.config.has_vocabulary else backbone.patch_embedding
    exact = first.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(4):
        noise = 1e-6 * torch.randn(exact.shape, generator=generator)
        first.weight.data.copy_(exact * (1 + noise))
        worst = max(worst, evaluate.parity(expected, run()).max_rel)
    first.weight.data.copy_(exact)
    return worst


def reference_model(packed: PackedModel) -> Mamba:
    """The PyTorch model that computes what the packed one should, weights unpacked."""
    model = Mamba(packed.config).eval()
    unpacked = {name: packing.unpack(matrix) for name, matrix in packed.matrices.items()}
    if packed.frequent is not None:
        errors = packing.unpack(packed.frequent.errors)[:-1]
        unpacked[packed.head_name][packed.frequent.ids] += errors
    tensors = {**packed.tensors, **unpacked}
    model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in tensors.items()},
        strict=not packed.config.tie_embeddings,
    )
    for name, module in model.named_modules():
        if isinstance(module, Projection):
            key = f"{name}.weight"
            if key == "lm_head.weight" and packed.config.tie_embeddings:
                key = "backbone.embedding.weight"
            module.int8_inputs = packed.matrices[key].format.values.quantizes_activations
    return model


def _matrices(
    recipe: Recipe, source: Source, pruned: Pruned, packed: PackedModel
) -> tuple[Matrix, ...]:
    prunable = mask.prunable_names(source.checkpoint.config, recipe.prune.prunable)
    return tuple(
        Matrix(
            name=name,
            layer=mask.layer_of(name),
            component=mask.component_of(name),
            rows=pruned.tensors[name].shape[0],
            columns=pruned.tensors[name].shape[1],
            zeros=int((pruned.tensors[name] == 0).sum()),
            empty_rows=int((pruned.tensors[name] == 0).all(1).sum()),
            prunable=name in prunable,
            format=matrix.format.name,
            stored_bytes=packed.bytes_of(name),
            reason=matrix.reason,
        )
        for name, matrix in packed.matrices.items()
    )


def _size(source: Source, bundle: Bundle) -> Size:
    shapes = tensor_shapes(source.checkpoint.config)
    return Size(
        dense_fp32_bytes=4 * sum(map(prod, shapes.values())),
        input_checkpoint_bytes=source.checkpoint.input_bytes,
        model_bytes=bundle.model_bytes,
        bundle_bytes=bundle.bytes_of(n for n in bundle.names if n not in RUNTIME_FILES),
        runtime_bytes=bundle.bytes_of(RUNTIME_FILES),
    )
