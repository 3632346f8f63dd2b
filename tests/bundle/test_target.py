"""--target and --device: what is refused before any training, what lies in the bundle, and what the
report says of it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

import example_report as example
from report_schema import SCHEMA, undescribed
from ssmpress.bundle import runtime_library
from ssmpress.bundle.files import run_it, write_archive, write_runtime_files
from ssmpress.bundle.manifest import verify_manifest
from ssmpress.bundle.runtime_library import find_runtime_library
from ssmpress.devices import boards, plan, qemu
from ssmpress.errors import BadInputError, DeviceError, UsageError
from ssmpress.files import sha256
from ssmpress.formats import Values
from ssmpress.gate.judge import judge
from ssmpress.machine import host_machine
from ssmpress.measure.metrics import parity
from ssmpress.recipe.address import CPUS, DEFAULT_CPU, parse_device
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.recipe.settings.gate import GateSettings
from ssmpress.report.html import render_html
from ssmpress.report.markdown import render_markdown
from ssmpress.report.tables import command
from ssmpress.report.terminal import print_report
from ssmpress.results.devices import DeviceResult, Instructions, Sample, TargetResult
from ssmpress.results.report import EMULATED, EMULATED_TIME, REAL
from target_bundle import Made, make_bundle

ELF = {"aarch64": 183, "x86_64": 62}


def elf(machine: str) -> bytes:
    """As much of an ELF file as says which machine it is for."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0" + bytes([ELF[machine], 0]) + bytes(100)


def wheel(
    folder: Path, content: bytes, name: str = "libonnxruntime.so.9.8.7", recorded: str | None = None
) -> Path:
    """recorded: the RECORD's line of the library; None is the right one."""
    path = folder / "onnxruntime-9.8.7-cp311-cp311-manylinux_2_28_aarch64.whl"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    line = f"onnxruntime/capi/{name},sha256={digest},{len(content)}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"onnxruntime/capi/{name}", content)
        if recorded != "":
            archive.writestr(
                "onnxruntime-9.8.7.dist-info/RECORD", f"other.py,,\n{recorded or line}\n"
            )
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_bundle(tmp_path_factory.mktemp("host") / "toy-s70", Target.HOST, Values.INT8)


# --device


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("qemu", {"kind": "qemu", "cpu": DEFAULT_CPU}),
        ("qemu:max", {"kind": "qemu", "cpu": "max"}),
        ("ssh://pi.local", {"kind": "ssh", "host": "pi.local", "port": None, "path": None}),
        ("ssh://me@10.0.0.7:2222", {"user": "me", "host": "10.0.0.7", "port": 2222}),
        ("ssh://me@[fe80::1%eth0]:22/mnt/x", {"host": "fe80::1%eth0", "path": "/mnt/x"}),
        ("adb:0123ABCD", {"kind": "adb", "serial": "0123ABCD"}),
    ],
)
def test_devices_are_taken_apart(text: str, parts: dict[str, Any]) -> None:
    found = parse_device(text)
    assert {name: getattr(found, name) for name in parts} == parts
    assert found.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pi",
        "ssh://",
        "ssh://-oProxyCommand=touch%20x",
        "ssh://a@-h",
        "ssh://me@h:0",
        "ssh://h:99999",
        "ssh://h/../x",
        "ssh://h/a b",
        "ssh://h/$(x)",
        "ssh://h;x",
        "qemu:6502",
        "adb:",
        "adb:-s",
        "http://h",
    ],
)
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        DeploySettings(device=(text,))


def test_a_device_is_given_once() -> None:
    with pytest.raises(UsageError, match="--device: expected each once"):
        DeploySettings(device=("qemu", "qemu"))


def recipe(**deploy_settings: Any) -> Any:
    target = deploy_settings.pop("target", Target.HOST)
    return example.recipe(target=target, deploy=DeploySettings(**deploy_settings))


def test_the_host_is_not_emulated() -> None:
    with pytest.raises(UsageError, match="--device qemu: expected --target arm64 on another"):
        plan.find_place(recipe(device=("qemu",)), print)


def test_without_an_emulator_the_bundle_is_not_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host_machine() == "aarch64":
        pytest.skip("this machine runs arm64 bundles itself")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(qemu, "_SYSROOTS", ("/nowhere",))
    monkeypatch.delenv("QEMU_LD_PREFIX", raising=False)
    monkeypatch.setattr(plan, "find_runtime_library", lambda *_: None)
    notes: list[str] = []
    planned = plan.find_place(recipe(target=Target.ARM64), notes.append)
    assert planned.addresses == ()
    line = "sudo apt install qemu-user libstdc++6-arm64-cross"
    (note,) = notes
    assert "expected qemu-aarch64 on PATH, and lib/ld-linux-aarch64.so.1 of aarch64 in" in note
    assert note.endswith(line), "all of it, to paste"
    assert "leave" not in note, "no device was given: there is none to leave out"
    target = plan.describe_target(planned, ())
    report = example.report(target=target)
    verdict = judge(report, GateSettings(min_retention=0.5))
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 5)
    assert "there was no aarch64 machine" in verdict.sentence
    assert "--skip-device-check" in verdict.sentence and "apt" not in verdict.sentence, "said once"
    with pytest.raises(DeviceError, match="expected qemu-aarch64 on PATH") as error:
        plan.find_place(recipe(target=Target.ARM64, device=("qemu:max",)), print)
    assert str(error.value).endswith(line)


def test_who_wants_the_bundle_alone_gets_it_judged_by_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host_machine() == "aarch64":
        pytest.skip("this machine runs arm64 bundles itself")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(plan, "find_runtime_library", lambda *_: None)
    asked = recipe(target=Target.ARM64, skip_device_check=True)
    notes: list[str] = []
    planned = plan.find_place(asked, notes.append)
    assert notes == [] and planned.addresses == ()
    report = example.report(target=plan.describe_target(planned, ()))
    report["recipe"] = asked.to_dict()
    assert judge(report, GateSettings(min_retention=0.5)).exit_code == 0
    assert judge(report, GateSettings(min_retention=0.99999)).exit_code == 3
    assert "Not run: --skip-device-check was given." in render_markdown(report)
    report["recipe"]["deploy"]["skip_device_check"] = "yes"
    assert judge(report, GateSettings(min_retention=0.5)).exit_code == 5
    with pytest.raises(UsageError, match="--skip-device-check: expected no --device beside it"):
        DeploySettings(device=("qemu",), skip_device_check=True)


# ONNX Runtime's library


def test_this_machines_library_is_the_installed_one() -> None:
    found = find_runtime_library(host_machine())
    assert found.path.is_file()
    assert "installed" in found.source
    assert runtime_library.elf_machine(found.path) == host_machine()


def test_a_wheel_that_is_given_is_used(cache: Path, tmp_path: Path) -> None:
    given = wheel(tmp_path, elf("aarch64"))
    found = find_runtime_library("aarch64", given)
    assert found.version == "9.8.7"
    assert found.source == given.name
    assert found.path.read_bytes() == elf("aarch64")
    assert found.source_sha256 == sha256(given)
    assert cache in found.path.parents


@pytest.mark.parametrize(
    ("content", "name", "text"),
    [
        (elf("x86_64"), "libonnxruntime.so.1", "expected ONNX Runtime for aarch64; got x86_64"),
        (b"no library", "libonnxruntime.so.1", "got no Linux library of a known machine"),
        (b"", "libonnxruntime.so.1", "got no Linux library of a known machine"),
        (elf("aarch64"), "another.so", "expected a wheel of ONNX Runtime"),
    ],
)
def test_another_wheel_is_refused(
    cache: Path, tmp_path: Path, content: bytes, name: str, text: str
) -> None:
    with pytest.raises(BadInputError, match=text) as caught:
        find_runtime_library("aarch64", wheel(tmp_path, content, name))
    assert caught.value.exit_code == 6
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "version", ["../../x", "1/../../../x", "9.8.7/x", "", "9.8.7.so", "1.\u0661", "9\n", "a"]
)
def test_a_wheel_names_no_place_outside_its_folder(
    cache: Path, tmp_path: Path, version: str
) -> None:
    before = set(tmp_path.rglob("*"))
    given = wheel(tmp_path, elf("aarch64"), f"libonnxruntime.so.{version}")
    with pytest.raises(BadInputError, match="expected a wheel of ONNX Runtime"):
        find_runtime_library("aarch64", given)
    assert set(tmp_path.rglob("*")) - before <= {given}


@pytest.mark.parametrize(
    ("recorded", "text"),
    [
        ("", "expected a RECORD with the sha256"),
        ("x.py,,", "expected a RECORD with the sha256"),
        ("onnxruntime/capi/libonnxruntime.so.9.8.7,md5=abc,3", "expected a RECORD with"),
        (f"onnxruntime/capi/libonnxruntime.so.9.8.7,sha256={'A' * 43},3", "The wheel was changed"),
    ],
)
def test_a_library_that_its_record_does_not_vouch_for_is_refused(
    cache: Path, tmp_path: Path, recorded: str, text: str
) -> None:
    with pytest.raises(BadInputError, match=text):
        find_runtime_library("aarch64", wheel(tmp_path, elf("aarch64"), recorded=recorded))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_what_was_given_once_is_used_for_that_wheel_alone(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = find_runtime_library("aarch64", wheel(tmp_path / "a", elf("aarch64") + b"evil"))
    second = find_runtime_library("aarch64", wheel(tmp_path, elf("aarch64")))
    assert first.path != second.path
    assert first.path.read_bytes() == elf("aarch64") + b"evil"
    assert second.path.read_bytes() == elf("aarch64")
    assert not list(cache.glob("ssmpress/onnxruntime-*"))


def test_what_was_given_goes_with_its_run(cache: Path, tmp_path: Path) -> None:
    """So does what a killed run has left, also one of before, without a lock; no living one's."""
    (cache / "ssmpress/given-0123456789abcdef-onnxruntime-9.8.7-aarch64").mkdir(parents=True)
    given = wheel(tmp_path, elf("aarch64"))
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from ssmpress.bundle.runtime_library import find_runtime_library\n"
        "found = find_runtime_library('aarch64', Path(sys.argv[1]))\n"
        "print(found.path, flush=True)\nsys.stdin.read() or os._exit(9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        theirs = Path(other.stdout.readline().strip())
        mine = find_runtime_library("aarch64", given)
        assert set(cache.glob("ssmpress/given-*")) == {theirs.parent, mine.path.parent}
        other.stdin.close()
    assert theirs.is_file()
    mine = find_runtime_library("aarch64", given)
    assert list(cache.glob("ssmpress/given-*")) == [mine.path.parent]
    del mine
    assert not list(cache.glob("ssmpress/given-*"))


def test_a_library_that_changed_after_it_was_checked_enters_no_bundle(tmp_path: Path) -> None:
    found = find_runtime_library(host_machine())
    (tmp_path / "changed.so").write_bytes(b"something else")
    changed = replace(found, path=tmp_path / "changed.so")
    with pytest.raises(BadInputError, match=r"changed\.so: expected sha256"):
        write_runtime_files(tmp_path, host_machine(), changed)


def test_a_file_that_is_no_wheel_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"PK nothing")
    for path in (tmp_path / "x.whl", tmp_path / "none.whl"):
        with pytest.raises(BadInputError, match="expected a wheel"):
            find_runtime_library("aarch64", path)


def test_no_network_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip asks a port where nobody listens."""
    other = "aarch64" if host_machine() == "x86_64" else "x86_64"
    for name, value in (
        ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
        ("PIP_RETRIES", "0"),
        ("PIP_EXTRA_INDEX_URL", ""),
        ("PIP_FIND_LINKS", ""),
        ("PIP_CONFIG_FILE", os.devnull),
        ("PIP_NO_INDEX", ""),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match="--onnxruntime FILE") as caught:
        find_runtime_library(other)
    assert caught.value.exit_code == 7


def test_a_download_is_kept_and_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    other = "aarch64" if host_machine() == "x86_64" else "x86_64"
    monkeypatch.setattr(runtime_library, "_version", lambda: "9.8.7")

    def download(version: str, machine: str, folder: Path) -> Path:
        downloads.append(machine)
        return wheel(folder, elf(machine))

    monkeypatch.setattr(runtime_library, "_download", download)
    first, second = find_runtime_library(other), find_runtime_library(other)
    assert first == second
    assert downloads == [other]
    first.path.write_bytes(b"changed behind our back")
    assert find_runtime_library(other).path.read_bytes() == elf(other)
    assert downloads == [other, other]


# The bundle


@pytest.mark.parametrize("name", ["toy-s70", "a b;'$(touch owned)", "-rf", "pi:x"])
def test_the_readmes_commands_run(made: Made, tmp_path: Path, name: str) -> None:
    """On this machine: ssh gives its words to a shell, as sshd does; scp says what it got."""
    verify_manifest(made.files.folder)
    (tmp_path / name).symlink_to(made.files.folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, script in (("ssh", 'shift; exec sh -c "$*"'), ("scp", 'printf "%s\\n" "$@"')):
        (programs / program).write_text(f"#!/bin/sh\n{script}\n")
        (programs / program).chmod(0o755)
    block = re.search(r"```sh\n(.*?)```", run_it(name, made.machine), re.DOTALL)
    assert block is not None
    copy, *remote = block[1].strip().splitlines()
    assert len(remote) == 2
    if name == "toy-s70":
        assert copy == f"scp -r {name} USER@DEVICE:"
    for line in (copy, *remote):
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            text=True,
            env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if line == copy:
            option, source, target = done.stdout.splitlines()
            assert (option, target) == ("-r", "USER@DEVICE:")
            assert not source.startswith("-")
            assert ":" not in source or source.startswith("./")
            assert (tmp_path / source).samefile(made.files.folder)
    assert not (tmp_path / "owned").exists()


def test_the_archive_depends_on_nothing_but_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("model.onnx", "ssmrun"):
        (folder / name).write_bytes(os.urandom(100_000))
    (folder / "ssmrun").chmod(0o700)
    for name in ("a.tar.gz", "b.tar.gz"):
        write_archive(folder, tmp_path / name, "toy")
        os.utime(folder / "model.onnx", (time.time(), 1e9))
    first, second = ((tmp_path / name).read_bytes() for name in ("a.tar.gz", "b.tar.gz"))
    assert first == second
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    for name, mode in (("model.onnx", 0), ("ssmrun", 0o111)):
        unpacked = tmp_path / "out/toy" / name
        assert unpacked.read_bytes() == (folder / name).read_bytes()
        assert unpacked.stat().st_mode & 0o111 == mode
    (folder / "model.onnx").write_text("x")
    write_archive(folder, tmp_path / "a.tar.gz", "toy")
    assert (tmp_path / "a.tar.gz").read_bytes() != second


def test_an_archive_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match="cannot be written"):
        write_archive(tmp_path / "folder", tmp_path / "no/a.tar.gz", "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# The report


def emulated() -> DeviceResult:
    counts = {
        "dense": Instructions((100e6, 101e6), (80e6, 80e6), (5e6, 5e6), (15e6, 16e6)),
        "compressed": Instructions((40e6, 40e6), (20e6, 20e6), (5e6, 5e6), (15e6, 15e6)),
    }
    return DeviceResult(
        name="qemu:cortex-a76",
        kind=EMULATED,
        machine="aarch64",
        environment={"cpu": "cortex-a76 (emulated)", "ops_isa": "dotprod", "emulated": True},
        parity=parity({}, {}),
        sample=Sample(1020, 256, 30.0, 30.001, 3.3e-5, 1e-3),
        not_measured=EMULATED_TIME,
        instructions=counts,
    )


def real(name: str = "ssh://pi", decode_ms: float = 5.0) -> DeviceResult:
    state = {
        "temperature_c": {"cpu-thermal": 48.25},
        "khz": [1500000, 1500000],
        "governor": ["ondemand", "ondemand"],
        "throttled": "0x0",
        "load_average_1min": 0.1,
    }
    measurements = {
        "dense": example.measurement(2 * decode_ms, seed=1),
        "stock": example.measurement(3 * decode_ms, seed=2),
        "compressed": example.measurement(decode_ms, seed=3),
    }
    return DeviceResult(
        name=name,
        kind=REAL,
        machine="aarch64",
        measurements=measurements,
        environment={"cpu": "Cortex-A72", "board": "Raspberry Pi 4", "ops_isa": "neon"},
        sample=Sample(1020, 256, 30.0, 30.0, 0.0, 1e-3),
        before=state,
        after=state,
    )


def report_of(*devices: DeviceResult, **changes: Any) -> dict[str, Any]:
    kinds = [device.kind for device in devices]
    best = REAL if REAL in kinds else EMULATED
    sizes = {"dense": 40_000_000, "compressed": 3_000_000}
    target = TargetResult("aarch64", best, "It ran.", boards.lower_bounds("aarch64", sizes))
    measured = next((dict(d.measurements) for d in devices if d.measurements), {})
    return example.report(measurements=measured, target=target, devices=devices, **changes)


@pytest.mark.parametrize("devices", [(emulated(),), (real(), emulated()), (real(), real("b", 9))])
def test_reports_of_devices_follow_the_schema(devices: tuple[DeviceResult, ...]) -> None:
    report = report_of(*devices)
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert undescribed(report, SCHEMA) == []
    for device in report["devices"]:
        assert undescribed(device, SCHEMA["$defs"]["device"]) == []


def test_an_emulated_report_has_no_latency_and_says_why() -> None:
    report = report_of(emulated())
    assert report["latency"] is None
    assert report["devices"][0]["instructions"]["ratio"]["matrix_products"] == 4
    text = render_markdown(report)
    assert "latency not measured: an emulator's wall time says nothing" in text
    assert "| matrix products | 80.000 M | 20.000 M | 4.00x fewer |" in text
    assert "Raspberry Pi 5" in text
    page = render_html(report)
    assert "Executed instructions per decoded token, qemu:cortex-a76" in page


@pytest.mark.parametrize(
    "limits", [{"max_decode_ms": 1e6}, {"min_speedup": 0.1}, {"max_rss_bytes": 1e15}]
)
def test_latency_of_an_emulated_device_is_inconclusive(limits: dict[str, float]) -> None:
    settings = GateSettings(min_retention=0.5, **limits)
    verdict = judge(report_of(emulated()), settings)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 5)
    assert "--device ssh://" in " ".join(rule.help for rule in verdict.rules)
    assert judge(report_of(real()), settings).exit_code == 0


def test_quality_of_an_emulated_device_is_judged() -> None:
    assert judge(report_of(emulated()), GateSettings(min_retention=0.5)).status == "pass"
    assert judge(report_of(emulated()), GateSettings(min_retention=0.999)).exit_code == 3


def test_the_first_real_device_is_judged() -> None:
    report = report_of(emulated(), real("ssh://a", 5), real("ssh://b", 50))
    assert report["latency"]["device"] == "ssh://a"
    assert report["latency"]["cpu"] == "Cortex-A72"
    assert judge(report, GateSettings(min_retention=None, max_decode_ms=10)).status == "pass"
    text = render_markdown(report)
    assert "| ssh://a | compressed | 1 |" in text
    assert "| ssh://b | dense | 1 |" in text
    assert "48.2 \u00b0C | 1,500 MHz | ondemand | 0x0" in text
    assert "Median decode time of one token by device" in render_html(report)


def test_a_baseline_of_another_processor_does_not_compare() -> None:
    settings = GateSettings(min_retention=None, max_decode_ms=Relative(2), baseline=Path("b"))
    here, host = report_of(real()), example.report()
    assert judge(here, settings, baseline=here).status == "pass"
    verdict = judge(here, settings, baseline=host)
    assert verdict.status == "inconclusive"
    assert "latency.cpu is 'a|cpu' there, 'Cortex-A72' here" in verdict.sentence


def test_the_command_of_a_report_asks_for_the_same_devices() -> None:
    settings = DeploySettings(device=("qemu:max", "ssh://pi"), archive=True, device_threads=4)
    report = example.report() | {"recipe": example.recipe(deploy=settings).to_dict()}
    line = command(report)
    for words in ("--device qemu:max --device ssh://pi", "--archive", "--device-threads 4"):
        assert words in line


def test_lower_bounds_leave_out_what_the_caches_hold() -> None:
    bounds = {b.board: b for b in boards.lower_bounds("aarch64", {"dense": 14_800_000, "x": 1000})}
    pi = bounds["Raspberry Pi 4 Model B"]
    assert pi.decode_ms["dense"] == pytest.approx((14_800_000 - 2**20) / 12.8e6)
    assert pi.decode_ms["x"] is None
    assert boards.lower_bounds("x86_64", {"dense": 1}) == ()
    assert {board.cpu for board in boards.BOARDS} <= set(CPUS)


def test_the_terminal_says_what_the_emulator_showed() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_report(report_of(emulated()), console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "Target aarch64. Emulated: It ran." in text
    assert "qemu:cortex-a76: 2.51x fewer instructions per decoded token, 4.00x fewer in" in text


def test_a_report_of_the_host_alone_has_no_section_of_devices() -> None:
    target = TargetResult("x86_64", "host", "It ran here.")
    report = example.report(target=target)
    assert "## Devices" not in render_markdown(report)
    assert 'id="devices"' not in render_html(report)
    assert "## Devices" in render_markdown(report_of(emulated()))
