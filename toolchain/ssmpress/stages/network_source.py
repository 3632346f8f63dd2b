"""The first stage of a user's network: the module with its weights, traced, and its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmpress import files
from ssmpress.blocks.tensors import Weights
from ssmpress.callbacks import Note
from ssmpress.checkpoint.text_side import TextSide
from ssmpress.nets.module import NetworkModule, copy_of
from ssmpress.nets.network import Network
from ssmpress.nets.reference import Reference
from ssmpress.nets.samples import NetworkSamples, read_samples
from ssmpress.nets.trace import Traced, trace
from ssmpress.nets.user_file import build_module, file_and_name, load_network
from ssmpress.nets.weight_sources import files_of
from ssmpress.nets.weights import read_weights_for
from ssmpress.pack.model import PackedTensors, pack_tensors
from ssmpress.prune.material import Material
from ssmpress.prune.materials.network import NetworkMaterial
from ssmpress.prune.resume import tensor_bytes
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.run import TextUse
from ssmpress.tasks import NetworkTask


@dataclass(frozen=True)
class NetworkSource:
    """What was read of a network of the user's own.

    module: with the real packages where they are installed, in float32 with the dense weights, on
        the CPU. traced: the same as it is exported, built with the stand-ins.
    tensors: the dense parameters and buffers by the module's own names. pruned_tensors: those of
        `--pruned`.
    calibration, evaluation: NetworkSamples.
    hashes: of the weight files, and of the user's file. notes: about the weights.
    """

    path: Path
    network: Network
    module: nn.Module
    traced: Traced
    tensors: Mapping[str, Tensor]
    calibration: Any
    evaluation: Any
    hashes: dict[str, dict[str, str]]
    input_bytes: int
    calibration_use: TextUse
    evaluation_use: TextUse
    notes: tuple[str, ...] = ()
    pruned_tensors: Mapping[str, Tensor] | None = None

    tokenizer: Path | None = None
    text_side: TextSide | None = None
    end_tokens: tuple[int, ...] = ()
    vocab_size: int = 0

    @cached_property
    def seen(self) -> float:
        """Part of the evaluation, 0 .. 1, that the calibration has too."""
        part: float = self.evaluation.part_in(self.calibration)
        return part

    @cached_property
    def task(self) -> NetworkTask:
        """Whatever goes in and comes out."""
        inputs, outputs = self.traced.ports
        network = self.network
        return NetworkTask(
            inputs=inputs,
            outputs=outputs,
            metric_name=network.metric_name,
            higher_is_better=network.higher_is_better,
            states=dict(network.states),
        )

    @cached_property
    def weights(self) -> Weights:
        """What its tensors are."""
        return Weights(self.traced.matrices, self.traced.shapes, {})

    @property
    def config(self) -> dict[str, Any]:
        """What the bundle says of itself."""
        return {"vocab_size": 0, "task": self.task.to_dict()}

    @property
    def summary(self) -> str:
        """The network in a line."""
        matrices = len(self.weights.matrices)
        return f"{self.title},{self.task.summary()}, {matrices} matrices"

    @property
    def title(self) -> str:
        """The class of the module."""
        return type(self.module).__name__

    def describe(self) -> dict[str, Any]:
        """Configuration and provenance, for the report."""
        return {
            "config": self.config,
            "architecture": {
                "name": self.title,
                "evidence": f"it is what build() of {self.path} returned",
                "assumed": False,
            },
            "layout": "network",
            "sha256": {
                name: hash_ for some in self.hashes.values() for name, hash_ in some.items()
            },
            "notes": list(self.notes),
        }

    def model(self, tensors: Mapping[str, Tensor] | None = None) -> NetworkModule:
        """The module in PyTorch, to be pruned. tensors: in place of the dense ones."""
        model = deepcopy(NetworkModule(self.module, self.traced.matrices))
        if tensors is not None:
            model.load(tensors)
        return model

    def material(self) -> Material:
        """What it is pruned and recovered on."""
        return NetworkMaterial(self.calibration, self.task.metric)

    def pack_dense(self) -> PackedTensors:
        """The dense network in float32."""
        return pack_tensors(self.weights.matrices, self.tensors, None)

    def reference(self, packed: PackedTensors) -> Reference:
        """What computes what the packed network should, with the weights unpacked."""
        return Reference(self.traced, packed)


def load_network_source(recipe: Recipe, note: Note) -> NetworkSource:
    """Build the network of `--net`, read its weights and its samples, and trace it.

    Raises:
        BadInputError: the user's file, its network, the weights or the samples are not as they
            should be, or the network cannot be exported.
    """
    assert recipe.net is not None
    file, name = file_and_name(recipe.net)
    network = load_network(file, name)
    module = network.build().float()
    tensors, notes = read_weights_for(recipe.model, module, recipe.weights_of)
    for sentence in notes:
        note(sentence)
    exported = module
    if torch.cuda.is_available():  # where the module may have been built of the real packages
        exported = load_network(file, name, always=True).build().float()
    paths = files_of(recipe.model)
    hashes = {"dense": {path.name: files.sha256(path) for path in (*paths, file)}}
    pruned = None
    if recipe.pruned is not None:
        pruned, _ = read_weights_for(recipe.pruned, module, recipe.weights_of)
        hashes["pruned"] = {p.name: files.sha256(p) for p in files_of(recipe.pruned)}
    return network_source(
        network,
        module,
        exported,
        tensors,
        path=file,
        pruned_tensors=pruned,
        notes=tuple(notes),
        hashes=hashes,
        input_bytes=sum(path.stat().st_size for path in paths),
    )


def source_of_module(network: Network, module: nn.Module, path: Path) -> NetworkSource:
    """A network whose trained module is at hand.

    Args:
        path: a name for it.
    """
    copied = copy_of(module).cpu().float()
    tensors = copied.state_dict()
    exported = build_module(network, always=True).float() if torch.cuda.is_available() else copied
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor).data)
    return network_source(
        network,
        copied,
        exported,
        tensors,
        path=path,
        hashes={"dense": {path.name: digest.hexdigest()}},
        input_bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )


def network_source(
    network: Network,
    module: nn.Module,
    exported: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    path: Path,
    **provenance: Any,
) -> NetworkSource:
    """A network whose module and weights are there: its samples read, the module traced.

    Args:
        module: float32, on the CPU. exported: the same, or what stands in for it when it is
            exported; both get the weights. tensors: by the module's names. path: of the file that
            it comes from. provenance: further fields of the source.
    """
    for one in {id(one): one for one in (module, exported)}.values():
        one.load_state_dict(dict(tensors), strict=False)
        one.eval()
    calibration = read_samples(network, "calibration", module)
    evaluation = read_samples(network, "evaluation", module)
    traced = trace(network, exported)
    return NetworkSource(
        path=path,
        network=network,
        module=module,
        traced=traced,
        tensors=NetworkModule(module, traced.matrices).tensors(),
        calibration=calibration,
        evaluation=evaluation,
        calibration_use=_use(path, "calibration", calibration),
        evaluation_use=_use(path, "evaluation", evaluation),
        **provenance,
    )


def _use(path: Path, split: str, samples: NetworkSamples) -> TextUse:
    return TextUse((f"{path}, {split}",), default_text=False, tokens=sum(samples.sizes))
