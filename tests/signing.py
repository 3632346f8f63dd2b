"""Bundles signed by the tool model-signing, by keys of elliptic curves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
