"""What the files beside a checkpoint say of its texts: where one ends, and whether ssmrun can read
and write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmpress.blocks.config import ModelConfig
from ssmpress.callbacks import Note
from ssmpress.checkpoint.dialects.json_reader import JsonReader
from ssmpress.checkpoint.weight_files import beside, read_json
from ssmpress.data.device_tokenizer import missing_part
from ssmpress.data.tokenizer import load_tokenizer

_BY_ID = ("generation_config.json", "config.json")
_BY_TEXT = ("tokenizer_config.json", "special_tokens_map.json")
_IDS, _TEXT = "eos_token_id", "eos_token"
_MOST = 64  # of one file; a model has a handful


@dataclass(frozen=True)
class EndToken:
    """A token after which a text is over. text: as it is written. source: the files and keys that
    say so."""

    id: int
    text: str
    source: str


@dataclass(frozen=True)
class TextSide:
    """What a model that reads tokens has beside its weights.

    end_tokens: in the order in which they were found; None of a model that generates nothing.
    ssmrun_lacks: the part of tokenizer.json that ssmrun does not have; None where it has all.
    """

    end_tokens: tuple[EndToken, ...] | None = None
    ssmrun_lacks: str | None = None


def read_text_side(
    model: Path, tokenizer: Path | None, config: ModelConfig, note: Note
) -> TextSide | None:
    """Read what stands beside the weights and beside the tokenizer.

    Args:
        model: the checkpoint. tokenizer: its tokenizer.json, wherever it lies. config: its sizes.
        note: called with one sentence about each finding.

    Returns:
        None without a tokenizer.

    Raises:
        BadInputError: a file is damaged, or a key has a wrong type.
    """
    if tokenizer is None:
        return None
    lacks = missing_part(tokenizer.read_text(encoding="utf-8"))
    if lacks is not None:
        note(f"{tokenizer}: {lacks}. On the device its texts run in Python only, not in ssmrun")
    if not config.is_language_model:
        return TextSide(None, lacks)
    return TextSide(_end_tokens(model, tokenizer, config.vocab_size, note), lacks)


def _end_tokens(model: Path, tokenizer: Path, vocab_size: int, note: Note) -> tuple[EndToken, ...]:
    """The tokens that end a text, special ones only: one that is text may stand inside any."""
    claims = [*_claims_by_id(model), *_claims_by_text(tokenizer)]
    special = _special_tokens(tokenizer, vocab_size) if claims else {}
    ids = {text: number for number, text in special.items()}
    sources: dict[int, list[str]] = {}
    for source, claim in claims:
        number = ids.get(claim) if isinstance(claim, str) else claim
        if number in special:
            sources.setdefault(number, []).append(source)
        else:
            note(
                f"{source} {claim!r} ends no text: {tokenizer.name} has no special token of it "
                "within the vocabulary"
            )
    found = tuple(EndToken(i, special[i], ", ".join(sources[i])) for i in sources)
    for token in found:
        note(f"a text ends at token {token.id}, {token.text!r}: {token.source}")
    return found


def _claims_by_id(model: Path) -> Iterator[tuple[str, int]]:
    for name in _BY_ID:
        for where, values in _objects(model, name):
            ids = values.get(_IDS)
            listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
            if len(listed) > _MOST or any(type(number) is not int for number in listed):
                raise JsonReader(values, str(where)).fail(
                    _IDS, f"an integer, at most {_MOST} of them, or null"
                )
            yield from ((f"{name} {_IDS}", number) for number in listed)


def _claims_by_text(tokenizer: Path) -> Iterator[tuple[str, str]]:
    for name in _BY_TEXT:
        for where, values in _objects(tokenizer, name):
            token = values.get(_TEXT)
            text = token.get("content") if isinstance(token, dict) else token
            if text is None:
                continue
            if not isinstance(text, str):
                raise JsonReader(values, str(where)).fail(_TEXT, "a text, or an object with one")
            yield f"{name} {_TEXT}", text


def _objects(path: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file of that name beside `path`, if there is one."""
    if file := beside(path, name):
        yield file, read_json(file, f"a {name}")


def _special_tokens(tokenizer: Path, vocab_size: int) -> dict[int, str]:
    """The text of every special token that has a row in the embedding."""
    tokens = load_tokenizer(tokenizer).get_added_tokens_decoder()
    return {
        number: token.content
        for number, token in tokens.items()
        if token.special and number < vocab_size
    }
