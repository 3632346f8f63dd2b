"""The first stage: checkpoint, tokenizer and data are read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ssmpress.blocks.config import ModelConfig, first_difference
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import weights_of
from ssmpress.callbacks import Note, silent
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint, read_config
from ssmpress.checkpoint.sized import read_sizes, weight_bytes
from ssmpress.checkpoint.text_side import TextSide, read_text_side
from ssmpress.data import overlap
from ssmpress.errors import BadInputError, UsageError
from ssmpress.pack.head_error import HEAD_TEXT
from ssmpress.pack.model import PackedModel, pack_model
from ssmpress.prune import mask
from ssmpress.prune.device import compute_device
from ssmpress.prune.material import Material
from ssmpress.prune.materials import material_of
from ssmpress.prune.model import Weights
from ssmpress.prune.one_shot import check_combination
from ssmpress.prune.pattern import Pattern
from ssmpress.prune.states import fewer_states, has_lost_states
from ssmpress.recipe.option import require
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.run import TextUse
from ssmpress.stages.network_source import NetworkSource, load_network_source
from ssmpress.tasks import BlockTask
from ssmpress.tasks.task import Request

_Read = TypeVar("_Read")
CPU_CALIBRATION_TOKENS = 4_000_000
"""More text than a CPU can train on within any time budget."""


@dataclass(frozen=True)
class Source:
    """What was read.

    tokenizer: None where the model reads no tokens. calibration, evaluation: in the form of the
    model's task; of a language model tokens int32 (n,), and windows int32 (count, length).
    seen: part of the evaluation, 0 .. 1, that the calibration has too. text_side: None where the
    model reads no tokens. pruned: the checkpoint of `--pruned`, None without it, or where only the
    sizes of the model were read.
    """

    checkpoint: Checkpoint
    tokenizer: Path | None
    calibration: Any
    evaluation: Any
    calibration_use: TextUse
    evaluation_use: TextUse
    seen: float = 0.0
    text_side: TextSide | None = None
    pruned: Checkpoint | None = None

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens after which a text is over; none where none is known."""
        known = self.text_side and self.text_side.end_tokens
        return tuple(token.id for token in known or ())

    @property
    def task(self) -> BlockTask:
        """What the model is for."""
        return self.checkpoint.config.task

    @property
    def vocab_size(self) -> int:
        """Tokens that the model has."""
        return self.checkpoint.config.vocab_size

    @cached_property
    def weights(self) -> Weights:
        """What its tensors are."""
        return weights_of(self.checkpoint.config)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The dense weights, float32; none where only the sizes were read."""
        return self.checkpoint.tensors

    @property
    def pruned_tensors(self) -> Mapping[str, Tensor] | None:
        """The weights of `--pruned`."""
        return None if self.pruned is None else self.pruned.tensors

    @property
    def hashes(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every file of the weights, and of those of `--pruned`."""
        pruned = {} if self.pruned is None else {"pruned": self.pruned.sha256}
        return {"dense": self.checkpoint.sha256} | pruned

    @property
    def input_bytes(self) -> int:
        """Of the weight files."""
        return self.checkpoint.input_bytes

    @property
    def summary(self) -> str:
        """The model in a line."""
        return self.checkpoint.config.summary()

    def describe(self) -> dict[str, Any]:
        """Configuration and provenance, for the report."""
        checkpoint = self.checkpoint
        text = {} if self.text_side is None else {"text": asdict(self.text_side)}
        return text | {
            "config": checkpoint.config.to_dict(),
            "architecture": asdict(checkpoint.architecture),
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "notes": list(checkpoint.notes),
        }

    def model(self, tensors: Mapping[str, Tensor] | None = None) -> Mamba:
        """The model in PyTorch, to be pruned. tensors: in place of the dense ones."""
        if tensors is None:
            return Mamba.from_checkpoint(self.checkpoint)
        return Mamba.from_checkpoint(replace(self.checkpoint, tensors=dict(tensors)))

    def material(self) -> Material:
        """What it is pruned and recovered on."""
        return material_of(self.task, self.calibration)

    def of(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> Source:
        """The same with other weights, of other sizes."""
        checkpoint = replace(self.checkpoint, config=config, tensors=dict(tensors))
        return replace(self, checkpoint=checkpoint)

    def pack_dense(self) -> PackedModel:
        """The dense model in float32."""
        packed = pack_model(self.checkpoint.config, self.tensors, None)
        return replace(packed, end_tokens=self.end_tokens)


AnySource = Source | NetworkSource
"""What is compressed: a model that ssmpress reads itself, or a network of the user's own. Both
answer the same questions."""


def load(recipe: Recipe, note: Note = silent, values_up_to: int | None = None) -> AnySource:
    """Checkpoint, tokenizer and data; of a network of the user's own the module and its samples.

    Raises:
        BadInputError: something is missing, damaged or disagrees with something else.
        UsageError: `--sparsity-of model` asks for more than the prunable weights hold, or recovery
            would train on the evaluation data.
    """
    if recipe.net is None:
        return load_model(recipe, note, values_up_to)
    source = load_network_source(recipe, note)
    check_source(recipe, source, note)
    return source


def check_source(recipe: Recipe, source: AnySource, note: Note) -> None:
    """Whether a network can be pruned as asked, and is judged by what it has not seen.

    Raises:
        UsageError: it cannot be, or recovery would train on the evaluation data.
    """
    require(
        not recipe.prune.prune_state,
        "--prune-state",
        "nothing for a network of one's own, whose states ssmpress cannot make smaller",
        f"{recipe.prune.prune_state:g}",
    )
    resolve_sparsity(recipe, source.weights)
    overlap.check_unseen(recipe, source.seen, note)


def load_model(recipe: Recipe, note: Note = silent, values_up_to: int | None = None) -> Source:
    """Checkpoint, tokenizer and data.

    Args:
        note: called with one sentence about each decision.
        values_up_to: bytes of weight files above which the checkpoint has no tensors: only its
            sizes are read, for a plan. None reads all.

    Raises:
        BadInputError: one of them is missing, damaged or disagrees with another.
        UsageError: `--sparsity-of model` asks for more than the prunable weights hold, recovery
            would train on the evaluation data, or there is no state for `--prune-state`.
    """
    checkpoint, settings = _checkpoint(recipe, note, values_up_to), recipe.data
    for sentence in checkpoint.notes:
        note(sentence)
    pruned = _pruned(recipe, checkpoint)
    left = fewer_states(checkpoint.config, recipe.prune.prune_state)
    if recipe.save_checkpoint is not None:
        dialects.check_writable(left)
    resolve_sparsity(recipe, weights_of(left))
    request = Request(
        settings=settings,
        model=recipe.model,
        tokenizer=checkpoint.tokenizer,
        vocab_size=checkpoint.config.vocab_size,
        calibration_window=recipe.prune.calibration_window,
        calibration_tokens=_calibration_limit(recipe),
    )
    data = checkpoint.config.task.read(request, note)
    overlap.check_unseen(recipe, data.seen, note)
    return Source(
        checkpoint,
        data.tokenizer,
        data.calibration,
        data.evaluation,
        _text_use(settings.calibration, data.calibration_steps),
        _text_use(settings.evaluation, data.evaluation_steps),
        data.seen,
        read_text_side(recipe.model, data.tokenizer, checkpoint.config, note),
        pruned,
    )


def _checkpoint(recipe: Recipe, note: Note, values_up_to: int | None) -> Checkpoint:
    """The checkpoint with its tensors, unless there are too many of them."""
    path = recipe.model
    if values_up_to is not None and (size := weight_bytes(path)) > values_up_to:
        note(
            f"the weights were not read: {size / 1e9:.1f} GB are above --plan-bytes "
            f"{values_up_to:g}, so damage would show in the run only"
        )
        return read_sizes(path, recipe.weights_of)
    checkpoint = read_checkpoint(path, recipe.weights_of)
    note(f"architecture {checkpoint.architecture}")
    return checkpoint


def _text_use(paths: tuple[Path, ...], steps: int) -> TextUse:
    return TextUse(tuple(map(str, paths)), default_text=not paths, tokens=steps)


def resolve_sparsity(recipe: Recipe, weights: Weights) -> float:
    """Sparsity of the prunable weights, whatever `--sparsity-of` says.

    Raises:
        UsageError: pruning settings that do not fit one another or the model.
    """
    settings = recipe.prune
    sparsity = mask.resolve_sparsity(
        weights, settings.prunable, settings.sparsity, settings.sparsity_of
    )
    if recipe.pruned is None:
        names = mask.prunable_names(weights, settings.prunable)
        check_combination(weights.matrices, names, settings, sparsity)
        if pattern := Pattern.parse(settings.pattern):
            for name in names:
                pattern.check_shape(name, weights.shapes[name])
    return sparsity


def weights_left(recipe: Recipe, source: AnySource) -> Weights:
    """What the tensors are that `--sparsity` is a part of: without the state that goes before."""
    if isinstance(source, NetworkSource):
        return source.weights
    return weights_of(fewer_states(source.checkpoint.config, recipe.prune.prune_state))


def _calibration_limit(recipe: Recipe) -> int | None:
    """Tokens of calibration text to read; None is all of it."""
    p = recipe.prune
    saliency = 4 * p.calibration_batches * p.calibration_batch * p.calibration_window
    if recipe.recover.steps == 0:
        return max(saliency, HEAD_TEXT)
    if compute_device(recipe.recover.compute).type == "cuda":
        return None
    return max(saliency, CPU_CALIBRATION_TOKENS)


def _pruned(recipe: Recipe, dense: Checkpoint) -> Checkpoint | None:
    """The checkpoint of `--pruned`, which must belong to the dense one.

    Of a model whose values were not read only its sizes are looked at.

    Raises:
        BadInputError: it cannot be read, or has other sizes.
    """
    if recipe.pruned is None:
        return None
    if not dense.tensors:
        config, _ = of_pruned(read_config, recipe.pruned, recipe.weights_of)
        _check_pruned(recipe.pruned, config, dense.config)
        return None
    pruned = of_pruned(read_checkpoint, recipe.pruned, recipe.weights_of)
    _check_pruned(recipe.pruned, pruned.config, dense.config)
    return pruned


def of_pruned(read: Callable[[Path, str | None], _Read], path: Path, name: str | None) -> _Read:
    """What is read of `--pruned`: of the model `name`, or else of the only one in its file."""
    try:
        return read(path, name)
    except UsageError:
        return read(path, None)


def _check_pruned(path: Path, pruned: ModelConfig, config: ModelConfig) -> None:
    """Check that pruned weights belong to the dense model. pruned: their sizes. config: its sizes.

    Raises:
        BadInputError: a size differs, other than by states that `--prune-state` removed.
    """
    if pruned != config and not has_lost_states(config, pruned):
        size, mine, other = first_difference(config, pruned)
        raise BadInputError(
            f"--pruned {path}: expected the dense model's {size}, {mine}; got {other}. "
            "Give the dense model that it was made from as MODEL."
        )
