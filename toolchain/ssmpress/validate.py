"""The proof: parity, quality, latency, memory and size of the files that a bundle is made of."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmpress import compact as packing
from ssmpress import evaluate
from ssmpress.checkpoint import Checkpoint, tensor_shapes
from ssmpress.device import MeasureSettings, Variant, host_environment, measure_host
from ssmpress.errors import ParityError
from ssmpress.export import PackedModel
from ssmpress.model import Mamba, Projection
from ssmpress.ops import Values
from ssmpress.prune import mask
from ssmpress.recipe import Recipe
from ssmpress.report.results import Matrix, Parity, Quality, Results, Size
from ssmpress.run import open_session
from ssmpress.stages import Bundle, Progress, Pruned, Source

PARITY_TOKENS = 128
PARITY_DECODE_TOKENS = 8
PARITY_TOLERANCE = {
    # float32 sums in another order over up to 24 layers; measured 1e-6 to 2e-5
    Values.FP32: 1e-4,
    Values.FP16: 1e-4,
    # An activation within one rounding error of a step between two int8 values falls to either
    # side; one such step is 1/127 of the token's largest activation, and layers add theirs up.
    # Measured 2e-3 to 2.2e-2 on trained models; a wrong scale or a swapped row gives 0.3 and more.
    Values.INT8: 6e-2,
    Values.INT4: 6e-2,
}


def validate(
    recipe: Recipe,
    source: Source,
    pruned: Pruned,
    packed: PackedModel,
    bundle: Bundle,
    progress: Progress,
) -> Results:
    """Parity, quality, latency, memory and size of what was written.

    Raises:
        ParityError: the graph does not compute what the pruned PyTorch model computes.
    """
    parity = check_parity(source, packed, bundle, recipe)
    quality = measure_quality(recipe, source, bundle, progress)
    variants = {
        "dense": Variant(bundle.dense, bundle.library),
        "stock": Variant(bundle.dense, None),
        "compressed": Variant(bundle.model, bundle.library),
    }
    settings = MeasureSettings(threads=recipe.threads, seed=recipe.seed)
    measurements = measure_host(
        variants, settings, lambda done, total: progress("latency", done, total)
    )
    shapes = tensor_shapes(source.checkpoint.config)
    return Results(
        model=describe_model(source.checkpoint),
        quality=quality,
        matrices=_matrices(recipe, source, pruned, packed),
        model_weights=sum(map(prod, shapes.values())),
        model_zeros=sum(int((t == 0).sum()) for t in pruned.tensors.values()),
        size=_size(source, bundle),
        measurements=measurements,
        parity=parity,
        environment=host_environment(threads=recipe.threads, library=bundle.library),
        calibration=source.calibration_use,
        evaluation=source.evaluation_use,
        recovery=pruned.summary(),
    )


def describe_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """Configuration and provenance, for the report."""
    return {
        "config": checkpoint.config.to_dict(),
        "layout": checkpoint.layout,
        "sha256": checkpoint.sha256,
        "notes": list(checkpoint.notes),
    }


def measure_quality(recipe: Recipe, source: Source, bundle: Bundle, progress: Progress) -> Quality:
    """Perplexity of the dense baseline and of the bundle, through ONNX Runtime."""
    found = {}
    for name, path in (("dense", bundle.dense), ("compressed", bundle.model)):
        session = open_session(path, threads=recipe.threads, library=bundle.library)

        def advance(done: int, total: int, name: str = name) -> None:
            progress(f"perplexity, {name}", done, total)

        found[name] = evaluate.perplexity(session.predict, source.windows, progress=advance)
    dense, compressed = found["dense"], found["compressed"]
    return Quality(
        dense,
        compressed,
        evaluate.retention(dense, compressed),
        evaluate.retention_interval(dense, compressed),
    )


def check_parity(source: Source, packed: PackedModel, bundle: Bundle, recipe: Recipe) -> Parity:
    """Compare the bundle with PyTorch on the first evaluation tokens: prefill, then decode.

    PyTorch runs the unpacked weights, and quantises activations where the bundle does.

    Raises:
        ParityError: a state or the logits differ; names the first one, in the order of layers.
    """
    tokens = source.windows[:1, :PARITY_TOKENS].astype(np.int64)
    split = max(1, tokens.shape[1] - PARITY_DECODE_TOKENS)
    model = reference_model(packed)
    with torch.no_grad():
        logits, state = model(torch.from_numpy(tokens))
    expected: dict[str, NDArray[Any]] = {}
    for i, (conv, scan) in enumerate(zip(state.conv, state.scan, strict=True)):
        expected[f"conv_state.{i}"] = conv.numpy()
        expected[f"scan_state.{i}"] = scan.numpy()
    expected["logits"] = logits.numpy()
    session = open_session(bundle.model, threads=recipe.threads, library=bundle.library)
    first, after = session.predict(tokens[:, :split])
    rest = []
    for token in tokens[0, split:]:
        row, after = session.step(np.array([token]), after)
        rest.append(row[:, None])
    actual = dict(after.arrays()) | {"logits": np.concatenate([first, *rest], axis=1)}
    parity = evaluate.parity(expected, actual, tolerance=parity_tolerance(packed))
    if not parity.ok:
        raise ParityError(
            f"the exported graph disagrees with the pruned PyTorch model: {parity.reason} "
            "This is a defect of ssmpress; please report it with the model's shapes."
        )
    return parity


def parity_tolerance(packed: PackedModel) -> float:
    """The widest of the formats in use."""
    return max(PARITY_TOLERANCE[m.format.values] for m in packed.matrices.values())


def reference_model(packed: PackedModel) -> Mamba:
    """The PyTorch model that computes what the packed one should, weights unpacked."""
    model = Mamba(packed.config).eval()
    unpacked = {name: packing.unpack(matrix) for name, matrix in packed.matrices.items()}
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
            rows=matrix.rows,
            columns=matrix.columns,
            zeros=int((pruned.tensors[name] == 0).sum()),
            prunable=name in prunable,
            format=matrix.format.name,
            stored_bytes=matrix.nbytes,
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
        bundle_bytes=sum((bundle.model.parent / n).stat().st_size for n in bundle.names),
    )
