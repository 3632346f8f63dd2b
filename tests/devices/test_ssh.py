"""Devices over a real sshd on loopback: measured, cleaned up after, one clear error for each way
that it can fail."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import wait_for
from ssh_server import SSHD, SshServer, ssh_server, write_script
from ssmpress.devices import qemu, remote, ssh
from ssmpress.devices.plan import find_place, open_link
from ssmpress.devices.real import validate_real
from ssmpress.errors import DeviceError
from ssmpress.formats import Values
from ssmpress.measure.interleaved import MeasureSettings
from ssmpress.recipe.address import parse_device
from ssmpress.recipe.recipe import Recipe
from ssmpress.recipe.settings.deploy import DeploySettings, Target
from ssmpress.results.devices import DeviceResult
from target_bundle import Made, make_bundle, require_emulator

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is absent: apt install openssh-server"),
    pytest.mark.skipif(shutil.which("scp") is None, reason="scp is absent"),
]
QUICK = MeasureSettings(prompt_tokens=8, decode_tokens=4, rounds=2, timeout_s=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_bundle(tmp_path_factory.mktemp("host") / "bundle", Target.HOST, Values.INT8)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "ssh", {"LANG": "C"}) as running:
        monkeypatch.setenv("PATH", f"{running.bin}:{os.environ['PATH']}")
        yield running


def measured(
    server: SshServer, made: Made, path: str = "", tick: Callable[[], None] = lambda: None
) -> DeviceResult:
    address = parse_device(server.device + path)
    with open_link(address) as link:
        return validate_real(
            link, address.path, made.machine, made.files, made.expected, QUICK, 1, tick
        )


def refused(server: SshServer, made: Made, text: str, **changes: object) -> None:
    """It fails with exit code 7 and a text, and leaves nothing there."""
    with pytest.raises(DeviceError, match=text) as caught:
        measured(server, made, **changes)  # type: ignore[arg-type]
    assert caught.value.exit_code == 7
    assert str(caught.value).startswith("ssh://")
    assert wait_for(lambda: server.left_behind() == []), server.left_behind()


def connect_fails(server: SshServer, text: str) -> None:
    with pytest.raises(DeviceError, match=text), ssh.open_ssh(parse_device(server.device)):
        pass


def test_a_device_is_validated_and_measured(server: SshServer, made: Made) -> None:
    ticks: list[int] = []
    result = measured(server, made, tick=lambda: ticks.append(1))
    assert result.kind == "real"
    assert result.machine == platform.machine()
    assert result.parity is not None
    assert result.parity.ok
    assert result.sample is not None
    assert result.sample.difference <= 1e-6
    assert set(result.measurements) == {"dense", "stock", "compressed"}
    for found in result.measurements.values():
        assert [turn.warmup for turn in found.rounds] == [True, False, False]
        assert all(len(turn.decode_ms) == 4 for turn in found.rounds)
        assert min(found.load_cold_ms, found.load_warm_ms, found.decode.p50_ms) > 0
        assert 0 < found.runtime_rss_bytes < found.peak_rss_bytes
    assert result.environment["ops_isa"] in ("scalar", "avx2", "avx512", "neon", "dotprod")
    assert result.environment["emulated"] is False
    assert "load_average_1min" in result.before
    assert "load_average_1min" in result.after
    assert len(ticks) == len(made.files.all()) + 1 + 3 * (QUICK.rounds + 3)
    assert server.left_behind() == []
    assert wait_for(lambda: server.sessions() == []), "the connection is closed"


def test_only_what_changed_is_copied_to_a_folder_that_is_kept(
    server: SshServer, made: Made
) -> None:
    address = parse_device(server.device)
    files, kept = made.files.all(), str(server.home / "kept")
    counts = []
    with open_link(address) as link:
        for _ in range(2):
            with remote.RemoteFolder(link, kept) as folder:
                counts.append(folder.push(files, lambda: None))
        (server.home / "kept/dense.onnx").write_bytes(b"something else")
        with remote.RemoteFolder(link, kept) as folder:
            counts.append(folder.push(files, lambda: None))
    assert counts == [len(files), 0, 1]
    assert (server.home / "kept/dense.onnx").read_bytes() == made.files.dense.read_bytes()
    assert sorted(p.name for p in (server.home / "kept").iterdir()) == ["bundle", "dense.onnx"]


def test_the_arm64_runner_works_through_the_wrapper(
    server: SshServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A remote side that calls itself arm64 and runs ssmrun by QEMU; its time is no latency."""
    require_emulator()
    arm64 = make_bundle(tmp_path_factory.mktemp("arm64") / "b", Target.ARM64, Values.INT8)
    write_script(server.programs / "uname", "echo aarch64")
    with qemu.Emulator("aarch64", "cortex-a76") as emulator:
        wrapper = " ".join(emulator.command([]))
        server.set_environment(remote.WRAPPER, wrapper)
        result = measured(server, arm64)
    assert result.kind == "emulated"
    assert result.measurements == {}
    assert "emulator's wall time" in result.not_measured
    assert result.environment["ops_isa"] == "dotprod"
    assert result.environment["wrapper"] == wrapper
    assert server.left_behind() == []


def test_another_architecture_is_refused(server: SshServer, made: Made) -> None:
    write_script(server.programs / "uname", "echo armv7l")
    refused(server, made, r"expected a machine of \w+.*got armv7l. A 32-bit system")


@pytest.mark.parametrize(
    ("said", "threads", "warned"), [("3", 4, True), ("3", 3, False), ("-3", 4, False)]
)
def test_more_threads_than_a_device_has_are_warned_of(
    server: SshServer, said: str, threads: int, warned: bool
) -> None:
    """Before any work; the report says it by what the device's runner counted."""
    write_script(server.programs / "nproc", f"echo {said}")
    asked = DeploySettings(device=(server.device,), device_threads=threads)
    recipe = Recipe(model=Path("model"), out=Path("out"), deploy=asked)
    notes: list[str] = []
    find_place(recipe, notes.append)
    text = f"--device-threads 4: {server.device} can run 3 at once"
    assert [note.startswith(text) for note in notes] == [True] * warned


@pytest.mark.parametrize("said", ["musl libc (x86_64)", "ldd (GNU libc) 2.27", ""])
def test_missing_glibc_is_refused(server: SshServer, made: Made, said: str) -> None:
    write_script(server.programs / "getconf", "exit 1")
    write_script(server.programs / "ldd", f'echo "{said}"')
    refused(server, made, r"expected glibc 2\.28 or later; got")


def test_a_full_disk_is_refused_before_copying(server: SshServer, made: Made) -> None:
    write_script(server.programs / "df", "echo head; echo '/dev/x 9000 8000 1000 9% /'")
    refused(server, made, r"expected \d+ MB free in .*; got 1 MB")


def test_a_disk_that_fills_up_is_told(server: SshServer, made: Made) -> None:
    """The copy fails on the way: here scp itself, as it does on a write error."""
    write_script(
        server.bin / "scp", "echo 'scp: write remote: No space left on device' >&2; exit 1"
    )
    refused(server, made, r"could not copy .*No space left on device\. The device has \d+ MB free")


def test_a_damaged_copy_is_found(server: SshServer, made: Made) -> None:
    real = shutil.which("scp", path="/usr/bin:/bin")
    configuration = server.bin.parent / "ssh_config"
    text = f'for last; do :; done\n{real} -F {configuration} "$@" || exit\n'
    cut = f"truncate -s -1 {server.home}/.ssmpress-*/incoming/*"
    write_script(server.bin / "scp", text + cut)
    refused(server, made, r"arrived damaged: expected sha256")


def test_a_home_that_cannot_be_written_is_told(server: SshServer, made: Made) -> None:
    write_script(server.programs / "mktemp", "echo 'mktemp: Read-only file system' >&2; exit 1")
    refused(server, made, "Read-only file system")


def test_a_runner_that_fails_says_why(server: SshServer, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(made.files.folder, folder)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    damaged = dataclasses.replace(made, files=dataclasses.replace(made.files, folder=folder))
    refused(server, damaged, r"ssmrun verify failed with exit code 6: .*model\.onnx")


def test_a_lost_connection_is_told_and_leaves_nothing(server: SshServer, made: Made) -> None:
    """The session is killed when the first file has arrived."""
    ticks: list[int] = []

    def cut() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            for process in server.sessions():
                os.kill(process, signal.SIGKILL)

    refused(server, made, r"could not|connection was lost", tick=cut)


def test_a_connection_lost_while_measuring_is_told(server: SshServer, made: Made) -> None:
    ticks: list[int] = []

    def cut() -> None:
        ticks.append(1)
        if len(ticks) == len(made.files.all()) + 6:
            for process in server.sessions():
                os.kill(process, signal.SIGKILL)

    refused(server, made, r"connection was lost|could not connect", tick=cut)


def test_no_answer_in_time_is_told(
    server: SshServer, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = server.programs / "answered"
    write_script(server.programs / "uname", f"sleep 60; touch {answered}")
    monkeypatch.setattr(remote, "ANSWER_S", 1.0)
    address = parse_device(server.device)
    text = "no answer to 'uname' within 1 seconds"
    with pytest.raises(DeviceError, match=text), open_link(address) as link:
        remote.preflight(link, made.machine, timeout_s=1.0)
    assert not answered.exists(), "nobody waited for it"


def test_nobody_there_is_told(server: SshServer) -> None:
    server.process.terminate()
    server.process.wait()
    connect_fails(server, r"ssh could not connect: .*refused")


def test_an_unknown_host_key_is_told(server: SshServer) -> None:
    (server.bin.parent / "known_hosts").write_text("")
    connect_fails(server, "Host key verification failed")


def test_a_key_that_is_not_accepted_is_told(server: SshServer) -> None:
    (server.bin.parent / "authorized").write_text("")
    connect_fails(server, "Permission denied")
