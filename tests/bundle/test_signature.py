"""Who made a bundle: a manifest and a file that were rewritten together are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import example_report as example
import ssmrun_bundle as sb
from blocked_imports import python
from signing import Damage, Keys, edited, make_keys, replaced, rewritten, sign
from ssmpress.bundle.out_folder import check_out
from ssmpress.bundle.signature import verify_signature
from ssmpress.bundle.text_model import open_bundle
from ssmpress.cli import gate as gate_cli
from ssmpress.errors import BadInputError
from ssmpress.files import write_json


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Path:
    """A bundle that cannot be loaded: whatever is tested here comes before."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "model.onnx").write_bytes(b"a model")
    (folder / "libssmpress_ops.so").write_bytes(b"a library")
    write_json(folder / "report.json", example.report())
    sb.remake_manifest(folder)
    sign(folder, keys)
    return folder


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    return sb.twin(signed, tmp_path / "bundle")


def by_another_key(folder: Path, keys: Keys) -> None:
    sign(folder, make_keys(folder.parent / "other"))


def without_manifest(folder: Path, keys: Keys) -> None:
    """A signature by the right key, over anything but the manifest."""
    sign(folder, keys, "--ignore-paths", str(folder / "manifest.json"))


DAMAGES: list[tuple[Damage, str]] = [
    (rewritten, "the signature is not by the key of .* for this bundle"),
    (by_another_key, "the signature is not by the key of"),
    (without_manifest, "expected a signature that covers manifest.json"),
    (lambda folder, keys: (folder / "model.sig").unlink(), "expected the bundle's signature"),
    (replaced("[]"), "expected a JSON object"),
    (replaced("{}"), "the signature is not by the key"),
    (replaced("[" * 100_000), "expected a JSON object"),
    (edited(lambda d: d["dsseEnvelope"].update(payload="e30=")), "the signature is not by the"),
    (edited(lambda d: d.pop("dsseEnvelope")), "the signature is not by the key"),
]


def test_a_signed_bundle_holds_also_under_another_name(bundle: Path, keys: Keys) -> None:
    verify_signature(bundle, keys.public)
    moved = bundle.rename(bundle.with_name("moved"))
    verify_signature(moved, keys.public)
    (moved / "notes.txt").write_text("beside it")
    verify_signature(moved, keys.public)


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_what_the_key_did_not_sign_is_refused(
    bundle: Path, keys: Keys, damage: Damage, message: str
) -> None:
    damage(bundle, keys)
    with pytest.raises(BadInputError, match=message) as caught:
        verify_signature(bundle, keys.public)
    assert caught.value.exit_code == 6
    with pytest.raises(BadInputError, match=message):
        open_bundle(bundle, threads=1, verify_key=keys.public)


@pytest.mark.parametrize("content", ["", "no key", "x" * 100_000])
def test_a_key_that_is_none(bundle: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "none.pub").write_text(content)
    for path in (tmp_path / "none.pub", tmp_path / "gone.pub"):
        with pytest.raises(BadInputError, match="expected a public key in PEM"):
            verify_signature(bundle, path)


def test_the_gate_judges_what_was_signed(
    bundle: Path, keys: Keys, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(*arguments: object) -> object:
        words = ["ssmpress-gate", *map(str, arguments), "--min-retention", "0.5"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            gate_cli.main()
        return stopped.value.code

    asked = ("--verify-key", keys.public)
    assert code(bundle, *asked) == code(bundle / "report.json", *asked) == 0
    write_json(bundle / "another.json", example.report())
    assert code(bundle / "another.json", *asked) == 6
    assert "expected the report.json of a bundle" in capfd.readouterr().err
    write_json(bundle / "report.json", example.report(compressed=30.0))
    rewritten(bundle)
    assert code(bundle) == 0
    assert code(bundle, *asked) == 6
    assert "the signature is not by the key" in capfd.readouterr().err


def test_without_the_tool_it_says_what_to_install(bundle: Path, keys: Keys) -> None:
    code = (
        "from ssmpress.bundle.signature import verify_signature\n"
        f"verify_signature({str(bundle)!r}, {str(keys.public)!r})"
    )
    done = python(code, blocked=("model_signing",))
    assert "UsageError: checking a signature needs model-signing" in done.stderr
    assert "pip install 'ssmpress[signing]'" in done.stderr


def test_a_signed_bundle_may_be_replaced(bundle: Path) -> None:
    check_out(bundle)
