"""Every file of files_as_found.py is read with its note, or refused with its cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from files_as_found import (
    CASES,
    IN_PROJ,
    Found,
    main,
    other_weights,
    parted,
    prune_half,
    weights,
)
from ssmpress.blocks.tensors import tensor_shapes
from ssmpress.checkpoint.read import read_checkpoint, read_config
from ssmpress.errors import BadInputError, UsageError
from ssmpress.stages.source import of_pruned


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", CASES)
def test_read_with_a_note_or_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    found = CASES[name]
    path = found.make(tmp_path)
    if found.refused:
        check_refused(path, found)
        return
    checkpoint = read_checkpoint(path, found.weights_of)
    assert re.search(found.says, "; ".join(checkpoint.notes)), checkpoint.notes
    assert checkpoint.config == found.config
    expected = weights(found.config) | dict(found.tensors)
    assert list(checkpoint.tensors) == list(tensor_shapes(found.config))
    for key, tensor in checkpoint.tensors.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-6, atol=1e-6, msg=key)
    if path.is_dir():
        assert read_config(path)[0] == found.config, "the shapes alone tell the same"


def check_refused(path: Path, found: Found) -> None:
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path, found.weights_of)
    message = str(caught.value)
    assert re.search(found.says, message), message
    assert caught.value.exit_code == 6
    assert message.endswith((".", ".)")) and "\n" not in message and len(message) < 900
    assert not re.search("got no such tensor.*tensors differ|MambaLMHeadModel", message)


def test_a_model_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    path = CASES["model and ema"].make(tmp_path)
    with pytest.raises(UsageError, match=r"--weights-of: expected one of .*'ema' .*; got 'emaa'"):
        read_checkpoint(path, "emaa")


def test_pruned_weights_may_lie_alone_where_the_model_does_not(tmp_path: Path) -> None:
    """--weights-of is of MODEL's file; of --pruned's where that holds several too."""
    both = CASES["model and ema"].make(tmp_path)
    assert torch.equal(
        of_pruned(read_checkpoint, both, "ema").tensors[IN_PROJ], other_weights()[IN_PROJ]
    )
    torch.save(weights(), tmp_path / "pruned.pt")
    alone = of_pruned(read_checkpoint, tmp_path / "pruned.pt", "ema")
    assert torch.equal(alone.tensors[IN_PROJ], weights()[IN_PROJ])
    assert of_pruned(read_config, tmp_path / "pruned.pt", "ema")[0] == alone.config


def test_zeros_of_a_mask_are_zero_and_those_alone(tmp_path: Path) -> None:
    """What recovery takes for pruned is where the weights are zero."""
    stored, _ = parted(prune_half)
    torch.save(stored, tmp_path / "weights.pt")
    tensors = read_checkpoint(tmp_path / "weights.pt").tensors
    assert torch.equal(tensors[IN_PROJ] != 0, stored[IN_PROJ + "_mask"] != 0)


def test_the_script_writes_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == len(CASES) == len(list(tmp_path.iterdir()))
