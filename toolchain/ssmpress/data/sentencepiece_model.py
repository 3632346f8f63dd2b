"""A model of SentencePiece -> the parts of a tokenizer.json that encode as it does.

    normalise (charsmap), take spaces together and off the ends, put ▁ before the text and in the
    place of spaces, then unigram (the most probable pieces) or BPE (the best-scored join first)

Source: Kudo and Richardson, "SentencePiece", arXiv 1808.06226.
"""

from __future__ import annotations

import base64
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmpress.errors import BadInputError

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4  # types of a piece
_UNIGRAM, _BPE = 1, 2  # types of a model
_LONGEST = 256  # characters of a piece whose joins are looked for


def tokenizer_json(content: bytes, path: Path) -> dict[str, Any]:
    """The parts of the tokenizer.json.

    Args:
        content: of the file `path`, which messages name.

    Raises:
        BadInputError: the package sentencepiece is missing; it is no such model, or of a kind that
            the tokenizers library cannot do exactly.
    """
    model = _parsed(content, path)
    trainer, spec, pieces = model.trainer_spec, model.normalizer_spec, model.pieces
    if trainer.model_type not in (_UNIGRAM, _BPE) or trainer.treat_whitespace_as_suffix:
        raise BadInputError(
            f"{path}: expected a unigram or BPE model with spaces before words; got another kind. "
            "Train or convert a tokenizer.json with the tokenizers library."
        )
    names = [piece.piece for piece in pieces]
    if len(set(names)) != len(names) or not 0 <= trainer.unk_id < len(names):
        raise BadInputError(
            f"{path}: expected pieces that are there once, and an unknown one; got others. The "
            "file is damaged; get it again."
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece.piece,
                "special": piece.type != _USER,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for number, piece in enumerate(pieces)
            if piece.type in (_UNKNOWN, _CONTROL, _USER)
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(spec)},
        "pre_tokenizer": _words(names),
        "decoder": {"type": "Sequence", "decoders": _decoders(spec)},
        "model": _unigram(model) if trainer.model_type == _UNIGRAM else _bpe(model),
    }


def _parsed(content: bytes, path: Path) -> Any:
    try:
        decode_error = import_module("google.protobuf.message").DecodeError
        messages = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise BadInputError(
            f"{path}: expected tokenizer.json; got a model of SentencePiece, which the package "
            "sentencepiece turns into one: pip install 'ssmpress[sentencepiece]'."
        ) from error
    model = messages.ModelProto()
    try:
        model.ParseFromString(content)
    except decode_error as error:
        raise BadInputError(
            f"{path}: expected a model of SentencePiece; got: {str(error).rstrip('.')}. Get it "
            "again."
        ) from error
    return model


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    """In SentencePiece's order."""
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": " "})
    if spec.escape_whitespaces:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    return steps


def _words(names: list[str]) -> dict[str, Any] | None:
    """A cut before every space, where no piece goes over one: as exact, and faster."""
    if any(_SPACE in name[1:] for name in names):
        return None
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "never", "split": True}


def _decoders(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _unigram(model: Any) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": model.trainer_spec.unk_id,
        "vocab": [[piece.piece, piece.score] for piece in model.pieces],
        "byte_fallback": model.trainer_spec.byte_fallback,
    }


def _bpe(model: Any) -> dict[str, Any]:
    """Every pair of pieces whose join is a piece, the best-scored join first."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
    joins = [
        (-score, number, piece[:cut], piece[cut:])
        for number, (piece, score) in enumerate(scores.items())
        for cut in range(1, min(len(piece), _LONGEST))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.trainer_spec.unk_piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.piece: number for number, piece in enumerate(model.pieces)},
        "merges": [[left, right] for _, _, left, right in sorted(joins)],
    }
