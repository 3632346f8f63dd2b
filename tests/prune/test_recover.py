"""Recovery: the loss, what stays zero, repeatability, budgets, and going on after kill -9."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import random_checkpoint, small_config
from paths import TESTS
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.tensors import weights_of
from ssmpress.data.held_out import hold_out_windows
from ssmpress.errors import BadInputError, DeviceError, UsageError
from ssmpress.prune import distill, resume
from ssmpress.prune.device import compute_device
from ssmpress.prune.mask import prunable_names
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.materials.text import WindowExam
from ssmpress.prune.order import WindowOrder
from ssmpress.prune.recover import PruneResult, prune_and_recover
from ssmpress.prune.training import Training
from ssmpress.recipe.settings.prune import Method, PruneSettings, Scope
from ssmpress.recipe.settings.recover import Compute, RecoverSettings

CONFIG = small_config()
TOKENS = (np.arange(6000) ** 2 % 37 + np.arange(6000) % 5).astype(np.uint16)
MATERIAL = TextMaterial(TOKENS)
PRUNE = PruneSettings(calibration_batches=2, calibration_batch=2, calibration_window=16)
RECOVER = RecoverSettings(steps=24, batch=4, window=16, mask_every=3, compute=Compute.CPU)


def model() -> Mamba:
    return Mamba.from_checkpoint(random_checkpoint(CONFIG))


def run(
    prune: PruneSettings = PRUNE, recover: RecoverSettings = RECOVER, **options: object
) -> tuple[Mamba, PruneResult]:
    mamba = model()
    return mamba, prune_and_recover(mamba, MATERIAL, prune, recover, **options)  # type: ignore[arg-type]


def same(a: Mamba, b: Mamba) -> bool:
    return all(torch.equal(t, b.tensors()[name]) for name, t in a.tensors().items())


def prunable(mamba: Mamba, prune: PruneSettings = PRUNE) -> dict[str, torch.Tensor]:
    weights = mamba.tensors()
    return {name: weights[name] for name in prunable_names(weights_of(CONFIG), prune.prunable)}


def exact_zeros(mamba: Mamba, sparsity: float, prune: PruneSettings = PRUNE) -> None:
    """As many zeros as the sparsity asks for, and none where nothing is pruned."""
    pruned = prunable(mamba, prune)
    total = sum(weight.numel() for weight in pruned.values())
    assert sum(int((w == 0).sum()) for w in pruned.values()) == round(sparsity * total)
    for name, weight in mamba.tensors().items():
        assert name in pruned or bool((weight != 0).all()), name


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_head_loss_and_its_gradients(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "CHUNK_ROWS", 7)  # several chunks, the last one short
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(30, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher_hidden, teacher_head = torch.randn(30, 8).double(), torch.randn(11, 8).double()
    tokens = torch.randint(11, (30,), generator=generator)
    targets = distill.HeadTargets(tokens, weight, teacher_hidden, teacher_head)
    loss, kl, ce = distill.head_loss(hidden, head, targets)
    log_p = F.log_softmax(hidden @ head.T, -1)
    log_q = F.log_softmax(teacher_hidden @ teacher_head.T, -1)
    expected_kl = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    expected_ce = F.nll_loss(log_p, tokens)
    expected = weight * expected_kl + (1 - weight) * expected_ce
    torch.testing.assert_close(
        (kl.double(), ce.double()), (expected_kl, expected_ce), rtol=1e-5, atol=1e-6
    )
    wanted = torch.autograd.grad(expected, (hidden, head), retain_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(2 * loss, (hidden, head)),
        tuple(2 * g for g in wanted),
        rtol=1e-5,
        atol=1e-6,
    )


def test_recomputing_layers_changes_nothing() -> None:
    mamba = model()
    tokens = torch.from_numpy(TOKENS[:64].astype(np.int64)).view(4, 16)
    gradients = []
    for recompute in (False, True):
        hidden = distill.final_hidden(mamba, tokens, recompute)
        torch.testing.assert_close(mamba.lm_head(hidden), mamba.logits(tokens))
        parameters = [p for p in mamba.parameters() if p is not mamba.lm_head.weight]
        gradients.append(torch.autograd.grad(hidden.square().sum(), parameters))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"regrow": True},
        {"distill": 0.0},
        {"match_hidden": 0.5, "accumulate": 2, "activation_checkpointing": True},
        {"ramp": 0.0},
        {"steps": 1},
    ],
)
def test_pruned_weights_are_exactly_zero(changes: dict[str, object]) -> None:
    mamba, result = run(recover=replace(RECOVER, **changes))  # type: ignore[arg-type]
    exact_zeros(mamba, 0.7)
    assert mamba.lm_head.weight is mamba.backbone.embedding.weight
    assert result.tokens == result.steps * 4 * 16
    assert not same(mamba, model())


def test_the_optimiser_forgets_pruned_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Training] = []
    original = Training.__init__

    def remember(self: Training, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        found.append(self)

    monkeypatch.setattr(Training, "__init__", remember)
    run()
    (training,) = found
    (adam,) = training.optimizers
    for name, weight in training.weights.items():
        for key in ("exp_avg", "exp_avg_sq"):
            moment = adam.state[weight][key]
            assert bool((moment[~training.keep[name]] == 0).all()), name
            assert bool((moment[training.keep[name]] != 0).any()), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs PyTorch 2.9")
def test_muon_does_not_revive_pruned_weights() -> None:
    exact_zeros(run(recover=replace(RECOVER, muon=True))[0], 0.7)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": Method.WANDA},
        {"method": Method.SPARSEGPT, "scope": Scope.LAYER},
        {"scope": Scope.OWL},
        {"prunable": ("in_proj", "embedding")},
    ],
)
def test_methods_and_scopes_recover(changes: dict[str, object]) -> None:
    prune = replace(PRUNE, **changes)  # type: ignore[arg-type]
    exact_zeros(run(prune)[0], 0.7, prune)


def test_patterns_hold_after_recovery() -> None:
    prune = replace(PRUNE, sparsity=0.5, pattern="2:4", prunable=("in_proj",))
    for weight in prunable(run(prune)[0], prune).values():
        assert bool(((weight != 0).reshape(-1, 4).sum(1) == 2).all())


def test_recovery_brings_predictions_back() -> None:
    tokens = torch.from_numpy(TOKENS[:640].astype(np.int64)).view(40, 16)
    with torch.no_grad():
        dense = F.log_softmax(model().logits(tokens), -1)

    def distance(steps: int) -> float:
        mamba, _ = run(recover=replace(RECOVER, steps=steps, distill=1.0))
        with torch.no_grad():
            pruned = F.log_softmax(mamba.logits(tokens), -1)
        return float(F.kl_div(pruned, dense, log_target=True, reduction="batchmean"))

    assert distance(150) < 0.7 * distance(0)


def test_same_arguments_same_weights_other_seed_others() -> None:
    first, _ = run(seed=1)
    assert same(first, run(seed=1)[0])
    assert not same(first, run(seed=2)[0])


def test_a_pruned_model_is_pruned_further() -> None:
    dense = distill.Teacher(model())
    mamba, _ = run()
    before = {name: weight.clone() for name, weight in prunable(mamba).items()}
    further = replace(PRUNE, sparsity=0.9)
    again = prune_and_recover(mamba, MATERIAL, further, RECOVER, teacher=dense)
    exact_zeros(mamba, 0.9)
    for name, weight in prunable(mamba).items():
        assert not bool(((weight != 0) & (before[name] == 0)).any())
    assert again.history[0]["sparsity"] == pytest.approx(0.7, abs=1e-3)


OPEN = replace(RECOVER, steps=None, seconds=36_000)
"""Without a number of steps, and with more time than any machine needs."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A clock by which every batch that is trained on or checked takes a second."""
    seconds = [0.0]

    def slow(original: Callable[..., object]) -> Callable[..., object]:
        def slower(*arguments: object) -> object:
            seconds[0] += 1
            return original(*arguments)

        return slower

    monkeypatch.setattr(Training, "backward", slow(Training.backward))
    monkeypatch.setattr(WindowExam, "scores", slow(WindowExam.scores))
    return lambda: seconds[0]


def test_a_run_without_steps_says_its_plan_first_and_what_ended_it() -> None:
    said: list[str] = []
    mamba, result = run(
        recover=OPEN,
        quality=0.5,
        note=said.append,
        progress=lambda what, done, total: said.append(what),
    )
    assert re.match(
        r"recovery: at most 3.6e\+04 s, about [\d]+ steps; it ends when on held-out "
        r"calibration data 50.0% of the quality is kept, or",
        said[0],
    )
    assert re.match(
        r"recovery: ended after 134 steps, \d+ s: the quality asked is reached on "
        r"held-out calibration data \(\d+.\d% kept\)$",
        said[-1],
    )
    assert result.steps == 134  # ramp 96, a check after 16 more, a fifth to cool down
    assert result.tokens == 134 * 4 * 16
    assert result.end["ended"] == "quality"
    assert [check["step"] for check in result.end["checks"]] == [112, 134]
    exact_zeros(mamba, 0.7)


def test_a_quality_out_of_reach_ends_when_it_no_longer_improves(work: Callable[[], float]) -> None:
    """As where the dense model knows the held-out data by heart. The clock sees no end."""
    said: list[str] = []
    recover = replace(OPEN, seconds=1e6, ramp=0.0, learning_rate=1e-9)
    mamba, result = run(recover=recover, quality=0.999, note=said.append, clock=work)
    assert result.end["ended"] == "no-improvement"
    assert [check["step"] for check in result.end["checks"]] == [16, 32, 48, 64, 80, 96]
    assert re.search(
        r"ended after 96 steps, \d+ s: the quality on held-out calibration data no longer "
        r"improves \(\d+.\d% kept\); less is kept there than elsewhere if the dense model",
        said[-1],
    )
    exact_zeros(mamba, 0.7)


def test_a_run_without_steps_is_a_function_of_its_arguments(work: Callable[[], float]) -> None:
    """Whatever the clock says, while the time is not up."""
    first, result = run(recover=OPEN, quality=0.5)
    for options in ({"clock": work}, {"recover": replace(OPEN, seconds=1e9)}):
        again, repeated = run(**{"recover": OPEN, "quality": 0.5} | options)
        assert same(first, again)
        assert repeated.history == result.history
    assert not same(first, run(recover=OPEN, quality=0.5, seed=1)[0])


@pytest.mark.parametrize(("seconds", "trained"), [(20, True), (1, False)])
def test_a_short_time_is_kept_and_the_model_is_pruned(
    seconds: float, trained: bool, work: Callable[[], float]
) -> None:
    said: list[str] = []
    mamba, result = run(
        recover=replace(OPEN, seconds=seconds), quality=0.5, clock=work, note=said.append
    )
    exact_zeros(mamba, 0.7)
    assert result.end["ended"] == "ceiling"
    assert (result.steps > 0) == trained
    assert result.end["spent_s"] <= seconds
    assert "too few to learn back much. Give --recover-seconds" in said[0]
    assert f"ended after {result.steps} steps" in said[-1]
    assert f"give --recover-seconds {result.end['advised_s']}" in said[-1]


def test_the_first_masks_are_not_training(work: Callable[[], float]) -> None:
    """SparseGPT looks at every layer first; that is no recovery, and its time is another."""
    mamba, result = run(
        replace(PRUNE, method=Method.SPARSEGPT, scope=Scope.LAYER),
        replace(OPEN, seconds=20),
        clock=work,
    )
    exact_zeros(mamba, 0.7)
    assert result.steps > 5


def test_what_is_held_out_is_not_trained_on(work: Callable[[], float]) -> None:
    """Other tokens there change no weight of a run that ends before its first check."""
    random = np.random.default_rng(0).integers(0, CONFIG.vocab_size, len(TOKENS))
    split = hold_out_windows(random, 16, 16)
    assert split is not None
    others = random.copy()
    for window in split.held_out:
        everywhere = np.lib.stride_tricks.sliding_window_view(random, 16)
        (start,) = np.flatnonzero((everywhere == window).all(1))
        others[start : start + 16] = 0
    models = model(), model()
    for mamba, tokens in zip(models, (random, others), strict=True):
        short = replace(OPEN, seconds=20)
        result = prune_and_recover(mamba, TextMaterial(tokens), PRUNE, short, clock=work)
        assert result.steps > 3
    assert same(*models)


def test_a_gpu_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="--compute cuda: expected a GPU"):
            compute_device(Compute.CUDA)


def test_every_window_once_per_epoch() -> None:
    order = WindowOrder(TOKENS, 16, seed=3)
    seen = np.concatenate([order.numbers(step, 5) for step in range(order.count // 5)])
    assert sorted(seen) == sorted(set(seen))
    assert set(np.concatenate([order.numbers(s, order.count) for s in (0,)])) == set(
        range(order.count)
    )
    rows = order.windows(np.arange(order.count))
    start = int(
        np.flatnonzero((np.lib.stride_tricks.sliding_window_view(TOKENS, 16) == rows[0]).all(1))[0]
    )
    assert np.array_equal(rows.flatten(), TOKENS[start : start + rows.size])
    with pytest.raises(BadInputError, match="one window needs 7,000"):
        WindowOrder(TOKENS, 7000, seed=0)


def test_tokens_may_be_mapped_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", TOKENS)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    mamba = model()
    prune_and_recover(mamba, TextMaterial(mapped), PRUNE, RECOVER)
    assert same(mamba, run()[0])


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from dataclasses import replace
import test_recover as t

timers = []
def die(what, done, total):
    if 0 < int(sys.argv[4]) <= done and not timers:  # in the middle of whatever comes next
        timers.append(threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGKILL)))
        timers[0].start()

recover = t.OPEN if sys.argv[3] == "open" else replace(t.RECOVER, steps=200)
recover = replace(recover, checkpoint_seconds=0.0, match_hidden=0.3)
file = Path(sys.argv[1])
mamba, _ = t.run(t.PRUNE, recover, seed=5, quality=0.5, resume_file=file, progress=die)
t.torch.save(mamba.tensors(), sys.argv[2])
"""


def start(folder: Path, name: str, kind: str, kill_at: int = 0) -> subprocess.Popen[bytes]:
    """A run in a process of its own, which is killed soon after step `kill_at`."""
    paths = [str(TESTS), str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    files = [folder / f"{name}.resume", folder / f"{name}.pt"]
    command = [sys.executable, "-c", KILLED, *files, kind, str(kill_at)]
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize(("kind", "kills"), [("fixed", (30, 90)), ("open", (113,))])
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, kind: str, kills: tuple[int, ...]
) -> None:
    whole = start(tmp_path, "whole", kind)
    for kill_at in kills:
        assert start(tmp_path, "part", kind, kill_at).wait() == -signal.SIGKILL
        saved = torch.load(tmp_path / "part.resume", weights_only=True)
        assert 0 < saved["step"] < 200
    assert start(tmp_path, "part", kind).wait() == 0
    assert whole.wait() == 0
    one, other = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_runs_state_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    finished, result = run(resume_file=state)
    again, repeated = run(resume_file=state)  # finished already: nothing is trained
    assert same(finished, again)
    assert repeated.history == result.history
    for options in ({"seed": 9}, {"recover": replace(RECOVER, distill=0.5)}):
        with pytest.raises(BadInputError, match="another model, text, device or settings"):
            run(resume_file=state, **options)  # type: ignore[arg-type]
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(BadInputError, match="Delete it to start again"):
        run(resume_file=state)


@pytest.mark.parametrize("saved", [0, 1])
def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    """It fills before the first save, or after it: an earlier state stays, and the note says so."""
    path, notes, plain = tmp_path / "state", list[str](), resume.save

    def save_beside_a_limit(*arguments: object) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = before[0] if not notes and not path.exists() and saved else 10_000
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            plain(*arguments)  # type: ignore[arg-type]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(resume, "save", save_beside_a_limit)
    recover = replace(RECOVER, steps=6, checkpoint_seconds=0.0)
    mamba, _ = run(recover=recover, resume_file=path, note=notes.append)
    assert same(mamba, run(recover=recover)[0])
    (note,) = notes
    end = "goes on at step 1." if saved else "starts again."
    assert note.startswith(f"{path}: cannot be written: File too large.")
    assert note.endswith(f"Recovery continues; if it is interrupted, it {end}")
    assert len(list(tmp_path.iterdir())) == saved
    if saved:
        assert torch.load(path, weights_only=True)["step"] == 1


@pytest.mark.parametrize("changes", [{}, {"steps": 1}, {"mask_every": 1}, {"distill": 0.0}])
def test_training_that_diverges_is_said_and_leaves_nothing_to_go_on_from(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    changes = {"learning_rate": 1e9, "warmup_steps": 0, "checkpoint_seconds": 0.0, **changes}
    recover = replace(RECOVER, **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"recovery diverged: at step .* Lower its learning_rate,"):
        run(recover=recover, resume_file=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_scores_that_are_not_finite_are_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss before was finite: the next masks are the first to meet the infinity."""
    plain = Training.update_masks

    def overflow(self: Training, step: int) -> None:
        next(iter(self.gradients.values()))[0, 0] = torch.inf
        plain(self, step)

    monkeypatch.setattr(Training, "update_masks", overflow)
    with pytest.raises(UsageError, match=r"recovery diverged: at step \d+ of 24"):
        run()


def test_a_run_that_goes_on_counts_the_seconds_before(tmp_path: Path) -> None:
    state = tmp_path / "state"
    run(resume_file=state)
    torch.save(torch.load(state, weights_only=True) | {"seconds": 1000.0}, state)
    _, again = run(resume_file=state)
    assert again.seconds > 1000


def test_the_state_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    resume.save(path, {"fingerprint": "a", "step": 1})

    def fail(value: object, file: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        resume.save(path, {"fingerprint": "a", "step": 2})
    monkeypatch.undo()
    state = resume.load(path, "a", torch.device("cpu"))
    assert state is not None
    assert state["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
