"""A bundle of a language model, opened: text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmpress.bundle.manifest import refuse_unlisted_libraries, verify_manifest
from ssmpress.bundle.signature import verify_signature
from ssmpress.data.device_tokenizer import missing_part
from ssmpress.data.tokenizer import load_tokenizer
from ssmpress.errors import BadInputError, UsageError
from ssmpress.machine import LIBRARY_NAME
from ssmpress.processors import usable_processors
from ssmpress.runtime.loading import open_session
from ssmpress.runtime.session import Session
from ssmpress.runtime.text_stream import TextStream
from ssmpress.tasks import LanguageModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TextModel:
    """A language model with its tokenizer.

    session: tokens and states, see `ssmpress.Session`. tokenizer: the one of the bundle.
    ssmrun_lacks: the part of it that ssmrun does not have, so that ssmrun takes tokens only; None
    where it has all.
    """

    session: Session
    tokenizer: Tokenizer
    ssmrun_lacks: str | None = None

    @property
    def end_tokens(self) -> dict[int, str]:
        """The tokens at which a text ends, and how they are written; none are known of a bundle
        from before ssmpress looked for them."""
        ends = self.session.interface.end_tokens
        return {token: self.tokenizer.id_to_token(token) or "" for token in ends}

    def stream(
        self,
        prompt: str,
        max_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        ignore_eos: bool = False,
        show_special: bool = False,
    ) -> Iterator[str]:
        """Continue a text, a piece at a time, whole characters only: what `ssmrun generate` writes.

        Args:
            prompt: at least one token.
            max_tokens, temperature, top_k, seed, ignore_eos: as in `ssmpress.Session.generate`.
            show_special: special tokens are part of the text.

        Raises:
            BadInputError: the prompt has no token.
        """
        before = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        if not before:
            raise BadInputError("prompt: expected at least one token; got none.")
        text = TextStream(self.tokenizer, before, show_special=show_special)
        tokens = self.session.generate(
            np.array(before),
            max_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            ignore_eos=ignore_eos,
        )
        for token in tokens:
            if piece := text.add(token):
                yield piece
        if rest := text.finish():
            yield rest


def open_bundle(
    folder: str | Path, *, threads: int | None = None, verify_key: str | Path | None = None
) -> TextModel:
    """Check a bundle's files against its manifest and load it.

        >>> from ssmpress import open_bundle
        >>> model = open_bundle("bundle", threads=1)
        >>> text = "".join(model.stream("The list of", 20, temperature=0.8, seed=1))
        >>> len(text) > 10
        True

    Args:
        folder: what `compress` wrote. threads: None is all processors.
        verify_key: the public key, PEM, that must have signed the bundle; None asks for no
            signature. Needs `ssmpress[signing]`.

    Raises:
        BadInputError: the bundle is damaged, or not signed by the key. DeviceError: its library is
            not for this machine. UsageError: it is a classifier's or a forecaster's, `threads` is
            out of range, or model-signing is not installed.
    """
    folder = Path(folder)
    if verify_key is not None:
        verify_signature(folder, verify_key)
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
    tokenizer = folder / "tokenizer.json"
    loaded = load_tokenizer(tokenizer)
    return TextModel(session, loaded, missing_part(tokenizer.read_text(encoding="utf-8")))


def _demand_listed(folder: Path, files: Mapping[str, Any]) -> None:
    """Refuse to load a file that the manifest does not vouch for."""
    beside = ("model.onnx.data", "tokenizer.json")  # not every bundle has them
    names = ["model.onnx", LIBRARY_NAME, *(name for name in beside if (folder / name).exists())]
    if unlisted := [name for name in names if name not in files]:
        raise BadInputError(
            f"{folder}: expected {unlisted[0]} among the files of its manifest; it is not. Copy "
            "the whole bundle again."
        )
    refuse_unlisted_libraries(folder, files)
