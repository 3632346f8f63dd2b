"""What a model can learn from, a file each: windows of a text, samples of a task, batches of a
network of one's own."""

from __future__ import annotations

from typing import Any, cast

from ssmpress.prune.material import Material
from ssmpress.prune.materials.network import NetworkMaterial
from ssmpress.prune.materials.samples import SampleMaterial
from ssmpress.prune.materials.text import TextMaterial
from ssmpress.tasks import BlockTask
from ssmpress.tasks.task import SampleTask

__all__ = ["NetworkMaterial", "SampleMaterial", "TextMaterial", "material_of"]


def material_of(task: BlockTask, calibration: Any) -> Material:
    """What a model of this task learns from.

    Args:
        calibration: in the form of the task: of one whose head scores the tokens of the vocabulary
            a text, tokens (n,); of others samples.
    """
    if task.outputs:
        return SampleMaterial(cast(SampleTask, task), calibration)
    return TextMaterial(calibration)
