"""A new layout is one new file and a line in three others: it is added to a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ssmpress
from extending import package_files

LAYOUT = '''
from dataclasses import dataclass

import numpy as np

from ssmpress.formats import Format, Structure, Values
from ssmpress.pack.layout import bytes_of


@dataclass(frozen=True)
class Turned:
    """Column after column."""

    format = Format(Structure.TURNED, Values.FP32)
    whole = True
    sentence = "every weight is stored, column after column"
    onnx_matrix = "    weight = Transpose <perm = [1, 0]> (turned)\\n"
    onnx_rows = ""

    def shapes(self, rows, columns, sections):
        return {"turned": (np.dtype(np.float32), (columns, rows))}

    def pack(self, weight, keep_mask):
        return {"turned": np.ascontiguousarray(weight.T)}

    def unpack(self, sections, rows, columns):
        return sections["turned"].T.copy()

    def kept(self, sections, rows, columns):
        return np.ones((rows, columns), bool)

    def problem(self, sections, rows, columns, stored):
        return None

    def predicted_bytes(self, rows, columns, stored):
        return bytes_of(self.shapes(rows, columns, {}))
'''
LINES = {
    "formats.py": ('    WINDOW = "window"\n', '    TURNED = "turned"\n'),
    "pack/layouts/__init__.py": (
        "    WindowInt8(),\n",
        "    __import__('ssmpress.pack.layouts.turned', fromlist=['Turned']).Turned(),\n",
    ),
    "pack/costs.py": ('    "dense-fp32": (0.334,) * 5,\n', '    "turned-fp32": (9.9,) * 5,\n'),
}
"""File -> the line that the new one stands after, and the new one."""

USE = """
import numpy as np, onnxruntime
from onnx import helper, numpy_helper, TensorProto
from ssmpress.formats import Format, Structure, Values
from ssmpress.graph import fallback, ops
from ssmpress.pack.choose import choose_format
from ssmpress.pack.layouts import sections_of
from ssmpress.pack.matrix import check, pack, unpack

weight = np.arange(15, dtype=np.float32).reshape(3, 5)
turned = Format(Structure.TURNED, Values.FP32)
packed = pack(weight, weight > 0, turned)
check(packed)
np.testing.assert_array_equal(unpack(packed), weight)
choose_format(3, 5, 15, Values.FP32)
op = ops.LINEAR[turned]
node = helper.make_node(op.name, ["x", *sections_of(turned)], ["y"], domain=ops.DOMAIN,
                        columns=5, format_version=1)
graph = helper.make_graph(
    [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    [numpy_helper.from_array(a, n) for n, a in packed.sections.items()])
model = helper.make_model(graph, functions=[fallback.function(op.name)], ir_version=10,
    opset_imports=[helper.make_opsetid("", ops.ONNX_OPSET), helper.make_opsetid(ops.DOMAIN, 1)])
session = onnxruntime.InferenceSession(model.SerializeToString())
x = np.ones((1, 5), np.float32)
np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ weight.T)
print("done")
"""


def test_a_new_layout_is_one_file_and_three_lines(tmp_path: Path) -> None:
    assert {"pack/layouts/NAME.py", *LINES} == package_files("A layout of packed matrices")
    package = tmp_path / "ssmpress"
    shutil.copytree(
        Path(ssmpress.__file__).parent, package, ignore=shutil.ignore_patterns("lib", "__pycache__")
    )
    (package / "pack" / "layouts" / "turned.py").write_text(LAYOUT)
    for name, (before, line) in LINES.items():
        text = (package / name).read_text()
        assert text.count(before) == 1, name
        (package / name).write_text(text.replace(before, before + line))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", USE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
