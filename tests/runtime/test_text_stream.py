"""The stream of a text: whole characters, all of them, and the same pieces from both languages."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import ssmrun_bundle as sb
from changed_tokenizer import added, changed
from paths import ROOT
from ssmpress.runtime.text_stream import MOST_WAITING, TextStream
from tokenizer_kinds import KINDS
from tokenizer_pair import bundle_with, read_kind

HALF = "\ufffd"


def demo() -> Tokenizer:
    """Byte-level: a token of every byte, and special ones."""
    return Tokenizer.from_str(changed(added))


def byte_tokens(tokenizer: Tokenizer, *values: int) -> list[int]:
    """The tokens of single bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    written = {value: chr(value) for value in kept}
    others = (value for value in range(256) if value not in written)
    written |= {value: chr(256 + place) for place, value in enumerate(others)}
    return [tokenizer.token_to_id(written[value]) for value in values]


def pieces_of(
    tokenizer: Tokenizer, prompt: list[int], tokens: list[int], *, show_special: bool = False
) -> list[str]:
    stream = TextStream(tokenizer, prompt, show_special=show_special)
    return [*map(stream.add, tokens), stream.finish()]


def test_a_character_is_written_with_its_last_byte() -> None:
    tokenizer = demo()
    text = "é€👍x"
    tokens = byte_tokens(tokenizer, *text.encode())
    assert pieces_of(tokenizer, byte_tokens(tokenizer, 65), tokens) == [
        "",
        "é",
        "",
        "",
        "€",
        "",
        "",
        "",
        "👍",
        "x",
        "",
    ]


def test_what_never_becomes_a_character_is_given_up() -> None:
    """32 tokens wait at most, then they are written as what they are, and the text goes on."""
    tokenizer = demo()
    prompt = byte_tokens(tokenizer, 65)
    bad = byte_tokens(tokenizer, 0xC3) * (MOST_WAITING + 3)
    pieces = pieces_of(tokenizer, prompt, [*bad, *byte_tokens(tokenizer, 0xA9, 66)])
    assert pieces[: MOST_WAITING - 1] == [""] * (MOST_WAITING - 1)
    assert pieces[MOST_WAITING - 1] == HALF * MOST_WAITING
    assert pieces[MOST_WAITING:] == ["", "", "", HALF * 2 + "é", "B", ""]
    assert pieces_of(tokenizer, prompt, bad[:3]) == ["", "", "", HALF * 3]


def test_tokens_of_no_text_do_not_pile_up() -> None:
    """A tokenizer whose tokens decode to nothing: the work per token stays bounded."""
    parts = json.loads(changed(added))
    parts["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": ""}],
    }
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    stream = TextStream(tokenizer, [tokenizer.token_to_id("b")])
    nothing = tokenizer.token_to_id("a")
    for _ in range(3 * MOST_WAITING):
        assert stream.add(nothing) == ""
        assert len(stream._before) + len(stream._waiting) <= 2 * MOST_WAITING
    assert stream.add(tokenizer.token_to_id("b")) == "b"


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    tokenizer = demo()
    end, pad = 1024, 1025
    text = byte_tokens(tokenizer, 65, 0xC3)
    tokens = [text[0], end, text[1], pad, *byte_tokens(tokenizer, 0xA9), end, 9999]
    assert pieces_of(tokenizer, text[:1], tokens) == ["A", "", "", "", "é", "", "", ""]
    shown = "".join(pieces_of(tokenizer, text[:1], tokens, show_special=True))
    assert shown == f"A<|endoftext|>{HALF}<|pad|>{HALF}<|endoftext|>"


def test_the_page_says_the_bound() -> None:
    page = (ROOT / "docs" / "ssmrun.md").read_text()
    assert f"fewer than {MOST_WAITING} tokens" in page


def random_tokens(random_: random.Random, tokenizer: Tokenizer, unfinished: list[int]) -> list[int]:
    """Of any tokens, of few, or of those of a text cut anywhere; ids without a token too.

    unfinished: tokens that are no whole character; more of them may follow each other than wait.
    """
    size = tokenizer.get_vocab_size()
    few = [random_.randrange(size + 3) for _ in range(4)]
    way = random_.randrange(5)
    length = random_.randrange(60)
    if way == 4 and unfinished:
        bad = random_.choice(unfinished)
        return [*few, *[bad] * (MOST_WAITING - 4 + random_.randrange(8)), *few]
    if way == 0:
        return [random_.randrange(size + 3) for _ in range(length)]
    if way == 1:
        return [random_.choice(few) for _ in range(length)]
    text = "Zürich → 東京 🙂 naïve, don't  x\n" * 2
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    begin = random_.randrange(max(1, len(tokens)))
    return [*tokens[begin : begin + length], *few] if way == 2 else tokens[begin::2]


@pytest.mark.parametrize("name", KINDS)
def test_ssmrun_streams_the_same_pieces(tmp_path: Path, library: Path, name: str) -> None:
    """A fuzz of token sequences, after any prompt, special tokens hidden and shown."""
    sb.runner()
    text, tokenizer = read_kind(name)
    random_ = random.Random(name)
    folder = bundle_with(tmp_path / "b", library, text)
    singles = [[number] for number in range(tokenizer.get_vocab_size())]
    texts = zip(singles, tokenizer.decode_batch(singles), strict=True)
    unfinished = [number for (number,), written in texts if written.endswith(HALF)]
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        for turn in range(40):
            prompt, tokens = (random_tokens(random_, tokenizer, unfinished) for _ in range(2))
            shown = turn % 3 == 0
            pieces = pieces_of(tokenizer, prompt, tokens, show_special=shown)
            reply = worker.ask("stream", prompt=prompt, tokens=tokens, show_special=shown)
            assert reply["pieces"] == pieces, (prompt, tokens, shown)
