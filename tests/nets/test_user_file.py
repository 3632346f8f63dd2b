"""A user's file: what it may do, that each load is anew, and what its errors say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssmpress.errors import BadInputError
from ssmpress.nets.network import Network
from ssmpress.nets.user_file import build_module, file_and_name, load_network

REST = """
    inputs={"x": torch.zeros(1, 5, 8)},
    samples=lambda split: [(torch.zeros(1, 5, 8), torch.zeros(1, 5, 8))],
    loss=lambda outputs, target: (outputs - target).square().mean(),
    metric=lambda outputs, target: 0.0,
)
"""
NET = "import torch\nfrom ssmpress import Network\n"
GOOD = f"{NET}from mamba_ssm import Mamba\nnet = Network(build=lambda: Mamba(8),{REST}"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of this text, and returns its path."""

    def written(text: str | bytes, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


def refusal(path: Path, name: str = "net") -> str:
    with pytest.raises(BadInputError) as caught:
        load_network(path, name).build()
    return str(caught.value)


def test_a_file_with_stand_ins_makes_a_network(write: Write) -> None:
    network = load_network(write(GOOD))
    module = network.build()
    assert not module.training
    assert network.call(module, network.inputs).shape == (1, 5, 8)
    assert "mamba_ssm" not in sys.modules


def test_build_may_import_late(write: Write) -> None:
    """What it imports, from mamba_ssm and from beside the file, is there when build is called."""
    write("WIDTH = 8", "sizes.py")
    text = f"""{NET}
def build():
    from mamba_ssm.modules.mamba_simple import Mamba
    from sizes import WIDTH
    return Mamba(WIDTH)

net = Network(build=build,{REST}"""
    assert load_network(write(text)).build().d_model == 8


def test_each_load_runs_the_file_and_its_neighbours_anew(write: Write) -> None:
    write("WIDTH = 8", "sizes_of_mine.py")
    text = GOOD.replace("net =", "from sizes_of_mine import WIDTH\nnet =").replace("(8)", "(WIDTH)")
    path = write(text)
    first = load_network(path)
    write("WIDTH = 9", "sizes_of_mine.py")
    assert load_network(path).build().d_model == 9
    assert first.build().d_model == 8
    assert str(path.parent) not in sys.path


def test_a_neighbour_has_the_name_of_its_own_folder(write: Write) -> None:
    for folder, width in (("one", 8), ("two", 9)):
        write(f"WIDTH = {width}", f"{folder}/sizes_of_all.py")
        text = GOOD.replace("(8)", "(sizes_of_all.WIDTH)")
        path = write("import sizes_of_all\n" + text, f"{folder}/mine.py")
        assert load_network(path).build().d_model == width


def test_an_environment_in_the_folder_is_not_imported_twice(write: Write) -> None:
    inner = write("", "x").parent / "env" / "site-packages" / "once_only"
    inner.mkdir(parents=True)
    (inner / "__init__.py").touch()
    path = write(f"import sys\nsys.path.append({str(inner.parent)!r})\nimport once_only\n{GOOD}")
    try:
        load_network(path)
        before = sys.modules["once_only"]
        load_network(path)
        assert sys.modules["once_only"] is before
    finally:
        sys.modules.pop("once_only")
        sys.path[:] = [p for p in sys.path if p != str(inner.parent)]


def test_dataclasses_with_annotations_as_text(write: Write) -> None:
    """These look their module up while they are made."""
    sizes = "@dataclasses.dataclass\nclass Sizes:\n    width: int = 8\n"
    head = f"from __future__ import annotations\nimport dataclasses\n{sizes}"
    path = write(head + GOOD.replace("(8)", "(Sizes().width)"))
    assert load_network(path).build().d_model == 8


def test_a_main_part_does_not_run(write: Write) -> None:
    load_network(write(GOOD + "\nif __name__ == '__main__':\n    raise SystemExit(1)\n"))


def test_always_is_instead_of_a_package_that_is_there(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    write("Mamba = 5", "mamba_ssm/__init__.py")
    monkeypatch.syspath_prepend(write(GOOD).parent)
    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    path = write(f"{GOOD}\nkind = str(Mamba)\n")
    try:
        with pytest.raises(BadInputError, match="'int' object is not callable"):
            load_network(path).build()
        assert load_network(path, always=True).build().d_model == 8
    finally:
        sys.modules.pop("mamba_ssm", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine.py", (Path("mine.py"), "net")),
        ("a/mine.py:small", (Path("a/mine.py"), "small")),
        (r"C:\nets\mine.py:small", (Path(r"C:\nets\mine.py"), "small")),
        (r"C:\nets\mine.py", (Path(r"C:\nets\mine.py"), "net")),
    ],
)
def test_file_and_name(text: str, expected: tuple[Path, str]) -> None:
    assert file_and_name(text) == expected


def test_a_file_with_a_colon_in_its_name(write: Write) -> None:
    path = write(GOOD, "mine:small")
    assert file_and_name(str(path)) == (path, "net")


# ---- errors ----


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "nothing.py"
    assert refusal(path) == (
        f"{path}: expected a Python file that makes an ssmpress.Network; got: No such file or "
        "directory."
    )


def test_no_python(write: Write) -> None:
    path = write("import torch\nnet = (\n")
    assert refusal(path) == (
        f"{path}:2: expected a Python file that makes an ssmpress.Network; it cannot be read as "
        "Python: '(' was never closed."
    )
    assert "it cannot be read as Python" in refusal(write(b"PK\x03\x04\0\0\xff", "best.ckpt"))


def test_an_exception_is_told_with_its_line(write: Write) -> None:
    path = write("import torch\nwidth = 8\nnets = widht\n")
    assert refusal(path) == (
        f"Network: mine.py failed at {path}:3: NameError: name 'widht' is not defined."
    )


def test_a_folder_named_lib_is_the_users_too(write: Write) -> None:
    path = write("1 / 0", "lib/mine.py")
    assert f"failed at {path}:1: ZeroDivisionError" in refusal(path)


def test_an_exception_in_a_package_is_told_with_the_users_line(write: Write) -> None:
    path = write("import json\njson.loads('{')\n")
    assert f"failed at {path}:2: JSONDecodeError" in refusal(path)


def test_an_exception_beside_the_file_is_told_with_its_own_line(write: Write) -> None:
    beside = write("\n\n1 / 0", "neighbour.py")
    path = write("import neighbour\n")
    assert f"Network: mine.py failed at {beside}:3: ZeroDivisionError" in refusal(path)


def test_a_field_that_is_wrong_is_told_with_its_line(write: Write) -> None:
    path = write(GOOD.replace("inputs=", "dynamic={'y': {0: 'batch'}},\ninputs="))
    assert f"{path}:4: Network: dynamic: expected one of the inputs x; got 'y'." in refusal(path)


def test_a_program_that_ends_itself(write: Write) -> None:
    text = "import argparse\nargparse.ArgumentParser().error('no arguments')\n"
    path = write(text)
    assert f"Network: mine.py ended the program at {path}:2 (exit code 2). A file" in refusal(path)


def test_no_network_of_the_name(write: Write) -> None:
    path = write(GOOD.replace("net =", "nett ="))
    assert refusal(path) == (
        f"{path}: expected net = ssmpress.Network(...) in it; got no net. It has nett: give "
        f"{path}:nett."
    )
    path = write(f"{NET}small_one = 5\n")
    message = refusal(path, "small_on")
    assert message.endswith("got no small_on. Did you mean small_one?")


def test_no_network_under_the_name(write: Write) -> None:
    path = write("import torch\nnet = torch.nn.Linear(2, 2)\n")
    assert refusal(path) == (
        f"{path}: net: expected an ssmpress.Network; got Linear. Say what is to be known of it: "
        "net = ssmpress.Network(build=...)."
    )


def built(write: Write, body: str) -> Path:
    return write(f"{NET}def build():\n    {body}\nnet = Network(build=build,{REST}")


def test_build_that_returns_no_module(write: Write) -> None:
    assert refusal(built(write, "return 5")) == (
        "Network: build: expected a torch.nn.Module; got int. Return the module itself: "
        "build=lambda: MyNet()."
    )


def test_build_that_fails(write: Write) -> None:
    path = built(write, "return torch.nn.Linear('a', 2)")
    assert f"Network: build failed at {path}:4: TypeError" in refusal(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_build_that_needs_a_gpu(write: Write) -> None:
    path = built(write, "return torch.nn.Linear(2, 2).cuda()")
    message = refusal(path)
    assert message.startswith(f"Network: build failed at {path}:4: ")
    assert message.endswith('leave out .cuda() and device="cuda", and what needs a GPU.')


def test_a_package_that_is_not_there(write: Write) -> None:
    path = built(write, "import timm_of_tomorrow")
    assert refusal(path).endswith(
        f"{path}:4: ModuleNotFoundError: No module named 'timm_of_tomorrow'. Install what has "
        "timm_of_tomorrow, beside ssmpress."
    )


@pytest.mark.parametrize("line", ["import mamba_ssm.modules.mha", "from mamba_ssm import Mamba9"])
def test_what_no_stand_in_has(write: Write, line: str) -> None:
    message = refusal(built(write, line))
    assert "ssmpress stands in for mamba_ssm, with mamba_ssm, mamba_ssm.modules," in message
    assert message.endswith("import from these, or define what you need in your own file.")


def test_what_a_stand_in_refuses_is_told_with_the_users_line(write: Write) -> None:
    body = "from mamba_ssm import Mamba; return Mamba(8, bimamba_type='v9')"
    path = built(write, body)
    assert refusal(path).startswith(f"{path}:4: Mamba: bimamba_type: expected none, v1, v2, v3")


def test_a_network_made_without_a_file_finds_stand_ins_too() -> None:
    def build() -> torch.nn.Module:
        from mamba_ssm import Mamba

        return Mamba(8)

    network = Network(
        build=build,
        inputs={"x": torch.zeros(1, 5, 8)},
        samples=lambda split: [],
        loss=lambda outputs, target: outputs.mean(),
        metric=lambda outputs, target: 0.0,
    )
    assert build_module(network).d_model == 8


def test_what_reads_names_needs_no_torch() -> None:
    """`--net FILE:NAME` is read long before torch is needed."""
    code = "import sys; from ssmpress.nets import user_file; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_a_module_that_is_quantised_already_is_refused(tmp_path: Path) -> None:
    code = "import torch\nfrom torch import nn\n"
    lazy = f"{code}def build():\n    from torch.ao.nn.quantized.dynamic import Linear\n"
    (tmp_path / "n.py").write_text(
        f"{lazy}    return nn.Sequential(Linear(4, 2))\n"
        "import ssmpress\nnet = ssmpress.Network(build=build, inputs={'x': torch.zeros(1, 4)}, "
        "samples=list, loss=max, metric=max)\n"
    )
    with pytest.raises(BadInputError, match="build: 0: expected a module with weights in floats;"):
        load_network(tmp_path / "n.py").build()
