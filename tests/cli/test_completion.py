"""Shell completion: the scripts for bash and zsh, and what they offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "import sys; sys.argv[0] = 'compress'; from ssmpress.cli.compress import main; main()"


def ask(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def offered(line: str) -> set[str]:
    """What bash is offered at the end of a command line."""
    words = line.split(" ")
    out = ask(_COMPRESS_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return set(out.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_valid(shell: str, tmp_path: Path) -> None:
    script = ask(_COMPRESS_COMPLETE=f"source_{shell}")
    assert "_COMPRESS_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was made but not parsed")
    file = tmp_path / "complete"
    file.write_text(script)
    checked = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_bash_loads_it_and_asks_the_command(tmp_path: Path) -> None:
    """A real bash with the installed script, and a `compress` on the path."""
    command = tmp_path / "compress"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CODE}" "$@"\n')
    command.chmod(0o755)
    (tmp_path / "complete").write_text(ask(_COMPRESS_COMPLETE="source_bash"))
    text = (
        f"source {tmp_path}/complete\n"
        "COMP_WORDS=(compress --values int8,f)\nCOMP_CWORD=2\n"
        'COMP_LINE="compress --values int8,f"\nCOMP_POINT=${#COMP_LINE}\n'
        "_compress_completion compress\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    assert set(done.stdout.split()) == {"int8,fp16", "int8,fp32"}, done.stderr


def test_options_and_values_are_offered() -> None:
    assert {"--sparsity", "--sparsity-of"} <= offered("compress --spars")
    assert offered("compress --method m") == {"magnitude"}
    assert offered("compress --values int8,fp") == {"int8,fp16", "int8,fp32"}
    assert offered("compress --recipe w") == {"wikitext"}
    assert "--min-retention" in offered("compress --min-")
