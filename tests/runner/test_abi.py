"""The slot numbers of ONNX Runtime's C ABI against its public header, where there is one.

No Python package carries the header: ONNXRUNTIME_C_API_H may name it, and Debian's
libonnxruntime-dev installs it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from paths import ROOT

INSTALLED = (
    "/usr/include/onnxruntime/onnxruntime_c_api.h",
    "/usr/include/onnxruntime/core/session/onnxruntime_c_api.h",
    "/usr/local/include/onnxruntime/onnxruntime_c_api.h",
)
ABI_HEADERS = ("ops/ort_abi.h", "runner/model/onnx_runtime_abi.h")
OTHER_NAMES = {
    "CreateTensorWithData": "CreateTensorWithDataAsOrtValue",
    "GetAttributeInt64": "KernelInfoGetAttribute_int64",
    "GetConstantInput": "KernelInfoGetConstantInput_tensor",
    "GetInput": "KernelContext_GetInput",
    "GetOutput": "KernelContext_GetOutput",
    "ModelMetadataLookup": "ModelMetadataLookupCustomMetadataMap",
    "ParallelFor": "KernelContext_ParallelFor",
    "CustomOpDomainAdd": "CustomOpDomain_Add",
    "ReleaseTensorInfo": "ReleaseTensorTypeAndShapeInfo",
}
"""Ours -> the header's, where they differ."""


def header_slots(text: str) -> list[str]:
    """Names of OrtApi's members in their order."""
    body = text[text.index("struct OrtApi {") :]
    body = body[: body.index("\n};")]
    body = re.sub(r"/\*.*?\*/|//[^\n]*", "", body, flags=re.DOTALL)
    member = re.compile(
        r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE2?\(\s*(\w+)\s*\)|\(\s*ORT_API_CALL\s*\*\s*(\w+)\)"
    )
    return [m[1] or (f"Release{m[2]}" if m[2] else m[3]) for m in member.finditer(body)]


def our_slots() -> dict[str, int]:
    found = {}
    for name in ABI_HEADERS:
        text = (ROOT / "runtimes" / name).read_text()
        for slot, declared in re.findall(r"Slot<(\d+),[^;]*?>\s*k(\w+);", text):
            found[declared] = int(slot)
    return found


def test_every_slot_is_found() -> None:
    text = "".join((ROOT / "runtimes" / name).read_text() for name in ABI_HEADERS)
    assert len(our_slots()) == len(re.findall(r"inline constexpr Slot<", text)) > 40


def test_slots_are_the_headers() -> None:
    named = os.environ.get("ONNXRUNTIME_C_API_H")
    paths = [Path(p) for p in ([named] if named else INSTALLED) if Path(p).is_file()]
    if not paths:
        pytest.skip("onnxruntime_c_api.h is not here; ONNXRUNTIME_C_API_H may name it")
    slots = header_slots(paths[0].read_text())
    for name, slot in our_slots().items():
        assert slots[slot] == OTHER_NAMES.get(name, name), name
