"""Training of the dense baselines: stages, hints and batches that wait on the device."""

from __future__ import annotations

from typing import Any

import dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lra.tracing import TraceHead
from recorded import Recorded

from conftest import mamba1_config
from ssmpress.blocks.model import Mamba
from ssmpress.data.labelled import LabelledTexts, from_lists
from ssmpress.tasks import Classification

CPU = torch.device("cpu")
TASK = Classification(classes=("low", "high"), max_length=16)


def texts(count: int, seed: int, lengths: tuple[int, int] = (16, 16)) -> LabelledTexts:
    """The class is the first token's half of the vocabulary."""
    random = np.random.default_rng(seed)
    rows = [
        random.integers(0, 8, random.integers(lengths[0], lengths[1] + 1)) for _ in range(count)
    ]
    return from_lists(rows, [int(row[0] >= 4) for row in rows], 16)


@pytest.fixture
def model() -> Mamba:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layer": 1, "vocab_size": 8, "d_inner": 16, "dt_rank": 1}
    model = Mamba(mamba1_config(task=TASK, **sizes))
    dense.initialize(model)
    return model


def test_stages_follow_one_another_and_only_the_last_is_judged(model: Mamba) -> None:
    lines: list[dict[str, Any]] = []
    traces = np.full((64, 16), 4, np.uint8)
    head = TraceHead(8)
    before = head.column.bias.detach().clone()
    found = dense.train(
        model,
        [texts(64, 0), texts(64, 1)],
        texts(32, 2),
        dense.Training(steps=60, batch=8, checks=6, stage_part=0.5, learning_rate=1e-3),
        lines.append,
        lambda metrics: metrics["accuracy"],
        dense.Hint(head, [traces, None]),
    )
    done = [line for line in lines if "stage_done" in line]
    checks = [line for line in lines if "accuracy" in line]
    assert [line["stage_done"] for line in done] == [0] and 30 < done[0]["step"] <= 40
    last_easy = done[0]["step"]
    assert [line["stage"] for line in checks] == [int(c["step"] >= last_easy) for c in checks]
    assert all((line["hint_loss"] > 0) == (line["step"] <= last_easy) for line in checks)
    assert found["best"]["step"] >= last_easy and found["tokens"] == 60 * 8 * 16
    assert not torch.equal(before, head.column.bias)


def test_an_easy_stage_ends_when_nine_of_ten_are_right(model: Mamba) -> None:
    lines: list[dict[str, Any]] = []
    same = LabelledTexts(np.zeros(64, np.int64), np.arange(0, 65, 16), np.zeros(4, np.int64))
    training = dense.Training(steps=400, batch=4, stage_part=0.9, learning_rate=1e-2)
    dense.train(model, [same, texts(8, 1)], texts(8, 2), training, lines.append, lambda m: 0.0)
    done = next(line for line in lines if "stage_done" in line)
    assert done["right"] > 0.9 and done["step"] < 300


def test_batches_that_wait_on_the_device_are_the_same() -> None:
    samples = texts(20, 3, lengths=(2, 16))
    targets = np.arange(20 * 16, dtype=np.int64).reshape(20, 16)
    numbers = np.array([3, 19, 0, 7])
    (a, traced), (b, _) = (
        dense.Batches(samples, targets, CPU, resident)(numbers) for resident in (True, False)
    )
    longest = b.inputs.shape[1]
    assert a.inputs.shape == (4, dense.Batches.LENGTHS) and not a.inputs[:, longest:].any()
    assert torch.equal(a.inputs[:, :longest], b.inputs) and torch.equal(a.targets, b.targets)
    assert a.lengths is not None and b.lengths is not None and torch.equal(a.lengths, b.lengths)
    assert np.array_equal(traced.numpy(), targets[numbers])
    assert dense.Batches(samples, None, CPU, True)(numbers)[1].numel() == 0


def test_trace_head_looks_at_lit_pixels_only() -> None:
    torch.manual_seed(0)
    head, hidden = TraceHead(8), torch.randn(2, 6, 8, requires_grad=True)
    traces = torch.tensor([[0, 0, 1, 2, 96, 0], [0] * 6], dtype=torch.uint8)
    loss = head(hidden, traces)
    loss.backward()
    lit = hidden[0, 2:5]
    column = F.cross_entropy(head.column(lit), torch.tensor([0, 0, 31]))
    discs = F.cross_entropy(head.discs(lit), torch.tensor([0, 1, 2]))
    assert torch.allclose(loss, column + discs)
    assert hidden.grad is not None and torch.equal(hidden.grad.abs().sum(-1) > 0, traces > 0)


def test_on_a_cpu_a_step_runs_as_it_is() -> None:
    calls: list[int] = []

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(calls))
        return (x + 1,)

    recorded = Recorded(run)
    for i in range(6):
        assert recorded(torch.tensor(float(i)))[0] == i + 1
    assert len(calls) == 6 and not recorded.graphs
