"""What a hostile bundle, or an unusual terminal, cannot make ssmrun do: grow, hang, print controls.

Each run has 1 GiB of address space more than the same command needs, and two minutes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ssmrun_bundle as sb
from changed_tokenizer import Change, added_token, changed
from ssmpress.bundle.text_model import open_bundle
from ssmpress.errors import BadInputError
from ssmpress.formats import Values

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r"
OBEYED = {*range(32), 127} - {9, 10}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("bounds") / "demo", sb.packed_model(Values.INT8))


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return sb.twin(bundle, tmp_path / "b")


def with_tokenizer(folder: Path, change: Change) -> Path:
    (folder / "tokenizer.json").write_text(changed(change))
    sb.remake_manifest(folder)
    return folder


def generate(folder: Path, text: str) -> subprocess.CompletedProcess[bytes]:
    """The first token after a text, in 3 GiB of address space; libraries take most of the first."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    return subprocess.run(
        [
            sb.runner(),
            "generate",
            folder,
            "--prompt-file",
            "-",
            "--max-tokens",
            "0",
            "--json",
            "--threads",
            "1",
        ],
        input=text.encode(),
        capture_output=True,
        timeout=120,
        preexec_fn=bounded,
    )


def added(*contents: str, first: int = 1024, **flags: bool) -> Change:
    tokens = [added_token(first + i, content, **flags) for i, content in enumerate(contents)]
    return lambda parts: parts.update(added_tokens=tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["model"]["vocab"].update(a=2**31), "model.vocab: expected ids below 4194304"),
        (lambda p: p["model"]["vocab"].update(a=2**22), "model.vocab: expected ids below 4194304"),
        (lambda p: p["model"]["vocab"].update(a=2**64), "model.vocab: expected ids below 4194304"),
        (added("x", first=2**22), "added_tokens: expected content and id"),
        (added(*(f"<{i}>" for i in range(70_000))), "expected at most 65536 tokens; got more"),
        (added("x" * 257), "added_tokens: expected at most 256 bytes a token; got 257"),
        (added(" ", rstrip=True), "expected no space where it strips them; got one at its begin"),
        (added(" ", lstrip=True), "expected no space where it strips them; got one at its end"),
        (added("\u2003x", rstrip=True), "expected no space where it strips them"),
    ],
)
def test_tokenizers_beyond_every_use(copy: Path, change: Any, message: str) -> None:
    code, text = sb.failure(generate(with_tokenizer(copy, change), "x"))
    assert code == 6
    assert message in text


def test_the_highest_id_takes_no_memory_to_speak_of(copy: Path) -> None:
    with_tokenizer(copy, lambda p: p["model"]["vocab"].update({"zzz": 2**22 - 1}))
    assert sb.reply(generate(copy, "a"))["prompt_tokens"]


@pytest.mark.parametrize(
    ("contents", "text", "lstrip"),
    [
        ([f"a{i}" for i in range(60_000)], "a" * 1_000_000, True),
        (["a" * i for i in range(2, 257)], "ab" * 400_000, True),
        (["<x>"], " <x> " * 100_000, True),
        ([" "], " " * 1_000_000, False),
    ],
    ids=["many of one beginning", "each the beginning of the next", "spaces", "only spaces"],
)
def test_searching_added_tokens_takes_no_square_time(
    copy: Path, contents: list[str], text: str, lstrip: bool
) -> None:
    """A square of these lengths would take hours; the limit is two minutes.

    That the tokens have no row in the model is found after they are.
    """
    with_tokenizer(copy, added(*contents, lstrip=lstrip))
    code, message = sb.failure(generate(copy, text + contents[0]))
    assert code == 6
    assert "expected tokens from 0 to 1023; got 1" in message


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "1" + "0" * 309 + ".0"])
def test_numbers_beyond_a_float_are_refused_in_any_json(copy: Path, number: str) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', f'"seed": {number}'))
    code, text = sb.failure(sb.ssmrun("verify", copy))
    assert code == 6
    assert f"{path}: expected JSON with a number that a float can hold at byte" in text


def controls(text: bytes) -> set[int]:
    """Bytes that a terminal obeys, and the C1 controls as UTF-8 writes them."""
    return (OBEYED & set(text)) | {byte for byte in b"\xc2" if b"\xc2\x9b" in text}


def test_names_in_files_are_shown_not_obeyed(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["ssmpress"] = HOSTILE
    manifest["versions"]["onnxruntime"] = HOSTILE
    sb.rewrite_manifest(copy, manifest)
    for command in (
        ["info"],
        ["info", "--json"],
        ["verify"],
        ["verify", "--json"],
        ["verify", "--runtime", str(sb.runtime()), "--json"],
    ):
        done = sb.ssmrun(command[0], copy, *command[1:])
        assert not controls(done.stdout + done.stderr), command
    manifest["files"][f"x\n{HOSTILE}"] = {"bytes": 1, "sha256": "0"}
    sb.rewrite_manifest(copy, manifest)
    done = sb.ssmrun("verify", copy)
    assert done.returncode == 6
    assert not controls(done.stderr)
    assert done.stderr.count(b"\n") == 1


def test_json_keeps_its_value_where_controls_are_written_out(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"]["torch"] = HOSTILE + "é€👍"
    sb.rewrite_manifest(copy, manifest)
    reply = sb.reply(sb.ssmrun("verify", copy, "--json"))
    assert reply["versions"]["torch"] == HOSTILE + "é€👍"


def says(parts: dict[str, Any], token: int) -> None:
    """Another text for a token of a byte-level tokenizer: to clear the screen."""
    model = parts["model"]
    names = {number: name for name, number in model["vocab"].items()} | {token: "\u011b[2J"}
    vocabulary = {name: number for number, name in names.items()}
    model["vocab"] = vocabulary
    model["merges"] = [m for m in model["merges"] if {*m, "".join(m)} <= vocabulary.keys()]


def test_what_a_model_says_is_shown_on_a_terminal_and_whole_in_a_pipe(copy: Path) -> None:
    words = ("generate", copy, "--prompt", "The", "--max-tokens", "1", "--threads", "1")
    token = sb.reply(sb.ssmrun(*words, "--json"))["tokens"][0]
    with_tokenizer(copy, lambda parts: says(parts, token))
    assert sb.ssmrun(*words).stdout == b"\x1b[2J\n"
    terminal, inside = os.openpty()
    done = subprocess.run([sb.runner(), *words], stdout=inside, stderr=subprocess.PIPE, timeout=120)
    os.close(inside)
    shown = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert shown.replace(b"\r\n", b"\n") == b"\\u001b[2J\n"


def closed_pipe() -> int:
    """The end to write to of a pipe that nobody reads any more."""
    end, start = os.pipe()
    os.close(end)
    return start


@pytest.mark.parametrize(
    ("redirect", "code", "text"),
    [
        (">/dev/full", 7, b"ssmrun: stdout: cannot be written: No space left on device.\n"),
        (">&$GONE", 7, b"ssmrun: stdout: cannot be written: Broken pipe.\n"),
        (">&-", 7, b"ssmrun: stdout: cannot be written: Bad file descriptor.\n"),
        (">&- 2>&-", 7, b""),
        ("<&- 2>/dev/full", 0, b""),
    ],
)
@pytest.mark.parametrize("command", [["--help"], ["info"], ["info", "--json"]])
def test_an_output_that_takes_no_more(
    bundle: Path, command: list[str], redirect: str, code: int, text: bytes
) -> None:
    words = [str(sb.runner()), command[0], *([str(bundle)] * (command[0] == "info")), *command[1:]]
    gone = closed_pipe()
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "-", *words],
        capture_output=True,
        timeout=120,
        pass_fds=[gone],
        env=os.environ | {"GONE": str(gone)},
    )
    os.close(gone)
    assert (done.returncode, done.stderr) == (code, text)


def test_a_reader_that_goes_away_ends_a_long_generation(bundle: Path) -> None:
    shell = shutil.which("bash")
    assert shell is not None
    done = subprocess.run(
        [
            shell,
            "-c",
            'set -o pipefail; "$@" | head -c 1',
            "-",
            sb.runner(),
            "generate",
            bundle,
            "--prompt",
            "The",
            "--max-tokens",
            "1000000",
            "--threads",
            "1",
        ],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 7
    assert done.stderr == b"ssmrun: stdout: cannot be written: Broken pipe.\n"


@pytest.mark.parametrize(
    "name", ["model.onnx", "libssmpress_ops.so", "model.onnx.data", "tokenizer.json"]
)
def test_python_loads_only_what_the_manifest_lists(copy: Path, name: str) -> None:
    (copy / name).touch()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"].pop(name, None)
    sb.rewrite_manifest(copy, manifest)
    with pytest.raises(BadInputError, match=f"expected {name} among the files of its manifest"):
        open_bundle(copy, threads=1)
