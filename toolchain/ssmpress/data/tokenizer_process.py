"""A tokenizer in a process of its own, whose processor time per request is limited by the kernel.

The tokenizers library matches a regular expression by trying again: one of a hostile tokenizer.json
needs exponential time on ordinary text (`(a+)+$`, 22 letters: half a second for each place where it
fails, so minutes for 10 kB), and its calls cannot be interrupted. Expressions that are known to
take linear time, which are those of the published tokenizers, need no process: see `needs_process`.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssmpress.data.device_tokenizer import KNOWN_ALTERNATIVES, UPPER, split_alternatives
from ssmpress.data.regular_file import cause
from ssmpress.errors import BadInputError
from ssmpress.machine import python_environment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SECONDS, CHARACTERS_PER_SECOND = 20, 20_000
"""Processor time of a request: so many seconds, and one for so many characters. The library needs
one for 2,000,000; a slow device a few times as long."""

Work = Callable[[str, list[Any]], list[Any]]
"""(request, items) -> one answer per item: "encode" takes texts and gives ids, "decode" takes ids
and gives texts with their special tokens."""

_SPACES = frozenset((r"\s+", r"\s++"))


def parts_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What its tokenizer.json says, but for the vocabulary and the merges: most of it, and large
    to keep."""
    parts: dict[str, Any] = json.loads(tokenizer.to_str())
    for large in ("vocab", "merges"):
        parts["model"].pop(large, None)
    return parts


def needs_process(tokenizer: Tokenizer) -> bool:
    """Whether it has an expression that may take more than linear time."""
    return _may_be_slow(parts_of(tokenizer))


def _may_be_slow(parts: dict[str, Any]) -> bool:
    rooms = ("normalizer", "pre_tokenizer", "decoder")
    return not all(is_linear(text) for room in rooms for text in _expressions(parts.get(room)))


def is_linear(expression: str) -> bool:
    """Whether matching an expression again and again takes time linear in the text.

    Each of ssmrun's alternatives looks at a run of one class of characters. One that looks at all
    of it and may then fail does so at each of its places, unless another alternative takes the run.
    """
    alternatives = frozenset(split_alternatives(expression))
    if not alternatives <= KNOWN_ALTERNATIVES:
        return False
    fails = any(one.startswith((r"\s*", r"\s+(", r"\s++(")) for one in alternatives)
    upper = any(f"{UPPER}*" in one for one in alternatives)
    taken = any(f"{UPPER}+" in one for one in alternatives)
    return (not fails or bool(alternatives & _SPACES)) and (not upper or taken)


def _expressions(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(expression := part.get("Regex"), str):
            yield expression
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from _expressions(item)


@contextmanager
def working(tokenizer: Tokenizer, parts: dict[str, Any] | None = None) -> Iterator[Work]:
    """What encodes and decodes: in this process where that is safe, else in one of its own.

    Args:
        parts: `parts_of` it, from a caller that has them: they take 0.2 s where the vocabulary has
            128,000 words.

    Raises:
        BadInputError: the tokenizer fails on a text, or takes longer than its limit.
    """
    if not _may_be_slow(parts or parts_of(tokenizer)):
        yield lambda do, items: _answer(tokenizer, do, items)
        return
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=python_environment(),
    ) as process:
        try:
            _ask(process, {"tokenizer": tokenizer.to_str()}, 0)
            yield lambda do, items: _ask(process, {"do": do, "items": items}, _size(items))
        finally:
            process.kill()


def _size(items: Sequence[Any]) -> int:
    return sum(map(len, items))


def _ask(process: subprocess.Popen[bytes], request: dict[str, Any], size: int) -> list[Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    seconds = SECONDS + size // CHARACTERS_PER_SECOND
    try:
        process.stdin.write(json.dumps({**request, "seconds": seconds}).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = b""
    if not line:
        code = process.wait()
        why = f"its process ended with {code}"
        if code == -signal.SIGXCPU:
            why = f"{size:,} characters took more than {seconds} s of processor time"
        raise BadInputError(
            f"the tokenizer cannot encode the text: {why}. Its regular expressions are damaged or "
            "hostile: check tokenizer.json."
        )
    reply = json.loads(line)
    if "error" in reply:
        raise BadInputError(reply["error"])
    answers: list[Any] = reply["answers"]
    return answers


def _answer(tokenizer: Tokenizer, do: str, items: list[Any]) -> list[Any]:
    """Here and now.

    Raises:
        BadInputError: the library fails.
    """
    try:
        if do == "decode":
            return list(tokenizer.decode_batch(items, skip_special_tokens=False))
        return [one.ids for one in tokenizer.encode_batch_fast(items, add_special_tokens=False)]
    except BaseException as error:
        reraise_unless_tokenizers(error)
        raise BadInputError(
            f"the tokenizer cannot encode the text: {cause(error)}. Check tokenizer.json."
        ) from error


def reraise_unless_tokenizers(error: BaseException) -> None:
    """The library raises bare Exception, and PanicException, which is not even one."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def main() -> None:
    """Answer requests, one JSON object per line, until stdin ends."""
    from tokenizers import Tokenizer

    tokenizer: Tokenizer | None = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(request["seconds"])
        if tokenizer is None:
            tokenizer = Tokenizer.from_str(request["tokenizer"])
            reply: dict[str, Any] = {"answers": []}
        else:
            try:
                reply = {"answers": _answer(tokenizer, request["do"], request["items"])}
            except BadInputError as error:
                reply = {"error": str(error)}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit(seconds: int) -> None:
    """End this process by SIGXCPU after so many more seconds of processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = spent + seconds
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
