"""ssmrun checks who made a bundle, by the system's OpenSSL: as Python does."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ssmrun_bundle as sb
from signing import Damage, Keys, edited, make_keys, replaced, rewritten, sign
from ssmpress.bundle.text_model import open_bundle
from ssmpress.formats import Values

CURVES = ("SECP256R1", "SECP384R1", "SECP521R1")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, library: Path, keys: Keys) -> Path:
    sb.runner()
    folder = sb.make_bundle(
        tmp_path_factory.mktemp("signed") / "demo", sb.packed_model(Values.INT8)
    )
    sign(folder, keys)
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Path:
    """A signed bundle of three small files that cannot be loaded."""
    sb.runner()
    folder = tmp_path_factory.mktemp("light")
    for name in ("model.onnx", "libonnxruntime.so", "libssmpress_ops.so"):
        (folder / name).write_bytes(name.encode())
    sb.remake_manifest(folder)
    sign(folder, keys)
    return folder


@pytest.fixture
def bundle(light: Path, tmp_path: Path) -> Path:
    return sb.twin(light, tmp_path / "bundle")


def test_a_signed_bundle_runs(signed: Path, keys: Keys) -> None:
    for command in (["verify"], ["info"], ["generate", "--prompt", "The", "--max-tokens", "2"]):
        words = [command[0], signed, *command[1:], "--verify-key", keys.public, "--json"]
        sb.reply(sb.ssmrun(*words))
    with sb.Worker(signed, "--verify-key", str(keys.public)) as worker:
        worker.ask("load", threads=1, cold=False, seed=0)
    model = open_bundle(signed, threads=1, verify_key=keys.public)
    assert list(model.stream("The", 2))


def statement(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change what was signed."""

    def edit(document: dict[str, Any]) -> None:
        envelope = document["dsseEnvelope"]
        content = json.loads(base64.b64decode(envelope["payload"]))
        change(content)
        envelope["payload"] = base64.b64encode(json.dumps(content).encode()).decode()

    return edited(edit)


def signatures(value: Any) -> Damage:
    return edited(lambda d: d["dsseEnvelope"].update(signatures=value))


DAMAGES: list[tuple[Damage, str]] = [
    (rewritten, "the signature holds, but not for this manifest.json"),
    (lambda folder: (folder / "model.sig").unlink(), "expected the bundle's signature; there is"),
    (replaced(""), "model.sig"),
    (replaced("[]"), "expected a signature of model_signing"),
    (replaced("{}"), "expected a signature of model_signing"),
    (replaced("[" * 100_000), "at most 100 levels"),
    (signatures([]), "expected a signature of model_signing"),
    (signatures([{"sig": "?"}]), "expected a signature of model_signing"),
    (signatures([{"sig": 3}]), "expected a signature of model_signing"),
    (signatures([{"sig": ""}]), "the signature is not by the key"),
    (signatures([{"sig": "AAAA"}]), "the signature is not by the key"),
    (edited(lambda d: d["dsseEnvelope"].update(payloadType="text")), "expected a signature of"),
    (statement(lambda s: s["predicate"]["resources"].clear()), "is not by the key"),
    (statement(lambda s: s.update(more=1)), "the signature is not by the key"),
]


COMMANDS = (
    ["verify"],
    ["info"],
    ["generate", "--prompt", "x"],
    ["bench"],
    ["eval", "x.jsonl"],
    ["worker"],
)


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_what_the_key_did_not_sign_is_refused(
    bundle: Path, keys: Keys, damage: Damage, message: str
) -> None:
    damage(bundle)
    for command in COMMANDS:
        words = [command[0], bundle, *command[1:], "--verify-key", keys.public]
        code, text = sb.failure(sb.ssmrun(*words))
        assert (code, message in text) == (6, True), text


def test_another_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    for curve in CURVES:
        other = make_keys(tmp_path / curve, curve)
        code, text = sb.failure(sb.ssmrun("verify", bundle, "--verify-key", other.public))
        assert (code, "the signature is not by the key of" in text) == (6, True)


@pytest.mark.parametrize("curve", CURVES[1:])
def test_every_curve_of_the_tool(bundle: Path, tmp_path: Path, curve: str) -> None:
    """The libraries are none, which is found once the signature holds."""
    keys = make_keys(tmp_path / "keys", curve)
    sign(bundle, keys)
    code, text = sb.failure(sb.ssmrun("verify", bundle, "--verify-key", keys.public))
    assert (code, "libssmpress_ops.so: expected a library" in text) == (7, True)


def test_a_signature_that_leaves_the_manifest_out(bundle: Path, keys: Keys) -> None:
    sign(bundle, keys, "--ignore-paths", str(bundle / "manifest.json"))
    code, text = sb.failure(sb.ssmrun("verify", bundle, "--verify-key", keys.public))
    assert (code, "but not for this manifest.json" in text) == (6, True)


@pytest.mark.parametrize("kind", ["text", "empty", "private", "ed25519", "rsa", "folder", "none"])
def test_a_key_that_signs_no_bundle(bundle: Path, keys: Keys, tmp_path: Path, kind: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    path = tmp_path / "key.pub"
    pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    if kind == "text":
        path.write_text("no key")
    elif kind == "empty":
        path.write_text("")
    elif kind == "private":
        path.write_bytes(keys.private.read_bytes())
    elif kind == "ed25519":
        path.write_bytes(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*pem))
    elif kind == "rsa":
        key = rsa.generate_private_key(65537, 1024)
        path.write_bytes(key.public_key().public_bytes(*pem))
    elif kind == "folder":
        path.mkdir()
    code, text = sb.failure(sb.ssmrun("verify", bundle, "--verify-key", path))
    assert code == 6
    assert text.startswith(f"{path}: ")


def test_without_openssl_it_says_so(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    """A file of that name that is no library stands before the system's."""
    for name in ("libcrypto.so.3", "libcrypto.so.1.1"):
        (tmp_path / name).write_bytes(b"")
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = sb.ssmrun("verify", bundle, "--verify-key", keys.public, environment=environment)
    code, text = sb.failure(done)
    assert (code, "expected OpenSSL's libcrypto 3 or 1.1 on this device" in text) == (7, True)


def test_a_library_in_the_bundle_is_no_openssl(bundle: Path, keys: Keys) -> None:
    """Nor where the caller stands in its folder."""
    (bundle / "libcrypto.so.3").write_bytes(b"no library")
    before = Path.cwd()
    try:
        os.chdir(bundle)
        code, text = sb.failure(sb.ssmrun("verify", ".", "--verify-key", keys.public))
    finally:
        os.chdir(before)
    assert (code, "expected no library in a bundle" in text) == (6, True)
