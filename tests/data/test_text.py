"""Text in, exact tokens out, no more read than asked for; and no torch behind it."""

from __future__ import annotations

import gzip
import lzma
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.normalizers import NFC, NFKC, Sequence

from blocked_imports import python
from paths import find_shared
from ssmpress.data.default_text import default_text
from ssmpress.data.text import read_text
from ssmpress.data.tokenizer import TOKENIZER_LIMIT, cuts_are_exact, encode, load_tokenizer
from ssmpress.data.tokens import cut_windows, load_tokens
from ssmpress.errors import BadInputError, UsageError
from thoroughness import examples

SAMPLE = "In 2004 the cat's 3 hats\n\nwere sold.  \n Été, naïve\tcafé \n\n\n\x1c\n= Title =\n" * 40


def byte_level(**options: bool) -> Tokenizer:
    """A byte-level BPE tokenizer trained on SAMPLE, `<|endoftext|>` is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False} | options)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    return tokenizer


TOKENIZER = byte_level()
VOCABULARY = TOKENIZER.get_vocab_size()


# ---- text


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress])
def test_read_text_tells_the_format_by_its_bytes(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "text.dat"
    text = "\ufeffone\r\ntwo é\n" * 200_000  # blocks end inside a character
    path.write_bytes(pack(text.encode()))
    assert read_text(path) == text


def test_read_text_of_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_text(tmp_path / "empty") == ""


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, 1 << 20, 3 << 20])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xe2\x82"])
def test_bad_utf8_is_named_with_its_offset(tmp_path: Path, before: int, bad: bytes) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"x" * before + bad, 1))
    message = rf"text\.gz: expected UTF-8 text; byte 0x{bad[0]:02x} at offset {before} is not"
    with pytest.raises(BadInputError, match=message):
        read_text(path)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress])
def test_damaged_archives_are_refused(tmp_path: Path, compress: type[bytes]) -> None:
    path = tmp_path / "text"
    content = compress(os.urandom(4000).hex().encode())
    damaged = content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]
    for wrong in (content[:-9], content[:8], damaged):
        path.write_bytes(wrong)
        with pytest.raises(BadInputError, match="The file is damaged or cut short"):
            read_text(path)


def test_decompression_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmpress.data.text.TEXT_LIMIT", 5_000_000)
    path = tmp_path / "bomb.xz"
    path.write_bytes(lzma.compress(bytes(100_000_000)))
    assert path.stat().st_size < 20_000
    with pytest.raises(BadInputError, match="expected at most 5,000,000 bytes of text; got more"):
        read_text(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path / "no.txt", r"no\.txt: expected a text file .*No such file"),
        (tmp_path, "got a folder"),
        (tmp_path / "pipe", "got something that is not a regular file"),
    ]:
        with pytest.raises(BadInputError, match=message) as caught:
            read_text(path)
        assert caught.value.exit_code == 6


def test_default_text_is_split_once_and_for_all() -> None:
    calibration, evaluation = default_text()
    assert (calibration, evaluation) == default_text()
    share = len(evaluation) / (len(calibration) + len(evaluation))
    assert len(evaluation) > 40_000
    assert 0.17 <= share <= 0.21

    def paragraphs(text: str) -> list[str]:
        return [key for part in text.split("\n\n") if (key := " ".join(part.split()))]

    both = paragraphs(calibration) + paragraphs(evaluation)
    assert len(both) == len(set(both)), "topics quote one another; each paragraph appears once"


# ---- tokenizer


def test_load_tokenizer_switches_truncation_and_padding_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.truncation is None and loaded.padding is None
    assert encode(loaded, SAMPLE, vocab_size=VOCABULARY).size > 100


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "X"}}'])
def test_load_tokenizer_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BadInputError, match=r"expected a tokenizer\.json of the tokenizers lib"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BadInputError, match=r"none\.json: expected a tokenizer\.json; got: No"):
        load_tokenizer(tmp_path / "none.json")


def test_load_tokenizer_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    os.truncate(tmp_path / "tokenizer.json", TOKENIZER_LIMIT + 1)
    with pytest.raises(BadInputError, match="of at most 67,108,864 bytes; got 67,108,865"):
        load_tokenizer(tmp_path / "tokenizer.json")


TEXTS = st.text(
    st.sampled_from("ab 'st1.\n\n\n\r\t\x0b\x1c\x85\xa0\u2028\u3000e\u0301\u00e9\u1100\u1161<|>")
)


@settings(max_examples=examples(400), deadline=None)
@given(text=TEXTS, piece=st.integers(1, 9))
@example(text="a\n\n\nb\n c\n\u0301d", piece=1)
def test_encoding_in_pieces_equals_encoding_the_whole(text: str, piece: int) -> None:
    """The claim of _cuts_are_exact, with pieces of a few characters."""
    for normalizer in (None, NFC()):
        tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
        if normalizer:
            tokenizer.normalizer = normalizer
        assert cuts_are_exact(tokenizer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ssmpress.data.tokenizer._PIECE", piece)
            tokens = encode(tokenizer, text, vocab_size=VOCABULARY)
        assert tokens.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
        assert tokens.dtype == np.int32


def test_other_tokenizers_encode_the_whole_text() -> None:
    changed = []
    for options in ({"add_prefix_space": True}, {"use_regex": False}):
        changed.append(byte_level(**options))
    for token in ("\n\n", AddedToken("<x>", lstrip=True), AddedToken("<y>", rstrip=True)):
        changed.append(Tokenizer.from_str(TOKENIZER.to_str()))
        changed[-1].add_tokens([token])
    changed.append(Tokenizer.from_str(TOKENIZER.to_str()))
    changed[-1].normalizer = Sequence([NFC(), NFKC()])
    changed.append(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    for tokenizer in changed:
        assert not cuts_are_exact(tokenizer)
        expected = tokenizer.encode(SAMPLE * 20, add_special_tokens=False).ids
        assert encode(tokenizer, SAMPLE * 20, vocab_size=1000).tolist() == expected


def test_no_special_token_is_added_but_the_text_may_have_some() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert tokenizer.encode("a").ids[0] == 0
    assert 0 not in encode(tokenizer, "a", vocab_size=VOCABULARY)
    assert encode(tokenizer, "a<|endoftext|>", vocab_size=VOCABULARY)[-1] == 0


def test_token_without_a_row_is_refused() -> None:
    message = (
        rf"the tokenizer has {VOCABULARY} tokens, the model's embedding 64 rows, .*"
        r"Use the tokenizer\.json the model was trained with"
    )
    with pytest.raises(BadInputError, match=message):
        encode(TOKENIZER, SAMPLE, vocab_size=64)


# ---- several files


def test_load_tokens_reads_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SAMPLE)
    (tmp_path / "b.xz").write_bytes(lzma.compress(b"the cat"))
    np.save(tmp_path / "c.npy", np.array([5, 6, 7], np.uint16))
    paths = [tmp_path / name for name in ("c.npy", "a.txt", "b.xz")]
    parts = [[5, 6, 7], TOKENIZER.encode(SAMPLE).ids, TOKENIZER.encode("the cat").ids]
    expected = [token for part in parts for token in part]
    assert load_tokens(paths, TOKENIZER, VOCABULARY).tolist() == expected
    for limit in (1, 3, 4, 900, len(expected), len(expected) + 1):
        tokens = load_tokens(paths, TOKENIZER, VOCABULARY, limit)
        assert tokens.dtype == np.int32 and tokens.tolist() == expected[:limit]


@pytest.mark.parametrize(("kind", "end"), [(np.uint16, 65535), (np.int16, 32767)])
def test_integers_of_16_bits_hold_a_small_vocabulary_only(
    tmp_path: Path, kind: type[np.integer], end: int
) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(9, dtype=kind))
    assert load_tokens([path], TOKENIZER, end + 1).tolist() == list(range(9))
    with pytest.raises(BadInputError, match=f"to {end + 1}; got u?int16, which ends at {end}"):
        load_tokens([path], TOKENIZER, end + 2)


def test_load_tokens_reads_no_more_than_the_limit_needs(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(SAMPLE.encode() * 1000 + b"\xff")
    tokens = load_tokens([tmp_path / "long.txt", Path("none")], TOKENIZER, VOCABULARY, 1000)
    assert len(tokens) == 1000
    with pytest.raises(BadInputError, match="byte 0xff at offset"):
        load_tokens([tmp_path / "long.txt"], TOKENIZER, VOCABULARY)


def test_load_tokens_refuses_nothing_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full.txt").write_text(SAMPLE)
    with pytest.raises(BadInputError, match=r"empty\.txt: expected at least one token; got none"):
        load_tokens([tmp_path / "empty.txt"], TOKENIZER, VOCABULARY)
    with pytest.raises(BadInputError, match="no file: expected at least one token"):
        load_tokens([], TOKENIZER, VOCABULARY)
    with pytest.raises(BadInputError, match=r"full\.txt: the tokenizer has"):
        load_tokens([tmp_path / "full.txt"], TOKENIZER, 64)
    with pytest.raises(UsageError, match="limit: expected at least 1 token; got 0"):
        load_tokens([tmp_path / "full.txt"], TOKENIZER, VOCABULARY, 0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"1-D array of integer token ids; got float64 \(3,\)"),
        (np.ones((3, 2), np.int64), r"got int64 \(3, 2\)\. Flatten it"),
        (np.ones(3, bool), r"got bool \(3,\)"),
        (np.array([1, -2]), r"token ids from 0 to 399; got -2 at index 1"),
        (np.array([1, 2, 1 << 63], np.uint64), r"got 9223372036854775808 at index 2"),
        (np.array([{}], object), r"expected a \.npy array of integers; got: .*Python objects"),
    ],
)
def test_npy_is_checked(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "tokens.npy", array, allow_pickle=True)
    with pytest.raises(BadInputError, match=message):
        load_tokens([tmp_path / "tokens.npy"], TOKENIZER, 400)


def test_damaged_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(100))
    content = path.read_bytes()
    huge = content.replace(b"(100,)", b"(9" + b"0" * 14 + b",)")
    for wrong in (content[:9], content[:50], content[:-8], huge, content[:6] + b"\x09" * 200):
        path.write_bytes(wrong)
        with pytest.raises(BadInputError, match=r"expected a \.npy array of integers; got: "):
            load_tokens([path], TOKENIZER, VOCABULARY)


# ---- windows


@settings(deadline=None)
@given(count=st.integers(1, 200), length=st.integers(1, 40))
def test_windows_are_consecutive(count: int, length: int) -> None:
    tokens = np.arange(count, dtype=np.int32)
    if count < length:
        with pytest.raises(BadInputError, match=rf"has {count} tokens, one window needs {length}"):
            cut_windows(tokens, length)
        return
    cut = cut_windows(tokens, length)
    assert cut.dtype == np.int32 and cut.shape == (count // length, length)
    assert np.array_equal(cut.ravel(), tokens[: cut.size])


def test_window_arguments_are_checked() -> None:
    tokens = np.arange(9, dtype=np.int32)
    with pytest.raises(UsageError, match="length: expected at least 1 token per window; got 0"):
        cut_windows(tokens, 0)


# ---- the device side, and real text


def test_data_imports_no_torch() -> None:
    code = "from ssmpress.data.default_text import default_text; default_text()"
    done = python(code, blocked=("torch",))
    assert done.returncode == 0, done.stderr


def test_wikitext_has_its_known_length() -> None:
    """The perplexities of the trained models are means over exactly these tokens."""
    tokenizer = load_tokenizer(find_shared("models/mamba-31m/tokenizer.json"))
    text = read_text(find_shared("data/wikitext103/test.detok.txt"))
    start = time.process_time()
    tokens = encode(tokenizer, text, vocab_size=8192)
    assert time.process_time() - start < 4, "0.4 s of the processors"
    assert tokens.shape == (332_434,)
    assert tokens.tolist() == tokenizer.encode(text).ids, "special tokens change nothing here"
    assert tokenizer.decode(tokens[:5000].tolist()) == text[: len(tokenizer.decode(tokens[:5000]))]


def test_a_limit_of_a_large_shard_is_quick() -> None:
    tokenizer = load_tokenizer(find_shared("models/mamba-31m/tokenizer.json"))
    shard = find_shared("data/wiki/wiki_000.xz")
    start = time.process_time()
    tokens = load_tokens([shard], tokenizer, 8192, limit=100_000)
    assert time.process_time() - start < 2, "0.2 s of the processors; the whole shard takes 8 s"
    assert tokens.tolist() == tokenizer.encode(read_text(shard)[:700_000]).ids[:100_000]
