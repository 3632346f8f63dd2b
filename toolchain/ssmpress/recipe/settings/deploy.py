"""What a bundle is made for, and where it is validated and measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from ssmpress.machine import host_machine
from ssmpress.recipe.address import DeviceAddress, parse_device
from ssmpress.recipe.option import (
    Option,
    Panel,
    between,
    check_settings,
    require,
)


class Target(StrEnum):
    """Instruction set the bundle is made for."""

    HOST = "host"
    X86_64 = "x86_64"
    ARM64 = "arm64"

    @property
    def machine(self) -> str:
        """The name that `uname -m` gives it, x86_64 or aarch64; of HOST this machine's."""
        return {"host": host_machine(), "arm64": "aarch64"}.get(self, str(self))


@dataclass(frozen=True)
class DeploySettings:
    """The devices on which the bundle is validated and measured, and what is written."""

    device: Annotated[
        tuple[str, ...],
        Option(
            "Where to validate the bundle, and to measure it if it is real; may be given several "
            "times. By default this machine, or QEMU for a target of another one.",
            Panel.BUNDLE,
            metavar="qemu[:CPU]|ssh://[USER@]HOST[:PORT]|adb:SERIAL",
        ),
    ] = ()
    device_threads: Annotated[
        int | None,
        Option(
            "Threads on real devices.",
            Panel.BUNDLE,
            metavar="NUMBER",
            check=between(1, 1024),
            default="all their processors",
        ),
    ] = None
    onnxruntime: Annotated[
        Path | None,
        Option(
            "Wheel of ONNX Runtime for the target, instead of downloading it.",
            Panel.BUNDLE,
            metavar="FILE",
        ),
    ] = None
    skip_device_check: Annotated[
        bool,
        Option(
            "Make a bundle for another machine without running it anywhere: its numbers are those "
            "of this machine, and the report says so.",
            Panel.BUNDLE,
        ),
    ] = False
    archive: Annotated[bool, Option("Also write OUT.tar.gz.", Panel.BUNDLE)] = False

    def __post_init__(self) -> None:
        check_settings(self)
        require(
            len(set(self.device)) == len(self.device),
            "--device",
            "each once",
            ", ".join(self.device),
        )
        require(
            not (self.device and self.skip_device_check),
            "--skip-device-check",
            "no --device beside it, which is to run the bundle",
            ", ".join(self.device),
        )
        self.addresses()

    def addresses(self) -> tuple[DeviceAddress, ...]:
        """The devices, taken apart."""
        return tuple(map(parse_device, self.device))
