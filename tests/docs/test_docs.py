"""The documentation: the site builds without a warning, asks for nothing from elsewhere, and every
command in it runs, or says why a test does not run it: `<!-- not run: reason -->` above it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import chromium
from paths import DEMO, ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
COMMANDS = (
    "compress",
    "ssmpress",
    "ssmpress-gate",
    "python",
    "make",
    "pip",
    "mkdocs",
    "ssmrun",
    "apt",
    "scp",
    "ssh",
)
NOT_RUN = re.compile(r"<!-- not run: (\S.{9,}) -->")


def blocks(text: str) -> list[tuple[list[str], str]]:
    """(lines, the last line of text above) of every code block, fenced or indented."""
    found: list[tuple[list[str], str]] = []
    above, block, fenced = "", [], False
    for line in [*text.splitlines(), "end"]:
        if line.startswith("```"):
            if fenced:
                found.append((block, above))
                block = []
            fenced = not fenced
        elif fenced or line.startswith("    "):
            block.append(line.removeprefix("    ") if not fenced else line)
        elif line.strip():
            if block:
                found.append((block, above))
                block = []
            above = line
    return found


def commands(page: Path) -> list[tuple[str, str | None]]:
    """(command, why it is not run) of a page, in order."""
    found = []
    for lines, above in blocks(page.read_text()):
        reason = NOT_RUN.fullmatch(above.strip())
        joined = "\n".join(lines).replace("\\\n", " ").splitlines()
        for line in joined:
            words = [word for word in line.split() if "=" not in word.partition("-")[0]]
            if words and (words[0] in COMMANDS or "&& scp" in line):
                found.append((line.strip(), reason[1] if reason else None))
    return found


def test_commands_are_found() -> None:
    text = (
        "a\n\n<!-- not run: takes an hour -->\n\n    X=1 compress a \\\n        b\n\n"
        "text\n\n```sh\nmake x\n```\n"
    )
    found = blocks(text)
    assert [above for _, above in found] == ["<!-- not run: takes an hour -->", "text"]
    everything = [command for page in PAGES for command, _ in commands(page)]
    assert sum(command.startswith("compress") for command in everything) > 12
    assert any(command.startswith("PYTHONPATH=toolchain python") for command in everything)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    """A folder as a reader has it: a model, texts, policies, and what the quick start made."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DEMO, folder / "my-mamba")
    (folder / "docs").mkdir()
    (folder / "docs" / "examples").symlink_to(DOCS / "examples")
    (folder / "policy.toml").write_text("min_retention = 0.5\nmax_bundle_bytes = 50_000_000\n")
    programs = folder / "bin"
    programs.mkdir()
    for name, module in (("compress", "cli.compress"), ("ssmpress-gate", "cli.gate")):
        start = f"from ssmpress.{module} import main; main()"
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    for command, reason in commands(DOCS / "index.md"):
        if reason is None:
            run(command, folder)
    for name in ("bundle", "a", "b", "c", "old"):
        shutil.copytree(folder / "my-mamba-s30", folder / name)
    return folder


def run(command: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


LONG = ("recipes.md",)
"""Pages whose commands take a minute: they train."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p.name in LONG))
        for p in PAGES
        if p.name != "index.md"
    ],
    ids=lambda p: p.name,
)
def test_every_command_runs(page: Path, sandbox: Path) -> None:
    for command, reason in commands(page):
        if reason is None:
            run(command, sandbox)


def test_the_quick_start_made_a_bundle(sandbox: Path) -> None:
    report = json.loads((sandbox / "my-mamba-s30" / "report.json").read_text())
    assert report["verdict"]["status"] == "pass"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra `docs`)")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, DOCS / "site" / "build.py", out],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), "a warning is an error"
    return out


def test_every_page_is_in_the_site_and_the_benchmarks_are_rendered(site: Path) -> None:
    for page in PAGES:
        assert (site / page.with_suffix(".html").name).is_file()
    text = (site / "benchmarks.html").read_text()
    stored = json.loads((DOCS / "benchmarks" / "demo.json").read_text())
    assert f"{stored['quality']['compressed']:.4g}" in text
    for file in (DOCS / "benchmarks").glob("*.json"):
        assert f'href="benchmarks/{file.name}"' in text


@pytest.mark.skipif(chromium.BINARY is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_ask_for_nothing_from_elsewhere(site: Path, width: int) -> None:
    with chromium.browser() as tab:
        for name in ("index", "how_it_works", "benchmarks"):
            tab.open((site / f"{name}.html").as_uri(), width=width)
            assert [url for url in tab.requests() if not url.startswith(("file:", "data:"))] == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
            assert tab.evaluate(broken) == []


ASSEMBLED = {
    "expected a folder with config.json": ("a folder with config.json",),
    "Check d_state in config.json": ("Check {keys} in config.json",),
    "Check rms_norm in config.json": ("Check {key} in config.json", 'flag="rms_norm"'),
    "architecture Mamba-1, assumed": ("architecture {", '"Mamba-1",', "', assumed'"),
    "architecture Mamba-2, assumed": ("architecture {", '"Mamba-2",', "', assumed'"),
    "Fail: The quality kept is …": ("quality kept", "The {self.rule.label} is"),
    "from fewer than 8 windows of evaluation text": (
        "from fewer than {MIN_WINDOWS} {phrases.evaluated}",
        "windows of evaluation text",
    ),
    "from fewer than 8 windows of the series that do not overlap": (
        "from fewer than {MIN_WINDOWS} {phrases.evaluated}",
        "windows of the series that do not overlap",
    ),
    "nested more than 100 levels deep": ("nested more than {DEPTH} levels deep",),
    "values nested more than 64 deep": ("values nested more than {DEPTH_LIMIT} deep",),
    "ids from 0 to 4194303": ("ids from 0 to {IDS - 1}",),
    "at most 65536 added tokens": ("at most {ADDED} added tokens",),
    "at most 256 bytes a token": ("at most {ADDED_BYTES} bytes a token", " bytes a token"),
    "replacements that make a text at most 1000 times as long": (
        "replacements that make a text at most {GROWTH} times as long",
        " times as long",
    ),
    "expected --recover auto beside it, which ends by itself": (
        "--recover auto beside it, which ends by itself",
        "expected {expected}; got {got}",
    ),
    "--threads 8: this process can run 2 at once": (
        "{option} {threads}: {who} can run {usable} at once",
        '"--threads", recipe.threads, usable_processors()',
    ),
    "--device-threads 8: ssh://pi can run 4 at once": (
        "{option} {threads}: {who} can run {usable} at once",
        '"--device-threads", threads, found.processors',
    ),
    "threads shared … usable processors": ("threads shared {", "usable processor"),
    "with a decimal comma": ("with a decimal {point}", '"comma" if'),
    "with a decimal point": ("with a decimal {point}", 'else "point"'),
    "expected no --device beside it, which is to run the bundle": (
        "no --device beside it, which is to run the bundle",
        "expected {expected}; got {got}",
    ),
    "expected report.json among its files": ("expected {REPORT_NAME} among its files",),
    "csr: expected a new folder or earlier .npz files; got … there": (
        "expected a new folder or earlier .npz files; got {others[0]} there",
    ),
    "Recovery continues; if it is interrupted, it starts again": (
        "Recovery continues; if it is interrupted, it {where}",
        "starts again",
    ),
    "interrupted: the bundle … is complete": ("interrupted: {", "the bundle {recipe.out} is"),
    "its answer is longer than 16,777,216 bytes": (
        "its answer is longer than {ANSWER_LIMIT:,} bytes",
    ),
    "expected ids below 4194304": ("ids below ", ": expected "),
    "expected at most 65536 tokens": ("at most ", " tokens"),
    "expected no space where it strips them": ("no space where it strips them",),
    "expected a kind that ssmrun has": ("a kind that ssmrun has",),
    "expected a regular expression that ssmrun has": ("a regular expression that ssmrun has",),
    "eos_token_id: expected an integer, at most 64 of them, or null": (
        '_IDS, f"an integer, at most {_MOST} of them, or null"',
    ),
    "eos_token: expected a text, or an object with one": (
        '_TEXT, "a text, or an object with one"',
    ),
    "expected a tokenizer_config.json": ("tokenizer_config.json", "expected a "),
    "ends no text: tokenizer.json has no special token of it": (
        "ends no text: {tokenizer.name} has no special token of it",
    ),
    "s of processor time. Its regular expressions are damaged or hostile": (
        "s of processor time",
        "Its regular expressions are damaged or hostile",
    ),
    "end_tokens: expected at most 256 different tokens": (
        "{END_TOKENS_KEY}: expected at most {END_TOKEN_LIMIT} different tokens",
    ),
    "1 to 1024 of them": ('"1 to " + std::to_string(kPortLimit) + " of them"',),
    "expected a charsmap of SentencePiece": ("a charsmap of SentencePiece",),
    "expected JSON with a number that a float can hold": (
        "expected JSON with ",
        "a number that a float can hold",
    ),
}
"""Messages that the code puts together, and the parts of them that stand in it."""


def test_error_texts_of_troubleshooting_exist() -> None:
    """A reader searches for the words of an error: they must be in the code."""
    files = [*(ROOT / "toolchain" / "ssmpress").rglob("*.py"), *(ROOT / "runtimes").rglob("*.cc")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    page = " ".join((DOCS / "troubleshooting.md").read_text().split())  # a line ends anywhere
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", page)
    assert len(quoted) > 15
    for text in quoted:
        for part in ASSEMBLED.get(text, tuple(filter(None, re.split(r" ?… ?", text)))):
            assert part in code, f"{text!r}: {part!r} is not in the code"
