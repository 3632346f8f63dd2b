"""A disk that fails or fills at any moment, a kill at any moment: one sentence, nothing half."""

from __future__ import annotations

import errno
import tarfile
from pathlib import Path

import pytest
import torch

from faults import KILL, Outcome, build_faults, run_under_faults
from ssmpress import folders
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.files import remove_abandoned

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EFBIG, errno.EROFS, errno.EDQUOT)
SAYINGS = {
    errno.ENOSPC: "No space left on device",
    errno.EIO: "Input/output error",
    errno.EMFILE: "Too many open files",
    errno.EFBIG: "File too large",
    errno.EROFS: "Read-only file system",
    errno.EDQUOT: "Disk quota exceeded",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_faults(tmp_path_factory.mktemp("faults"))


def is_one_sentence(outcome: Outcome) -> bool:
    """A documented exit code, the file and the system's reason."""
    return (
        outcome.code in (2, 6)
        and SAYINGS[outcome.number] in outcome.words
        and ("cannot be written" in outcome.words or "cannot write there" in outcome.words)
        and ".partial-" not in outcome.words
        and "\n" not in outcome.words
    )


def nothing_left(folder: Path) -> bool:
    return not list(folder.rglob(".*"))


@pytest.mark.parametrize("errors", [ERRORS, (KILL,)])
def test_a_checkpoint_is_the_earlier_or_the_later_one(
    library: Path, tmp_path: Path, errors: tuple[int, ...]
) -> None:
    count, outcomes = run_under_faults(library, "fault_actions:checkpoint", tmp_path, errors)
    assert count > 30
    assert sum(not outcome.ended for outcome in outcomes) <= 2
    for outcome in outcomes:
        folder = tmp_path / str(outcome.nth)
        if KILL in errors:
            assert outcome.ended == "killed", outcome
            for layout in ("mamba-ssm", "huggingface"):
                folders.mend(folder / layout)
        elif outcome.ended:  # safetensors does without one of its own operations
            assert is_one_sentence(outcome), outcome
        assert nothing_left(folder), outcome
        for layout in ("mamba-ssm", "huggingface"):
            read_checkpoint(folder / layout)


def test_recovery_goes_on_without_the_file_that_it_would_go_on_from(
    library: Path, tmp_path: Path
) -> None:
    count, outcomes = run_under_faults(library, "fault_actions:recovery", tmp_path, ERRORS)
    assert count > 15
    for outcome in outcomes:
        assert (outcome.ended, outcome.code) == ("", 0), outcome
        assert SAYINGS[outcome.number] in outcome.words, outcome
        state = tmp_path / str(outcome.nth) / "state.pt"
        assert nothing_left(state.parent), outcome
        if "it starts again" in outcome.words and state.exists():
            assert torch.load(state, weights_only=True)["step"] == 3, "the disk had room again"


@pytest.mark.parametrize(
    ("errors", "every"),
    [
        pytest.param(ERRORS, 7, id="some errors"),
        pytest.param((KILL,), 7, id="some kills"),
        pytest.param((errno.ENOSPC,), 1, id="full", marks=pytest.mark.slow),
        pytest.param((errno.EIO,), 1, id="failing", marks=pytest.mark.slow),
        pytest.param((errno.EMFILE,), 1, id="files", marks=pytest.mark.slow),
        pytest.param((KILL,), 1, id="kills", marks=pytest.mark.slow),
    ],
)
def test_a_bundle_is_the_earlier_or_the_later_one(
    library: Path, tmp_path: Path, errors: tuple[int, ...], every: int
) -> None:
    count, outcomes = run_under_faults(library, "fault_actions:bundle", tmp_path, errors, every)
    assert count > 150
    for outcome in outcomes:
        out = tmp_path / str(outcome.nth) / "out"
        archive = out.with_name("out.tar.gz")
        if KILL in errors:
            assert outcome.ended == "killed", outcome
            folders.mend(out)
            remove_abandoned(archive)
        elif outcome.ended:
            assert is_one_sentence(outcome), outcome
        assert nothing_left(out.parent), outcome
        verify_manifest(out)
        with tarfile.open(archive) as packed:
            assert "out/manifest.json" in packed.getnames()


def test_two_steps_leave_one_of_the_two_folders(library: Path, tmp_path: Path) -> None:
    """A kill between the steps leaves no folder, until the next run looks."""
    _, outcomes = run_under_faults(library, "fault_folder:folder_in_two_steps", tmp_path, (KILL,))
    missing = 0
    for outcome in outcomes:
        out = tmp_path / str(outcome.nth) / "out"
        missing += not out.exists()
        folders.mend(out)
        texts = {(out / name).read_text() for name in ("a", "b")}
        assert texts in ({"earlier"}, {"later"}), outcome
        assert nothing_left(out.parent), outcome
    assert missing, "one of the kills was between the steps"
