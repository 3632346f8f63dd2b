"""A bundle of a language model, opened: text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmpress.bundle.manifest import verify_manifest
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.errors import BadInputError, UsageError
from ssmpress.machine import LIBRARY_NAME
from ssmpress.processors import usable_processors
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session
from ssmpress.tasks import LanguageModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not a whole character yet."""


@dataclass(frozen=True)
class TextModel:
    """session: tokens and states, see `run.Session`. tokenizer: the one of the bundle."""

    session: Session
    tokenizer: Tokenizer

    def stream(
        self,
        prompt: str,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Continue a text, a piece at a time, whole characters only.

        Args:
            prompt: at least one token.
            max_tokens, temperature, top_k, seed: as in `run.Session.generate`.

        Raises:
            BadInputError: the prompt has no token.
        """
        before = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        if not before:
            raise BadInputError("prompt: expected at least one token; got none.")
        tokens = self.session.generate(
            np.array(before), max_tokens, temperature=temperature, top_k=top_k, seed=seed
        )
        seen, new = before[-8:], []
        for token in tokens:
            new.append(token)
            piece = self._after(seen, new)
            if piece and not piece.endswith(_UNFINISHED):
                yield piece
                seen, new = new, []
        if new:
            yield self._after(seen, new)

    def _after(self, seen: list[int], new: list[int]) -> str:
        """The text of the new tokens: some decoders treat the first token of a text specially."""
        start = self.tokenizer.decode(seen, skip_special_tokens=False)
        return str(self.tokenizer.decode(seen + new, skip_special_tokens=False)[len(start) :])


def open_bundle(folder: str | Path, *, threads: int | None = None) -> TextModel:
    """Check a bundle's files against its manifest and load it.

        >>> from ssmpress import open_bundle
        >>> model = open_bundle("bundle", threads=1)
        >>> text = "".join(model.stream("The list of", 20, temperature=0.8, seed=1))
        >>> len(text) > 10
        True

    Args:
        folder: what `compress` wrote. threads: None is all processors.

    Raises:
        BadInputError: the bundle is damaged. DeviceError: its library is not for this machine.
        UsageError: it is a classifier's or a forecaster's, or `threads` is out of range.
    """
    folder = Path(folder)
    _demand_listed(folder, verify_manifest(folder)["files"])
    session = open_session(
        folder / "model.onnx",
        threads=usable_processors() if threads is None else threads,
        library=folder / LIBRARY_NAME,
    )
    if not isinstance(task := session.interface.task, LanguageModel):
        raise UsageError(
            f"{folder}: expected the bundle of a language model; got that of a {task.kind} model. "
            f"Open {folder / 'model.onnx'} with ssmpress.open_session instead."
        )
    return TextModel(session, load_tokenizer(folder / "tokenizer.json"))


def _demand_listed(folder: Path, files: Mapping[str, Any]) -> None:
    """Refuse to load a file that the manifest does not vouch for."""
    beside = ("model.onnx.data", "tokenizer.json")  # not every bundle has them
    names = ["model.onnx", LIBRARY_NAME, *(name for name in beside if (folder / name).exists())]
    if unlisted := [name for name in names if name not in files]:
        raise BadInputError(
            f"{folder}: expected {unlisted[0]} among the files of its manifest; it is not. Copy "
            "the whole bundle again."
        )
