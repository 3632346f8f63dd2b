"""manifest.json: the sha256 of every file of a bundle, and of the manifest itself.

`manifest_sha256` is the hash of the manifest without that entry, in canonical form: JSON with
sorted keys, no whitespace, non-ASCII characters as they are, UTF-8.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Container, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from ssmpress._version import __version__
from ssmpress.errors import BadInputError
from ssmpress.files import read_json, sha256, write_json
from ssmpress.recipe.recipe import Recipe
from ssmpress.report.schema import json_types

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
_OWN_HASH = "manifest_sha256"
_LIBRARY = re.compile(r"\.so(\.|$)")
_LIBRARY_DEPTH = (
    5  # the deepest that a loader looks: tls/haswell/avx512_1/x86_64/NAME of older glibc
)
_PACKAGES = ("ssmpress", "onnxruntime", "onnx", "numpy", "torch", "tokenizers")


def write_manifest(
    folder: Path, files: Iterable[str], recipe: Recipe, extra: Mapping[str, Any] | None = None
) -> Path:
    """Hash the files of a bundle and write its manifest, last of all.

    Args:
        folder: the bundle. files: names relative to it, with `/`.
        recipe: saved with its seed. extra: further entries, for example the model's source.

    Returns:
        The manifest's path.

    Raises:
        BadInputError: a file is missing, or a name leads out of the folder.
    """
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "files": {name: _entry(folder, name) for name in sorted(files)},
        "versions": _versions(),
        "seed": recipe.seed,
        "recipe": recipe.to_dict(),
        **json_types(dict(extra or {})),
    }
    manifest[_OWN_HASH] = _canonical_sha256(manifest)
    write_json(folder / MANIFEST_NAME, manifest)
    return folder / MANIFEST_NAME


def seal_again(folder: Path, name: str) -> None:
    """Hash a file of a bundle that was rendered anew, and the manifest with it.

    Raises:
        BadInputError: the manifest cannot be read, or does not name the file.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if name not in manifest["files"]:
        raise BadInputError(f"{folder / MANIFEST_NAME}: expected an entry for {name}; it has none.")
    manifest["files"][name] = _entry(folder, name)
    manifest[_OWN_HASH] = _canonical_sha256(manifest)
    write_json(folder / MANIFEST_NAME, manifest)


def has_manifest(folder: Path) -> bool:
    """Whether the folder has a manifest of a bundle: other programs use the name too."""
    try:
        return _OWN_HASH in read_json(folder / MANIFEST_NAME)
    except BadInputError:
        return False


def verify_manifest(folder: str | Path, names: Container[str] | None = None) -> dict[str, Any]:
    """Check a bundle against its manifest; other files in the folder are not looked at.

    Args:
        names: only these of the files it lists; None is all of them.

    Returns:
        The manifest.

    Raises:
        BadInputError: the manifest is damaged, or a file is missing, changed, or outside.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    manifest = read_json(path)
    if manifest.get("manifest_version") != MANIFEST_VERSION:
        raise BadInputError(
            f"{path}: expected manifest_version {MANIFEST_VERSION}; got "
            f"{manifest.get('manifest_version')!r}. Another version of ssmpress wrote it."
        )
    if manifest.get(_OWN_HASH) != _canonical_sha256(manifest):
        raise BadInputError(f"{path}: {_OWN_HASH} does not fit: the manifest was changed.")
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise BadInputError(f"{path}: expected files with their hashes; there are none.")
    for name, expected in files.items():
        if names is not None and name not in names:
            continue
        entry = _entry(folder, name)
        if entry != expected:
            raise BadInputError(
                f"{folder / name}: expected {_described(expected)}; got {_described(entry)}. "
                "The file was changed after the bundle was made: make or copy it again."
            )
    return manifest


def refuse_unlisted_libraries(folder: Path, files: Container[str]) -> None:
    """Libraries that the manifest does not list: ONNX Runtime's is told to look for what it needs
    in its own folder first, and the loader looks in folders in it too (glibc-hwcaps).

    Args:
        files: the manifest's names.

    Raises:
        BadInputError: there is one.
    """
    for depth in range(1, _LIBRARY_DEPTH + 1):
        for path in sorted(folder.glob("/".join("*" * depth))):
            name = path.relative_to(folder).as_posix()
            if _LIBRARY.search(path.name) and name not in files and not path.is_dir():
                raise BadInputError(
                    f"{path}: expected no library in a bundle that its manifest does not list. "
                    "Remove it, or copy the bundle again."
                )


def _entry(folder: Path, name: str) -> dict[str, Any]:
    path = _inside(folder, name)
    try:
        return {"bytes": path.stat().st_size, "sha256": sha256(path)}
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}.") from error


def _inside(folder: Path, name: str) -> Path:
    """The file of that name, if it is a regular one inside the folder, links followed."""
    pure = PurePosixPath(name)
    parts_ok = name == str(pure) and not pure.is_absolute() and ".." not in pure.parts
    if not parts_ok or not pure.parts or "\\" in name or "\0" in name or name == MANIFEST_NAME:
        raise BadInputError(f"{folder}: {name!r} is not a name of a file inside the bundle.")
    path = folder / pure
    if not path.is_file():
        raise BadInputError(f"{path}: the manifest names it, but there is no such file.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInputError(f"{path}: expected a file inside the bundle; it is a link out of it.")
    return path


def _canonical_sha256(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != _OWN_HASH}
    text = json.dumps(
        rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _described(entry: Any) -> str:
    if not isinstance(entry, dict):
        return repr(entry)
    return f"{entry.get('bytes')} bytes, sha256 {str(entry.get('sha256'))[:12]}..."


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**versions, "ssmpress": __version__}
