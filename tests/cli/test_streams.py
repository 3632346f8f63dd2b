"""What is printed: nothing that a terminal obeys, and an end where nobody reads it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from ssmpress.checkpoint.read import read_checkpoint
from ssmpress.cli.console import watching
from ssmpress.cli.entry import run_app
from ssmpress.errors import BadInputError
from ssmpress.formats import Values
from ssmpress.printable import visible
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.sweep import Sweep
from ssmpress.report.terminal import SafeConsole

COMPRESS = "from ssmpress.cli.compress import main; main()"
GATE = "from ssmpress.cli.gate import main; main()"
OBEYED = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u202e\u2066\u2028\ud800"} - {
    "\t",
    "\n",
}
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r"


def run(
    code: str, *arguments: object, redirect: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command as a person types it, in a shell; $GONE is a pipe that nobody reads any more."""
    end, gone = os.pipe()
    os.close(end)
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "-", sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        pass_fds=[gone],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GONE": str(gone)},
    )
    os.close(gone)
    return done


@given(st.text(st.characters()))
@example(HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert not OBEYED & set(shown)
    assert visible(shown) == shown
    if not OBEYED & set(text) and text.isascii():
        assert shown == text


@given(st.text(st.characters(), max_size=40))
@example(HOSTILE)
def test_a_console_shows_no_more(text: str) -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=False, width=200)
    table = Table(text)
    table.add_row(text)
    for what in (text, table):
        console.print(what, markup=False, highlight=False)
    assert not OBEYED & set(console.file.getvalue())


def test_a_key_of_a_checkpoint_is_shown_not_obeyed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({f"x{HOSTILE}": torch.ones(1)}, tmp_path / "weights.pt")
    assert run_app(lambda: read_checkpoint(tmp_path / "weights.pt")) == 6
    shown = "".join(capfd.readouterr())
    assert "error: " in shown
    assert not OBEYED & set(shown)


def test_a_report_is_shown_not_obeyed(tmp_path: Path) -> None:
    report = {
        "schema_version": 1,
        "recipe": {},
        "size": {},
        "target": {"reason": HOSTILE},
        "quality": {"metric": HOSTILE},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    done = run(GATE, tmp_path / "report.json", "--max-perplexity-increase", "0.1")
    assert done.returncode in (5, 6), done.stderr
    assert not OBEYED & set(done.stdout + done.stderr)


def test_further_lines_of_an_error_are_set_in(capfd: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        raise BadInputError("a name\nPass: all is well")

    assert run_app(app) == 6
    assert capfd.readouterr().err == "error: a name\n    Pass: all is well\n"


def test_a_note_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(Recipe(Path("model\nPass.pt"), Path("out")), (0.7,), (Values.INT8,))
    with watching(sweep) as watch:
        watch.note("a key\nPass: all is well")
    shown = capfd.readouterr().err
    assert "  a key\\nPass: all is well" in shown
    assert "model\\nPass.pt: 70 %" in shown


@pytest.mark.parametrize(
    ("redirect", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&$GONE", "Broken pipe"),
        (">&-", "Bad file descriptor"),
    ],
    ids=["full", "reader gone", "closed"],
)
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_an_output_that_takes_no_more_is_one_sentence(
    option: str, redirect: str, reason: str
) -> None:
    done = run(COMPRESS, option, redirect=redirect)
    assert done.stderr == f"error: the output: cannot be written: {reason}.\n"
    assert done.returncode == 6


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-", "2>&$GONE"])
def test_a_log_that_nobody_reads_changes_nothing(redirect: str) -> None:
    code = (
        "from ssmpress.cli.entry import run_app; from ssmpress.cli.streams import say\n"
        "from ssmpress.report.terminal import SafeConsole\n"
        "def app():\n"
        "    for _ in range(3): say('note', err=True); SafeConsole(stderr=True).print('note')\n"
        "    say('result'); raise SystemExit(3)\n"
        "raise SystemExit(run_app(app))"
    )
    done = run(code, redirect=redirect)
    assert (done.returncode, done.stdout) == (3, "result\n")


@pytest.mark.parametrize("redirect", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_an_error_that_nobody_reads_keeps_its_code(tmp_path: Path, redirect: str) -> None:
    done = run(GATE, "nowhere", "--min-retention", "1", redirect=redirect, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (6, "", "")


def test_an_encoding_that_lacks_characters_is_no_defect(tmp_path: Path) -> None:
    code = f"import sys; sys.stderr.reconfigure(encoding='ascii'); {GATE}"
    done = run(code, "ä\u2026", "--min-retention", "1", folder=tmp_path)
    assert "error: \\xe4\\u2026: expected a JSON file" in done.stderr
    assert done.returncode == 6


def test_the_last_loss_stays_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(Path("model"), Path("out"))
    with watching(Sweep(recipe, (0.7,), (Values.INT8,))) as watch:
        watch.note("recovery: goes on at step 1")
        watch.progress("recovery: goes on at step 1", 1, 3)
        for step in (2, 3):
            watch.progress(f"recovery: loss {1 / step:.4f}, sparsity 70.0%", step, 3)
        watch.note("packed")
        watch.progress("perplexity, compressed", 1, 1)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if line.startswith("recovery:")] == [
        "recovery: goes on at step 1",
        "recovery: loss 0.3333, sparsity 70.0%",
    ]
    assert lines.index("recovery: loss 0.3333, sparsity 70.0%") < lines.index("packed")


def test_the_last_loss_of_a_run_that_fails_stays_too(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(Recipe(Path("model"), Path("out")), (0.7,), (Values.INT8,))
    with pytest.raises(KeyboardInterrupt), watching(sweep) as watch:
        watch.progress("recovery: loss 0.5000, sparsity 70.0%", 2, 3)
        raise KeyboardInterrupt
    assert "  recovery: loss 0.5000, sparsity 70.0%\n" in capsys.readouterr().err
