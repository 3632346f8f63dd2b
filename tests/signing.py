"""Bundles signed by the tool model-signing, by keys of elliptic curves, and damaged after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ssmrun_bundle as sb
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.bundle.names import SIGNATURE_NAME


@dataclass(frozen=True)
class Keys:
    """PEM files."""

    private: Path
    public: Path


def make_keys(folder: Path, curve: str = "SECP256R1") -> Keys:
    """Skips where model-signing is not installed."""
    pytest.importorskip("model_signing", reason="needs pip install 'ssmpress[signing]'")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(getattr(ec, curve)())
    keys = Keys(folder / "key.pem", folder / "key.pub")
    keys.private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    keys.public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return keys


def sign(bundle: Path, keys: Keys, *options: str) -> None:
    """By the command that SECURITY.md gives."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "model_signing",
            "sign",
            "key",
            bundle,
            *options,
            "--private_key",
            keys.private,
            "--signature",
            bundle / SIGNATURE_NAME,
        ],
        check=True,
        capture_output=True,
    )


Damage = Callable[..., object]
"""Of the signed bundle in a folder; called with the folder, and with the keys where asked for."""


def rewritten(folder: Path, *_: Keys) -> None:
    """What the manifest alone cannot tell from a bundle as it was made."""
    kept = (folder / "model.sig").read_bytes()
    (folder / "model.sig").unlink()
    (folder / "model.onnx").write_bytes(b"a model that does harm")
    sb.remake_manifest(folder)
    (folder / "model.sig").write_bytes(kept)
    verify_manifest(folder)


def replaced(content: str) -> Damage:
    return lambda folder, *_: (folder / "model.sig").write_text(content)


def edited(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Another content of the signature's JSON document."""

    def damage(folder: Path, *_: Keys) -> None:
        document = json.loads((folder / "model.sig").read_text())
        change(document)
        (folder / "model.sig").write_text(json.dumps(document))

    return damage
