"""Tokenizers as people have them -> tokenizer.json, which everything else here reads.

    vocab.json + merges.txt    byte-level BPE: GPT-2's, and those that split as Qwen 2 does
    tokenizer.model            SentencePiece, unigram or BPE; needs `ssmpress[sentencepiece]`

What a file cannot be turned into exactly is refused, with the line that converts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssmpress import files
from ssmpress.cache import cache_folder, check_cache
from ssmpress.callbacks import Note, silent
from ssmpress.data import sentencepiece_model, tokenizer_bounds
from ssmpress.errors import BadInputError
from ssmpress.strict_json import parse_json

NAMES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")
"""Files of a tokenizer, the best one first; vocab.json counts with merges.txt beside it."""

_GPT2 = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")
_QWEN2 = ("Qwen2Tokenizer",)
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_CONVERT = (
    "Convert it where transformers is installed: AutoTokenizer.from_pretrained(FOLDER)"
    ".backend_tokenizer.save('tokenizer.json')"
)


def find_tokenizer(folders: Iterable[Path]) -> Path | None:
    """The file of a tokenizer in one of the folders; None where there is none."""
    for folder in folders:
        for name in NAMES:
            path = folder / name
            if path.is_file() and (name != "vocab.json" or (folder / "merges.txt").is_file()):
                return path
    return None


def as_tokenizer_json(path: Path, note: Note = silent) -> Path:
    """The tokenizer as tokenizer.json: the file itself, or what was made of it, in the cache.

    Args:
        path: tokenizer.json, vocab.json or merges.txt (the other one is beside it), a model of
            SentencePiece, or a folder with one of them.
        note: called with one sentence where it was converted.

    Raises:
        BadInputError: it is none of these, damaged, or cannot be converted exactly.
    """
    path = Path(path)
    if path.is_dir():
        path = find_tokenizer([path]) or path / NAMES[0]
    if path.name in ("vocab.json", "merges.txt"):
        parts = _byte_level(path.parent)
        note(f"tokenizer made of {path.parent / 'vocab.json'} and merges.txt")
    elif path.suffix == ".model":
        parts = sentencepiece_model.tokenizer_json(_content(path), path)
        note(f"tokenizer made of {path}, a model of SentencePiece")
    elif path.suffix == ".tiktoken":
        raise BadInputError(f"{path}: expected tokenizer.json; got tiktoken's ranks. {_CONVERT}.")
    else:
        return path
    return _cached(json.dumps(parts, ensure_ascii=False, sort_keys=True))


def _cached(text: str) -> Path:
    """The text as a file in the cache, under a name made of it."""
    check_cache()
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = cache_folder() / "tokenizers" / digest / "tokenizer.json"
    if not path.is_file():
        with files.blaming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)
    return path


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > tokenizer_bounds.BYTES:
            raise BadInputError(
                f"{path}: expected a tokenizer of at most {tokenizer_bounds.BYTES:,} bytes; got "
                f"{path.stat().st_size:,}. Check that it is the right file."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{path}: cannot be read: {reason}. Check the path.") from error


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = parse_json(_content(path).decode("utf-8"), foreign=True)
    except ValueError as error:
        raise BadInputError(f"{path}: it is not valid JSON: {error}. Get it again.") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: expected a JSON object; got {type(value).__name__}.")
    return value


# ---- vocab.json and merges.txt ----


def _byte_level(folder: Path) -> dict[str, Any]:
    """GPT-2's files, with the added tokens that the files beside them name."""
    vocabulary = _object(folder / "vocab.json")
    settings = _object(folder / "tokenizer_config.json")
    if problem := tokenizer_bounds.problem_of({"model": {"vocab": vocabulary}}):
        raise BadInputError(f"{folder / 'vocab.json'}: expected {problem}. Get it again.")
    if any(piece.endswith("</w>") for piece in list(vocabulary)[-1000:]):
        raise BadInputError(
            f"{folder / 'vocab.json'}: expected byte-level BPE; got pieces that end with </w>, as "
            f"CLIP's do. {_CONVERT}."
        )
    kind = str(settings.get("tokenizer_class") or _GPT2[0]).removesuffix("Fast")
    if kind not in (*_GPT2, *_QWEN2, "PreTrainedTokenizer"):
        raise BadInputError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class: expected GPT2Tokenizer or "
            f"another that splits as it does; got {ascii(kind[:60])[1:-1]}. {_CONVERT}."
        )
    qwen = kind in _QWEN2
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": bool(settings.get("add_prefix_space")),
        "trim_offsets": True,
        "use_regex": not qwen,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": _QWEN2_SPLIT},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": _added_tokens(folder, vocabulary, settings),
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": (
            {"type": "Sequence", "pretokenizers": [split, byte_level]} if qwen else byte_level
        ),
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": _merges(folder / "merges.txt", vocabulary),
        },
    }


def _merges(path: Path, vocabulary: Mapping[str, int]) -> list[list[str]]:
    try:
        lines = _content(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: expected UTF-8 text; got {error.reason}.") from error
    merges: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise BadInputError(
                f"{path}: line {number}: expected two tokens of vocab.json that make a third; got "
                f"{line[:60]!a}. The two files do not belong together, or one is damaged."
            )
        merges.append(pair)
    return merges


def _added_tokens(
    folder: Path, vocabulary: Mapping[str, int], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Tokens that are found in a text before it is split, by their ids."""
    special = _object(folder / "special_tokens_map.json")
    ids: dict[str, int] = {}
    flags: dict[str, dict[str, Any]] = {}
    for number, token in _pairs(settings.get("added_tokens_decoder")):
        if str(number).isdigit() and isinstance(token, dict) and "content" in token:
            ids[str(token["content"])] = int(number)
            flags[str(token["content"])] = token
    for content, number in _pairs(_object(folder / "added_tokens.json")):
        ids[str(content)] = number
        flags.setdefault(str(content), {})
    named = [source.get(key) for source in (special, settings) for key in _SPECIAL]
    named += _listed(special.get("additional_special_tokens"))
    named += _listed(settings.get("additional_special_tokens"))
    texts = [t.get("content") if isinstance(t, dict) else t for t in named]
    defaults = [] if any(texts) or ids else [t for t in ("<|endoftext|>",) if t in vocabulary]
    for content in [t for t in texts if isinstance(t, str)] + defaults:
        flags.setdefault(content, {})["special"] = True
    free = max([*vocabulary.values(), *(i for i in ids.values() if type(i) is int)], default=-1)
    for content in flags:
        if content not in vocabulary and content not in ids:
            ids[content] = free = free + 1
    tokens = [
        {
            "id": vocabulary.get(content, ids.get(content)),
            "content": content,
            **{key: bool(flag.get(key)) for key in ("single_word", "lstrip", "rstrip", "special")},
            "normalized": bool(flag.get("normalized", not flag.get("special"))),
        }
        for content, flag in flags.items()
    ]
    return sorted(tokens, key=lambda token: str(token["id"]).rjust(12))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
