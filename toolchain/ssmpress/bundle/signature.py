"""model.sig: who made a bundle. The tool `model-signing` writes it, this module checks it.

    model_signing sign key BUNDLE --private_key KEY --signature BUNDLE/model.sig

A signature holds for a bundle if it is by the key and covers manifest.json as it stands; the
manifest covers the rest. `runtimes/runner/model/signature.cc` has the same rule.
"""

from __future__ import annotations

import base64
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ssmpress.bundle.manifest import MANIFEST_NAME
from ssmpress.bundle.names import SIGNATURE_NAME
from ssmpress.errors import BadInputError, UsageError
from ssmpress.files import read_json
from ssmpress.strict_json import parse_json

_KEY_LIMIT = 1 << 16
_CHANGED = "Do not run the bundle: another one made it, or it was changed."


def verify_signature(folder: str | Path, key: str | Path) -> None:
    """Check who made a bundle. `verify_manifest` then says whether its files are what they were.

    Args:
        folder: the bundle, with model.sig. key: the signer's public key, PEM, of an elliptic curve
            (P-256, P-384, P-521).

    Raises:
        BadInputError: there is no signature, it is not by the key, or not for this bundle; the key
            cannot be read. UsageError: model-signing is not installed.
    """
    folder, key = Path(folder), Path(key)
    signing = _model_signing()
    path = folder / SIGNATURE_NAME
    if not path.is_file():
        raise BadInputError(
            f"{path}: expected the bundle's signature; there is none. Sign it with model_signing."
        )
    document = read_json(path)
    verifier = _verifier(signing, key)
    try:
        verifier.set_ignore_unsigned_files(True).verify(folder, path)
        covered = _covers_manifest(document)
    except Exception as error:  # the tool raises whatever its libraries do
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise BadInputError(
            f"{path}: the signature is not by the key of {key} for this bundle: "
            f"{reason.rstrip('.')}. {_CHANGED}"
        ) from error
    if not covered:
        raise BadInputError(
            f"{path}: expected a signature that covers {MANIFEST_NAME}; it does not. Sign the "
            "whole folder."
        )


def _model_signing() -> ModuleType:
    try:
        return import_module("model_signing.verifying")
    except ImportError as error:
        raise UsageError(
            f"checking a signature needs model-signing, which is not installed ({error}): expected "
            "what pip install 'ssmpress[signing]' brings. ssmrun checks it without Python."
        ) from error


def _verifier(signing: ModuleType, key: Path) -> Any:
    try:
        if key.stat().st_size > _KEY_LIMIT:
            raise ValueError(f"it has more than {_KEY_LIMIT:,} bytes")
        return signing.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise BadInputError(
            f"{key}: expected a public key in PEM of the curve P-256, P-384 or P-521: {error}."
        ) from error


def _covers_manifest(document: dict[str, Any]) -> bool:
    """Whether the signed statement, which holds, names the manifest: the tool has compared it."""
    statement = parse_json(base64.b64decode(document["dsseEnvelope"]["payload"]))
    names = [resource["name"] for resource in statement["predicate"]["resources"]]
    return MANIFEST_NAME in names
