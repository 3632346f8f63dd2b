"""A real sshd on loopback with its own keys, and an ssh that reaches it and nothing else."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class SshServer:
    """home: of the remote side. bin: first on this side's PATH. programs: first on the remote's."""

    port: int
    home: Path
    bin: Path
    programs: Path
    process: subprocess.Popen[bytes]

    @property
    def device(self) -> str:
        """For --device."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def set_environment(self, name: str, value: str) -> None:
        """Of the remote side; for connections that come later."""
        file = self.bin.parent / "sshd_config"
        file.write_text(file.read_text().rstrip() + f' "{name}={value}"\n')
        self.process.send_signal(signal.SIGHUP)  # sshd reads its configuration again
        _wait_for(self.port, self.process, self.bin.parent / "log")

    def left_behind(self) -> list[str]:
        """What lies in the remote home."""
        return sorted(path.name for path in self.home.iterdir())

    def sessions(self) -> list[int]:
        """Processes that sshd started for connections."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]


def write_script(path: Path, text: str) -> None:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@contextlib.contextmanager
def ssh_server(folder: Path, environment: Mapping[str, str]) -> Iterator[SshServer]:
    """environment: of the remote side, beside HOME and PATH."""
    assert SSHD is not None
    home, programs, local = folder / "home", folder / "programs", folder / "bin"
    for path in (home, programs, local):
        path.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = _free_port()
    variables = {"HOME": home, "PATH": f"{programs}:/usr/bin:/bin", **environment}
    _write_configurations(folder, port, variables)
    for name in ("ssh", "scp"):
        write_script(local / name, f'exec {shutil.which(name)} -F {folder / "ssh_config"} "$@"')
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own requirement when it runs as root
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for(port, process, folder / "log")
        yield SshServer(port, home, local, programs, process)
    finally:
        process.terminate()
        process.wait()


def _write_configurations(folder: Path, port: int, variables: Mapping[str, object]) -> None:
    settings = " ".join(f'"{name}={value}"' for name, value in variables.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n"
        f"Subsystem sftp internal-sftp\nSetEnv {settings}\n"
    )
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {log.read_text()[-500:]}")
