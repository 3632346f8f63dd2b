# ruff: noqa: RUF001 - characters that look like others are the point
"""ssmrun's tokenizer: the ids and texts of the tokenizers library, on texts that hurt."""

from __future__ import annotations

import importlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import NFD

import ssmrun_bundle as sb
from paths import ROOT
from ssmpress.data import device_tokenizer
from ssmpress.data.device_tokenizer import missing_part
from ssmpress.recipe.settings.data import DataSettings
from ssmpress.tasks.language_model import LanguageModel
from ssmpress.tasks.task import Request
from tokenizer_kinds import KINDS, split

SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False}
ADDED = [
    {"id": 1024, "content": "<|endoftext|>", **SPECIAL, "normalized": False, "special": True},
    {"id": 1025, "content": "<|pad|>", **SPECIAL, "rstrip": True, "normalized": False,
     "special": True},
    {"id": 1026, "content": "<mask>", **SPECIAL, "lstrip": True, "normalized": False,
     "special": True},
    {"id": 1027, "content": "  ", **SPECIAL, "normalized": True, "special": False},
    {"id": 1028, "content": "    ", **SPECIAL, "normalized": True, "special": False},
    {"id": 1029, "content": "é€", **SPECIAL, "normalized": True, "special": False},
    {"id": 5, "content": "&", **SPECIAL, "normalized": False, "special": True},
]  # fmt: skip

Change = Callable[[dict[str, Any]], None]


def plain(parts: dict[str, Any]) -> None:
    """As it is."""


def added(parts: dict[str, Any]) -> None:
    parts["added_tokens"] = ADDED


def prefixed(parts: dict[str, Any]) -> None:
    added(parts)
    parts["pre_tokenizer"]["add_prefix_space"] = True


def unsplit(parts: dict[str, Any]) -> None:
    parts["pre_tokenizer"]["use_regex"] = False


def ignoring_merges(parts: dict[str, Any]) -> None:
    parts["model"]["ignore_merges"] = True
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [m for i, m in enumerate(merges) if i % 3]


def old_style(parts: dict[str, Any]) -> None:
    """Merges as text, empty affixes, no ignore_merges: GPT-2's own file."""
    model = parts["model"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "unk_token": "Ġ"}
    del model["ignore_merges"]


def without_some_bytes(parts: dict[str, Any]) -> None:
    """Characters without a token are left out."""
    model = parts["model"]
    for gone in ("X", "Ã"):
        model["merges"] = [m for m in model["merges"] if gone not in "".join(m)]
        model["vocab"] = {t: i for t, i in model["vocab"].items() if gone not in t}


def with_unknown(parts: dict[str, Any]) -> None:
    without_some_bytes(parts)
    parts["model"]["unk_token"] = "?"


def nfc(parts: dict[str, Any]) -> None:
    """GPT-NeoX's, which Mamba's published checkpoints use."""
    added(parts)
    parts["normalizer"] = {"type": "NFC"}


CHANGES = [plain, added, prefixed, unsplit, ignoring_merges, old_style, without_some_bytes,
           with_unknown, nfc]  # fmt: skip

NASTY = (
    "", " ", "\n", "a", " a", "a ", "  a", "   a  b   ", "\t\ta\n\n\nb", "a\r\nb\r\n", "don't",
    "DON'T 'tis 've'll'd're'm's", "'", "''s", " 's", "'\u017f", "it’s", "1234567890",
    "a1b22c333", "x²½Ⅷ௧", "٣٤٥ १२३", "naïve café", "cafe\u0301", "e\u0301\u0327\u0308 o\u0302",
    "\u1e9b\u0323", "한국어 조합 \u1112\u1161\u11ab", "中文測試，标点。", "ひらがなカタカナ",
    "ไทยไม่มีช่องว่าง", "עברית \u05e9\u05c1", "العربية", "हिन्दी", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "👍🏽👨‍👩‍👧‍👦🇩🇪", "☃️",
    "\u200b\u200d\ufeff", "\u00a0a\u2003b\u3000c", "\u2028\u2029\x85x", "\x1c\x1d a",
    "\x00\x01\x7f", "Ⓐ\u0345", "ﬁ ﬀ", "ǅ", "\U0010ffff", "\ufffd", "<|endoftext|>",
    "a<|endoftext|>b <|pad|>   c", "x   <mask>  y", "<|pad|> <mask>", " <mask>", "<|endoftext",
    "&amp; && &", "é€é", "for i in range(3):\n        x += 1  # done\n", "http://a.b/c?d=e&f=g#h",
    "X" * 3000, " " * 777, "\n" * 50 + "x", "aXbX XX ÃX", "lol" * 500, "Ġ Ċ ĉ",
)  # fmt: skip

PIECES = st.sampled_from(
    [" ", "  ", "\n", "\t", "'s", "'", "’", "a", "Z", "7", "½", "é", "e\u0301", "\u0323", "\u0301",
     "中", "👍", "🏽", "\u200d", "\u00a0", "\u3000", "<|endoftext|>", "<|pad|>", "<mask>", "&",
     "é€", "X", "Ã", "\u1112", "\u1161", "\u11ab", "가", "_", "-", "…"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.lists(PIECES, max_size=30).map("".join),
    st.lists(st.one_of(PIECES, st.characters(exclude_categories=["Cs"])), max_size=30).map("".join),
)


class Pair:
    """One tokenizer.json, read by ssmrun and by the library."""

    def __init__(self, worker: sb.Worker, tokenizer: Tokenizer) -> None:
        self.worker, self.tokenizer = worker, tokenizer

    def check(self, text: str) -> None:
        wanted = self.tokenizer.encode(text, add_special_tokens=False).ids
        assert self.worker.ask("encode", text=text)["tokens"] == wanted, ascii(text)
        self.check_decode(wanted)

    def check_decode(self, tokens: list[int]) -> None:
        wanted = self.tokenizer.decode(tokens)
        assert self.worker.ask("decode", tokens=tokens)["text"] == wanted, tokens


def bundle_with(folder: Path, library: Path, text: str) -> Path:
    """A bundle that is only good for its tokenizer."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no model")
    shutil.copyfile(library, folder / "libssmpress_ops.so")
    (folder / "tokenizer.json").write_text(text)
    sb.remake_manifest(folder)
    return folder


def changed(change: Change) -> str:
    parts = json.loads((sb.DEMO / "tokenizer.json").read_text())
    change(parts)
    return json.dumps(parts)


@pytest.fixture(scope="module", params=CHANGES, ids=lambda change: change.__name__)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Pair]:
    sb.runner()
    text = changed(request.param)
    folder = bundle_with(tmp_path_factory.mktemp("tokenizer") / "b", library, text)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        yield Pair(worker, Tokenizer.from_str(text))


def test_nasty_texts(pair: Pair) -> None:
    for text in NASTY:
        pair.check(text)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_any_text(pair: Pair, text: str) -> None:
    pair.check(text)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 1100), max_size=40))
def test_any_tokens_decode_to_the_same_text(pair: Pair, tokens: list[int]) -> None:
    """Most are no UTF-8: the replacement characters must agree too."""
    pair.check_decode(tokens)


def run_bounds() -> list[str]:
    """The characters on either side of where the class changes."""
    text = (ROOT / "runtimes" / "runner" / "text" / "character_tables.h").read_text()
    runs = text[text.index("kPropertyRuns") :]
    starts = [int(run, 16) >> 8 for run in re.findall(r"0x[0-9a-f]+", runs)]
    return [chr(c) for start in starts for c in (start - 1, start) if 0 <= c < 0xD800 or c > 0xDFFF]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_classes_of_characters(tmp_path: Path, library: Path, every: bool) -> None:
    """After a letter, a number and a sign: the bounds of the classes, or all of Unicode."""
    file = changed(plain)
    tokenizer = Tokenizer.from_str(file)
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    characters = everything if every else run_bounds()
    assert len(characters) > 3000
    with sb.Worker(
        bundle_with(tmp_path / "b", library, file), "--runtime", str(sb.runtime())
    ) as worker:
        for begin in range(0, len(characters), 1000):
            block = characters[begin : begin + 1000]
            text = "".join(f"a{c}1{c}!{c}\t" for c in block)
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert worker.ask("encode", text=text)["tokens"] == wanted, ascii(block[0])


def test_a_trained_models_tokenizer(
    tmp_path: Path, library: Path, shared: Callable[[str], Path]
) -> None:
    text = shared("models/mamba-31m/tokenizer.json").read_text()
    sample = shared("data/wikitext103/valid.detok.txt").read_text()[:400_000]
    folder = bundle_with(tmp_path / "b", library, text)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        pair = Pair(worker, Tokenizer.from_str(text))
        pair.check(sample)
        for nasty in NASTY:
            pair.check(nasty)


def test_composition_of_all_characters(tmp_path: Path, library: Path) -> None:
    """Every character that decomposes, and its decomposition with marks in another order."""
    file = changed(nfc)
    tokenizer = Tokenizer.from_str(file)
    nfd = NFD().normalize_str
    texts = [c for c in map(chr, range(0x110000)) if not "\ud800" <= c <= "\udfff" and nfd(c) != c]
    assert len(texts) > 13_000
    texts = [c for c in texts if not "\uac00" <= c <= "\ud7a3"] + texts[::37]
    joined = "".join(f"{c} {nfd(c)} {nfd(c)[::-1]} {c}\u0323\u0301\u0334\n" for c in texts)
    folder = bundle_with(tmp_path / "b", library, file)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        for begin in range(0, len(joined), 20_000):
            part = joined[begin : begin + 20_000]
            wanted = tokenizer.encode(part, add_special_tokens=False).ids
            assert worker.ask("encode", text=part)["tokens"] == wanted


@pytest.mark.parametrize(
    ("generator", "table"),
    [pytest.param("generate_characters", "character_tables.h", marks=pytest.mark.slow),
     pytest.param("generate_graphemes", "grapheme_tables.h", marks=pytest.mark.slow),
     pytest.param("generate_normalization", "normalization_tables.h", marks=pytest.mark.slow),
     ("generate_known_parts", "known_parts.h"),
     ("generate_split_rules", "split_rules.h")],
)  # fmt: skip
def test_tables_are_what_their_generators_write(generator: str, table: str) -> None:
    folder = ROOT / "runtimes" / "runner" / "text"
    module = importlib.import_module(generator)
    without_version = [re.sub(" from tokenizers .*;", "", text) for text in
                       (module.header(), (folder / table).read_text())]  # fmt: skip
    assert without_version[0] == without_version[1]


def test_text_that_is_not_utf8(tmp_path: Path, library: Path) -> None:
    folder = bundle_with(tmp_path / "b", library, changed(plain))
    options = ["--runtime", sb.runtime(), "--max-tokens", "1"]
    for bad, offset in ((b"ab\xff", 2), (b"\xc3", 0), (b"x\xed\xa0\x80", 1), (b"\xc0\x80", 0),
                        (b"aa\xf4\x90\x80\x80", 2), (b"\x80", 0), (b"a\xe2\x82", 1)):  # fmt: skip
        done = sb.ssmrun("generate", folder, "--prompt-file=-", *options, stdin=bad)
        code, text = sb.failure(done)
        assert code == 6
        assert f"-: expected UTF-8 text; the byte at offset {offset} is not" in text


def test_the_stream_is_whole_characters(tmp_path: Path, library: Path) -> None:
    """What is printed of a text is never cut inside a character, whatever the tokens' bytes."""
    with sb.Worker(
        bundle_with(tmp_path / "b", library, changed(plain)), "--runtime", str(sb.runtime())
    ) as worker:
        tokens = worker.ask("encode", text="👍é")["tokens"]
        assert worker.ask("decode", tokens=tokens)["text"] == "👍é"
        assert worker.ask("decode", tokens=tokens[:-1])["text"] == "👍\ufffd"


REGEX = r"\w+"
REFUSED: list[tuple[Change, str]] = [
    (lambda p: p["model"].update(type="Other"),
     'model.type: expected a kind that ssmrun has; got "Other"'),
    (lambda p: p.update(model=None), "model.type: expected a kind; got none"),
    (lambda p: p.update(pre_tokenizer={"type": "UnicodeScripts"}), "pre_tokenizer.type: expected"),
    (lambda p: p.update(pre_tokenizer=split(REGEX)), "pre_tokenizer.pattern: expected a regular"),
    (lambda p: p.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(REGEX)]}),
     "pre_tokenizer.pretokenizers[0].pattern: expected a regular expression that ssmrun has"),
    (lambda p: p.update(decoder={"type": "CTC"}), "decoder.type: expected"),
    (lambda p: p.update(normalizer={"type": "Other"}), "normalizer.type: expected"),
    (lambda p: p["model"].update(dropout=0.1), "model.dropout: expected none; got 0.1"),
    (lambda p: p["model"].update(ignore_merges=3), "ignore_merges: expected true or false; got 3"),
    (lambda p: p["model"].update(byte_fallback=3), "byte_fallback: expected true or false; got 3"),
    (lambda p: p["model"].update(vocab=[]), "model.vocab: expected an object"),
    (lambda p: p["model"]["vocab"].update(a=-1), "model.vocab: expected ids below"),
    (lambda p: p["model"]["vocab"].update(a=1.5), "got 1.5"),
    (lambda p: p["model"]["vocab"].update(a=2**22), "model.vocab: expected ids below 4194304"),
    (lambda p: p["model"].update(merges={}), "model.merges: expected a list"),
    (lambda p: p["model"]["merges"].append(["a"]), "model.merges: expected pairs of tokens"),
    (lambda p: p["model"]["merges"].append("abc"), "model.merges: expected pairs of tokens"),
    (lambda p: p["model"]["merges"].append(["a", 3]), "model.merges: expected tokens of"),
    (lambda p: p["model"]["merges"].append(["q", "q"]), "model.merges: expected tokens of"),
    (lambda p: p.update(added_tokens={}), "added_tokens: expected a list"),
    (lambda p: p.update(added_tokens=[{"id": 0}]), "added_tokens: expected content and id"),
    (lambda p: p.update(added_tokens=[{"id": 2**40, "content": "x"}]), "expected content and id"),
    (lambda p: p.update(added_tokens=[{"id": 7, "content": "a"}]), "expected id 64 as in"),
    (lambda p: p.update(added_tokens=[{"id": 2000, "content": "zz", "single_word": 3}]),
     "expected id 1024; got 2000"),
    (lambda p: p.update(added_tokens=[{"id": 1024, "content": "zz", "single_word": 3}]),
     "single_word: expected true or false; got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_other_tokenizers_are_refused_by_name(
    tmp_path: Path, library: Path, change: Change, message: str
) -> None:
    folder = bundle_with(tmp_path / "b", library, changed(change))
    code, text = sb.failure(
        sb.ssmrun("generate", folder, "--prompt", "x", "--runtime", sb.runtime())
    )
    assert code == 6
    assert message in text
    assert f"{folder}/tokenizer.json: " in text


# What the library reads and ssmrun may not have: packing must know which.
LIBRARY_ONLY: list[Change] = [
    lambda p: p.update(pre_tokenizer={"type": "UnicodeScripts"}),
    lambda p: p.update(pre_tokenizer=split(REGEX)),
    lambda p: p.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(REGEX)]}),
    lambda p: p.update(normalizer={"type": "Replace", "pattern": {"Regex": REGEX}, "content": ""}),
    lambda p: p.update(
        decoder={"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": True}
    ),
    lambda p: p["model"].update(dropout=0.1),
    lambda p: p.update(added_tokens=[{**ADDED[0], "id": 2000}]),
]


@pytest.mark.parametrize("number", range(len(LIBRARY_ONLY)))
def test_packing_knows_what_ssmrun_refuses(tmp_path: Path, library: Path, number: int) -> None:
    """The same place, expectation and finding in both languages."""
    file = changed(LIBRARY_ONLY[number])
    Tokenizer.from_str(file)
    missing = missing_part(file)
    assert missing is not None
    folder = bundle_with(tmp_path / "b", library, file)
    code, text = sb.failure(
        sb.ssmrun("generate", folder, "--prompt", "x", "--runtime", sb.runtime())
    )
    assert code == 6
    assert missing.split("; got ")[0] in text


def notes_of(folder: Path, file: str) -> list[str]:
    path = folder / "tokenizer.json"
    path.write_text(file)
    notes: list[str] = []
    settings = DataSettings()
    LanguageModel().read(Request(settings, path, path, 1100, 16, 600), notes.append)
    return [note for note in notes if "ssmrun" in note]


def test_packing_says_that_ssmrun_lacks_a_part(tmp_path: Path) -> None:
    assert notes_of(tmp_path, changed(plain)) == []
    (note,) = notes_of(tmp_path, changed(LIBRARY_ONLY[0]))
    assert note.startswith(f"{tmp_path}/tokenizer.json: pre_tokenizer.type: expected a kind")
    assert note.endswith("run in Python only, not in ssmrun")


def test_packing_knows_what_ssmrun_takes() -> None:
    for change in CHANGES:
        assert missing_part(changed(change)) is None, change.__name__
    for name, kind in KINDS.items():
        assert missing_part(json.dumps(kind())) is None, name


def test_every_listed_part_is_compared() -> None:
    """No part is on the list without a tokenizer here that has it."""
    files = [json.dumps(kind()) for kind in KINDS.values()]
    found = {part for file in files for part in re.findall(r'"type": "(\w+)"', file)}
    assert {kind for kinds in device_tokenizer.KINDS.values() for kind in kinds} <= found


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Pair]:
    sb.runner()
    text = json.dumps(KINDS[request.param]())
    folder = bundle_with(tmp_path_factory.mktemp("kind") / "b", library, text)
    with sb.Worker(folder, "--runtime", str(sb.runtime())) as worker:
        yield Pair(worker, Tokenizer.from_str(text))


MORE_PIECES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "'S",
    "'",
    "’",
    "a",
    "Z",
    "Ab",
    "7",
    "12",
    "½",
    "é",
    "e\u0301",
    "\u0323",
    "\u0301",
    "中",
    "👍",
    "🏽",
    "\u200d",
    "\u00a0",
    "\u3000",
    "<s>",
    "</s>",
    "<unk>",
    "X",
    "Ã",
    "\u1112",
    "\u1161",
    "\u11ab",
    "가",
    "_",
    "-",
    "…",
    "▁",
    "##",
    "<0xE2>",
    ".",
    "!",
    "``",
    "''",
    "ß",
    "İ",
    "ﬁ",
    "²",
    "Ⅷ",
    "\u0600",
    "©",
    "क",
    "्",
    "\u0b95",
    "\ufeff",
    "\x00",
    "\x01",
    "\u200b",
    "ǅ",
    "ſ",
    "don't",
    "[UNK]",
    "n't",
    "\ufffd",
    "\u0340",
    "\ufb1d",
    "/",
    "\\",
    "don",
    "ab",
    "\u0e33",
    "\u0345",
    "🇩",
    "🇪",
]


def random_text(random_: random.Random) -> str:
    """Of hard pieces, of any characters, or of both."""
    share = random_.choice([1, 0.6, 0])

    def character() -> str:
        end = random_.choice([0x80, 0x3000, 0xD800, 0x110000])
        code = random_.randrange(end)
        return chr(code if not 0xD800 <= code < 0xE000 else 0xFFFD)

    pieces = random_.choice([MORE_PIECES, MORE_PIECES[:20]])
    return "".join(
        random_.choice(pieces) if random_.random() < share else character()
        for _ in range(random_.randint(0, 25))
    )


def check_random(pair: Pair, seed: int, texts: int) -> None:
    """Texts, their tokens, and tokens that no text has."""
    random_ = random.Random(seed)
    for _ in range(texts):
        pair.check(random_text(random_))
    end = pair.tokenizer.get_vocab_size() + 5
    for _ in range(texts // 3):
        pair.check_decode([random_.randrange(end) for _ in range(random_.randint(0, 30))])


def test_nasty_texts_of_every_kind(kind: Pair) -> None:
    for text in NASTY:
        kind.check(text)
    check_random(kind, seed=0, texts=120)


@pytest.fixture(scope="module")
def model_bundle(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    sb.runner()
    return sb.make_bundle(tmp_path_factory.mktemp("model") / "b", None, library=library)


STREAMED = ["llama2", "llama_first", "t5_bytes", "no_fallback", "bert_cased", "llama3", "clip"]


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_text_goes_on_where_the_prompt_ends(
    tmp_path: Path, model_bundle: Path, name: str
) -> None:
    """Token by token what decoding all of them at once adds to the prompt."""
    text = json.dumps(KINDS[name]())
    folder = sb.twin(model_bundle, tmp_path / "b")
    (folder / "tokenizer.json").write_text(text)
    sb.remake_manifest(folder)
    tokenizer = Tokenizer.from_str(text)
    for seed in ("1", "2"):
        options = ["--prompt", "Hello wörld", "--max-tokens", "40", "--temperature", "3"]
        options += ["--seed", seed, "--threads", "1"]
        found = sb.reply(sb.ssmrun("generate", folder, *options, "--json"))
        prompt = tokenizer.encode("Hello wörld", add_special_tokens=False).ids
        assert found["prompt_tokens"] == prompt
        before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + found["tokens"])
        assert before + found["text"] == whole
        streamed = sb.ssmrun("generate", folder, *options)
        assert streamed.stdout.decode() == found["text"] + "\n"


@pytest.mark.slow
def test_any_text_of_every_kind(kind: Pair) -> None:
    check_random(kind, seed=1, texts=4000)


@pytest.mark.slow
def test_every_character_of_every_kind(kind: Pair) -> None:
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for begin in range(0, len(everything), 500):
        block = everything[begin : begin + 500]
        for before, after in (("", " "), ("", "\u0301"), ("'", ""), ("a", "1")):
            kind.check("".join(f"{before}{c}{after}" for c in block))
