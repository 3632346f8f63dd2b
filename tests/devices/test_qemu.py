"""The arm64 bundle under QEMU: the same numbers as here, on every processor; instruction counts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssmpress.bundle.manifest import verify_manifest
from ssmpress.bundle.runtime_library import RUNTIME_NAME
from ssmpress.devices import emulate
from ssmpress.devices.check import check
from ssmpress.devices.elf_symbols import read_functions
from ssmpress.devices.qemu import (
    Emulator,
    find_sysroot,
    get_counter_path,
    get_symbols_path,
    lacking,
)
from ssmpress.errors import BadInputError, DeviceError, ParityError
from ssmpress.formats import Values
from ssmpress.machine import RUNNER_NAME, get_library_path, get_runner_path
from ssmpress.measure.worker_process import WorkerProcess
from ssmpress.recipe.settings.deploy import Target
from target_bundle import DEMO, Made, make_bundle, require_emulator


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    require_emulator()


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_bundle(tmp_path_factory.mktemp("arm64") / "int8", Target.ARM64, Values.INT8)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_bundle(tmp_path_factory.mktemp("arm64") / "fp32", Target.ARM64, Values.FP32)


def checked(made: Made, cpu: str) -> tuple[float, float, str]:
    """Largest difference, that of the perplexity, and the kernels in use."""
    with Emulator(made.machine, cpu) as qemu:
        command = qemu.command([made.files.folder / RUNNER_NAME, "worker", made.files.folder])
        with WorkerProcess(cpu, emulate.REPLY_S, command) as worker:
            loaded = worker.ask({"do": "load", "threads": 1, "cold": False, "seed": 0})
            parity, sample = check(worker, made.expected, cpu, lambda file: {})
    return parity.max_rel, sample.difference, loaded["ops_isa"]


def test_float_bundle_computes_the_same_on_arm64(fp32: Made) -> None:
    difference, perplexity, _ = checked(fp32, "cortex-a72")
    assert difference <= 1e-4
    assert perplexity <= 1e-4


def test_int8_bundle_keeps_its_perplexity_on_arm64(int8: Made) -> None:
    _, perplexity, isa = checked(int8, "cortex-a53")
    assert perplexity <= 1e-3
    assert isa == "neon"


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "neoverse-n1", "max"])
def test_every_processor_computes_the_same(int8: Made, fp32: Made, cpu: str) -> None:
    assert checked(fp32, cpu)[0] <= 1e-4
    _, perplexity, isa = checked(int8, cpu)
    assert perplexity <= 1e-3
    assert isa == "neon" if cpu == "cortex-a72" else isa != "neon"


def with_reference(made: Made, **changes: Any) -> Made:
    """The bundle, with a host that computed something else."""
    reference = dataclasses.replace(made.expected.reference, **changes)
    return dataclasses.replace(
        made, expected=dataclasses.replace(made.expected, reference=reference)
    )


def test_another_result_is_refused_by_name(int8: Made) -> None:
    """The host's result of layer 2 is made another one: as if the device had computed otherwise."""
    wrong = {**int8.expected.reference.outputs}
    wrong["scan_state.2"] = wrong["scan_state.2"] + 1
    made = with_reference(int8, outputs=wrong)
    with pytest.raises(ParityError, match=r"cortex-a76 computes something else.*scan_state\.2"):
        checked(made, "cortex-a76")


def test_another_perplexity_is_refused(int8: Made) -> None:
    quality = int8.expected.reference.quality
    nll = tuple(value + 0.01 * 63 for value in quality.scores)
    made = with_reference(int8, quality=dataclasses.replace(quality, window_nll=nll))
    with pytest.raises(ParityError, match=r"expected a perplexity within 0\.\d+% of this host's"):
        checked(made, "cortex-a76")


def test_instructions_are_counted_by_part(int8: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulate, "COUNTED_TOKENS", (1, 3, 5))
    ticks: list[int] = []
    result = emulate.validate_emulated(
        "qemu",
        int8.machine,
        "cortex-a76",
        int8.files.folder,
        int8.files.dense,
        int8.expected,
        lambda: ticks.append(1),
    )
    assert len(ticks) == emulate.steps(2)
    assert result.measurements == {}
    assert "emulator's wall time" in result.not_measured
    assert result.not_counted == ""
    dense, compressed = result.instructions["dense"], result.instructions["compressed"]
    for found in (dense, compressed):
        assert len(found.total) == 2
        for total, *parts in zip(
            found.total, found.matrix_products, found.scan, found.rest, strict=True
        ):
            assert total == pytest.approx(sum(parts))
    # The recurrence is the same in both; of the products 70 % of the weights are gone.
    assert compressed.scan == dense.scan
    assert compressed.matrix_products[0] < 0.6 * dense.matrix_products[0]
    assert compressed.matrix_products[0] == pytest.approx(compressed.matrix_products[1], rel=1e-3)
    assert max(dense.total) / min(dense.total) < 1.1


def test_what_loading_took_less_is_not_counted_below_zero() -> None:
    counts = [
        {"matrix": 100, "scan": 40, "rest": 9000},
        {"matrix": 300, "scan": 60, "rest": 8000},  # this process loaded in fewer
        {"matrix": 400, "scan": 70, "rest": 8500},
    ]
    assert emulate.per_unit(counts, (1, 3, 4)) == [
        {"matrix": 100.0, "scan": 10.0, "rest": 0.0},
        {"matrix": 100.0, "scan": 10.0, "rest": 500.0},
    ]


class Flooding:
    """In an emulator's place: whatever is run prints without end."""

    def command(self, words: object) -> list[str]:
        return ["yes"]


def test_an_evaluation_that_prints_without_end_is_one_sentence(tmp_path: Path) -> None:
    emulator: Any = Flooding()
    with pytest.raises(DeviceError, match="qemu: its answer is longer than 16,777,216 bytes"):
        emulate._run_eval("qemu", emulator, tmp_path, tmp_path / "x.npy")


def test_counts_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_text("12 1f /lib/a b.so\n30 - \n")
    with pytest.raises(DeviceError, match="expected QEMU's instruction counts"):
        emulate.read_counts(path)
    path.write_text("12 1f /lib/a b.so\n30 20 -\ntotal 42\n")
    assert emulate.read_counts(path) == [(12, 31, "/lib/a b.so"), (30, 32, "-")]


def test_the_plugin_names_the_file_of_the_code(tmp_path: Path) -> None:
    """Twice the same program: as many instructions, most of them in files that exist."""
    totals = []
    for name in ("first", "second"):
        with Emulator("aarch64", "cortex-a76") as qemu:
            command = qemu.command([get_runner_path("aarch64"), "--help"], tmp_path / name)
            subprocess.run(command, check=True, capture_output=True)
        rows = emulate.read_counts(tmp_path / name)
        totals.append(sum(count for count, _, _ in rows))
        assert {Path(file).name for _, _, file in rows} >= {"ssmrun", "libc.so.6"}
    assert totals[0] == pytest.approx(totals[1], rel=0.01)


def test_functions_of_the_op_library_have_names() -> None:
    library = get_library_path("aarch64")
    functions = read_functions(library, get_symbols_path("aarch64"))
    names = " ".join(functions.names).lower()
    assert all(part in names for part in ("selectivescan", "causalconv1d", "linear"))
    middle = len(functions.starts) // 2
    assert functions.at(functions.starts[middle]) == functions.names[middle]
    assert functions.at(0) is None


def test_symbols_of_other_code_are_refused(tmp_path: Path) -> None:
    library, symbols = get_library_path("aarch64"), get_symbols_path("aarch64")
    with pytest.raises(BadInputError, match="expected the same code"):
        read_functions(get_counter_path(), symbols)
    data = symbols.read_bytes()
    for size in (0, 5, 40, 63, 300, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.so").write_bytes(data[:size])
        with pytest.raises(BadInputError):
            read_functions(library, tmp_path / "cut.so")


def test_without_a_sysroot_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path))
    assert find_sysroot() is None
    with pytest.raises(DeviceError) as error:
        Emulator("aarch64", "max")
    assert f"expected lib/ld-linux-aarch64.so.1 of aarch64 in {tmp_path}" in str(error.value)
    assert str(error.value).endswith("sudo apt install libstdc++6-arm64-cross")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/ld-linux-aarch64.so.1").touch()
    needed = "libc.so.6 and libgcc_s.so.1 and libstdc++.so.6 of aarch64 in "
    assert lacking("aarch64").startswith(needed)
    for name in ("libc.so.6", "libgcc_s.so.1", "libstdc++.so.6"):
        (tmp_path / "lib" / name).touch()
    assert find_sysroot() == tmp_path and lacking("aarch64") == ""


@pytest.mark.slow
def test_the_command_ends_in_a_bundle_and_evidence(tmp_path: Path) -> None:
    """`compress model.pt --sparsity 0.7 --target arm64`, nothing else."""
    for name, source in (("model.pt", "pytorch_model.bin"), ("tokenizer.json", "tokenizer.json")):
        (tmp_path / name).symlink_to(DEMO / source)
    code = "from ssmpress.cli.compress import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "model.pt", "--sparsity", "0.7", "--target", "arm64"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "model-s70-arm64"
    names = set(verify_manifest(bundle)["files"])
    assert {"ssmrun", RUNTIME_NAME, "libssmpress_ops.so", "README.md", "model.onnx"} <= names
    report = json.loads((bundle / "report.json").read_text())
    assert report["target"]["validated"] == "emulated"
    assert report["latency"] is None
    (device,) = report["devices"]
    assert device["parity"]["ok"]
    assert device["sample"]["difference"] <= 1e-3
    assert device["instructions"]["ratio"]["matrix_products"] > 1
    assert "not measured" in (bundle / "report.md").read_text()
