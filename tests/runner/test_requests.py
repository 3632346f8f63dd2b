"""Requests to `ssmrun worker`: hostile ones are answered, and it goes on. And the sanitizers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssmrun_bundle as sb
from paths import ROOT
from ssmpress.formats import Values
from thoroughness import examples


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(
        tmp_path_factory.mktemp("requests") / "demo", sb.packed_model(Values.INT8)
    )


@pytest.fixture(scope="module")
def worker(bundle: Path) -> Iterator[sb.Worker]:
    with sb.Worker(bundle) as running:
        running.ask("load", threads=1)
        yield running


REQUESTS: list[tuple[bytes, str]] = [
    (b"", "expected JSON with a value at byte 0, where the text ends"),
    (b"{", "expected JSON with a key"),
    (b"[1, 2", "a comma or ]"),
    (b'{"a" 1}', "a colon"),
    (b'{"a": 1,}', "a key"),
    (b"[1,]", "a value"),
    (b"01", "without leading zeros"),
    (b"-", "a value"),
    (b"1.", "digits after the point"),
    (b"1e", "digits in the exponent"),
    (b"+1", "a value"),
    (b"nan", "a value"),
    (b"Infinity", "a value"),
    (b"nul", "a value"),
    (b"truex", "nothing after the value"),
    (b'"a', "the end of a string"),
    (b'"\x01"', "no control character"),
    (b'"\\x"', "a known escape"),
    (b'"\\u12"', "four hexadecimal digits"),
    (b'"\\ud800"', "the second half of a surrogate"),
    (b'"\\ud800\\u0041"', "the second half"),
    (b'"\\udc00"', "a surrogate pair"),
    (b'"\xff"', "UTF-8 text"),
    (b'"\xed\xa0\x80"', "UTF-8 text"),
    (b'"\xc0\xaf"', "UTF-8 text"),
    (b'{"a":1,"a":2}', "every key once"),
    (b"{} {}", "nothing after the value"),
    (b"[" * 200, "at most 100 levels"),
    (b'{"a":' * 200, "at most 100 levels"),
    (b"[" * 1_000_000, "at most 100 levels"),
    (b"[]", "expected an object; got []"),
    (b"1" * 300, "expected an object"),
    (b"1" * 1000, "a number that a float can hold"),
    (b"{}", "do: expected a string; got nothing"),
    (b'{"do": 3}', "do: expected a string; got 3"),
    (b'{"do": "fly"}', "forecast or run; got fly"),
    (b'{"do": "load"}', "load: threads: expected an integer from 1 to 1024; got nothing"),
    (b'{"do": "load", "threads": 1e0}', "threads: expected an integer"),
    (b'{"do": "load", "threads": 99999999999999999999999}', "threads: expected an integer"),
    (b'{"do": "load", "threads": 1, "cold": 1}', "cold: expected true or false; got 1"),
    (b'{"do": "load", "threads": 1, "model": "/no"}', "/no: expected an ONNX model"),
    (b'{"do": "load", "threads": 1, "library": "/no"}', "/no: the op library is missing"),
    (b'{"do": "load", "threads": 1, "pin": [0, 1]}', "one processor per thread"),
    (b'{"do": "load", "threads": 1, "pin": [-1]}', "pin: expected 0 to 4095"),
    (b'{"do": "load", "threads": 1, "seed": -1}', "seed: expected an integer from 0"),
    (b'{"do": "round", "prompt_tokens": 0, "decode_tokens": 1}', "prompt_tokens: expected"),
    (b'{"do": "logits", "tokens": []}', "expected at least one token"),
    (b'{"do": "logits", "tokens": [1024]}', "expected tokens from 0 to 1023; got 1024"),
    (b'{"do": "logits", "tokens": [1.5]}', "tokens: expected a list of integers"),
    (b'{"do": "logits", "tokens": [1], "prefill": 2}', "prefill: expected an integer from 0 to 1"),
    (b'{"do": "nll", "windows": [[1]]}', "expected at least 2 tokens"),
    (b'{"do": "nll", "windows": [3]}', "windows: expected a list of integers"),
    (b'{"do": "generate", "tokens": [1], "max_tokens": 1, "temperature": 1e999}', "a number"),
    (b'{"do": "generate", "tokens": [1], "max_tokens": 1, "temperature": 1e-9}', "expected 0, or"),
    (b'{"do": "encode", "text": 3}', "text: expected a string"),
    (b'{"do": "decode", "tokens": [-9223372036854775808999]}', "a list of integers"),
]


@pytest.mark.parametrize(("line", "message"), REQUESTS, ids=[str(r[:40]) for r, _ in REQUESTS])
def test_requests(worker: sb.Worker, line: bytes, message: str) -> None:
    answer = worker.send(line)
    assert set(answer) == {"error", "exit_code"}
    assert message in answer["error"], answer
    assert answer["exit_code"] in (2, 6, 7)
    assert worker.ask("memory")["peak_rss_bytes"] > 0  # the worker itself goes on
    if b'"load"' in line:  # and a load that fails leaves no model
        worker.ask("load", threads=1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "tokens",
        "text",
        "windows",
        "prefill",
        "max_tokens",
        "seed",
        "temperature",
        "top_k",
        "prompt_tokens",
        "decode_tokens",
        "states",
    ]
)
COMMANDS = ["encode", "decode", "nll", "logits", "memory", "generate"]


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(COMMANDS), st.dictionaries(FIELDS, VALUES, max_size=3), st.data())
def test_any_request_is_answered(
    worker: sb.Worker, do: str, fields: dict[str, Any], draw: st.DataObject
) -> None:
    """Well-formed ones with odd fields, and the same with bytes removed or changed."""
    fields.pop("max_tokens", None)
    line = bytearray(json.dumps({"do": do, **fields}).encode())
    for _ in range(draw.draw(st.integers(0, 3))):
        at = draw.draw(st.integers(0, len(line) - 1))
        line[at : at + 1] = draw.draw(st.binary(max_size=2)).replace(b"\n", b" ")
        if not line:
            break
    assert isinstance(worker.send(bytes(line)), dict)


JSON_TEXTS = st.one_of(
    VALUES.map(lambda v: json.dumps(v).encode()),
    VALUES.map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-8", "replace")),
    st.lists(
        st.sampled_from(
            [
                "{",
                "}",
                "[",
                "]",
                '"',
                ":",
                ",",
                "1",
                "-",
                ".",
                "e",
                "\\",
                "u",
                "d8",
                "true",
                "null",
                " ",
                "\t",
                "a",
                "0",
                "é",
            ]
        ),
        max_size=12,
    ).map(lambda parts: "".join(parts).encode()),
)


@settings(max_examples=examples(800), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON_TEXTS)
def test_json_is_accepted_where_python_accepts_it(worker: sb.Worker, text: bytes) -> None:
    """As the value of an entry that no request uses. What Python takes beyond RFC 8259 is not."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(_: str) -> Any:
        raise ValueError

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        valid = True
    except (ValueError, UnicodeError):
        valid = False
    answer = worker.send(b'{"do": "memory", "x": ' + text.replace(b"\n", b" ") + b"}")
    assert ("peak_rss_bytes" in answer) == valid, (text, answer)


def test_requests_are_read_however_they_arrive(bundle: Path) -> None:
    """In pieces, several at once, and without the last newline."""
    line = b'{"do": "memory"}\n'
    process = subprocess.Popen(
        [sb.runner(), "worker", bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    for i in range(len(line)):
        process.stdin.write(line[i : i + 1])
        process.stdin.flush()
    out, _ = process.communicate(line * 3 + line[:-1], timeout=60)
    assert out.count(b"\n") == 4
    assert process.returncode == 0


@pytest.mark.slow
def test_under_the_sanitizers(tmp_path: Path) -> None:
    """All of ssmrun's tests again, with ASan and UBSan in the runner."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    source, build = ROOT / "runtimes" / "runner", tmp_path / "build"
    beside = Path(sys.executable).with_name("cmake")
    cmake = shutil.which("cmake") or (str(beside) if beside.is_file() else None)
    if cmake is None:
        pytest.skip("cmake is not installed")
    subprocess.run(
        [
            cmake,
            "-S",
            source,
            "-B",
            build,
            "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
            f"-DCMAKE_CXX_FLAGS={flags}",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run([cmake, "--build", build, "-j2"], check=True, capture_output=True)
    here = Path(__file__).parent
    names = ("ssmrun", "hostile", "requests", "tasks", "network", "network_checks", "tokenizer")
    tests = [here / f"test_{name}.py" for name in names]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "-k",
            "not needs_nothing_but and not nothing_is_loaded",
            *map(str, tests),
        ],
        env={**os.environ, "SSMRUN": str(build / "ssmrun"), "ASAN_OPTIONS": "exitcode=99"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
