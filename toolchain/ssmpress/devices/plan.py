"""From a recipe's target and devices to evidence: what can be done, checked before any training,
and then done with the finished bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ssmpress.bundle.runtime_library import RuntimeLibrary, find_runtime_library
from ssmpress.callbacks import Note, Progress
from ssmpress.devices import emulate, real
from ssmpress.devices.adb import open_adb
from ssmpress.devices.check import Expected
from ssmpress.devices.qemu import Emulator, lacking
from ssmpress.devices.real import BundleFiles
from ssmpress.devices.remote import Link, Preflight, preflight
from ssmpress.devices.ssh import open_ssh
from ssmpress.errors import DeviceError, UsageError
from ssmpress.machine import MACHINES, get_library_path, get_runner_path, host_machine
from ssmpress.measure.interleaved import MeasureSettings
from ssmpress.processors import crowded_note
from ssmpress.recipe.address import ADB, QEMU, DeviceAddress, parse_device
from ssmpress.recipe.recipe import Recipe
from ssmpress.results.devices import DeviceResult, TargetResult
from ssmpress.results.report import EMULATED, HOST, REAL

SKIPPED = "--skip-device-check was given."
"""Why a bundle ran nowhere whose user asked for that."""


@dataclass(frozen=True)
class Place:
    """The machine and the devices that a bundle will run on.

    machine: that it is for. addresses: devices to use.

    unvalidated: why it will run nowhere; empty when it will.
    """

    machine: str
    addresses: tuple[DeviceAddress, ...]
    unvalidated: str = ""

    @property
    def measures_host(self) -> bool:
        """Whether this host is what the bundle is measured on: it is of the right machine, and
        no real device was named."""
        return self.machine == host_machine() and all(a.emulated for a in self.addresses)


@dataclass(frozen=True, kw_only=True)
class Deployment(Place):
    """A place with all that goes there. runtime: ONNX Runtime for its machine."""

    runtime: RuntimeLibrary


def with_runtime(place: Place, recipe: Recipe) -> Deployment:
    """A place with ONNX Runtime for its machine, which is downloaded where it is not here.

    Raises:
        DeviceError: it cannot be had.
    """
    runtime = find_runtime_library(place.machine, recipe.deploy.onnxruntime)
    return Deployment(place.machine, place.addresses, place.unvalidated, runtime=runtime)


def find_place(recipe: Recipe, note: Note) -> Place:
    """Find out where the bundle will run, and ask every device whether it can run it; nothing is
    downloaded.

    Raises:
        DeviceError: a library or a program is missing, or a device cannot be used.
        UsageError: an emulator was asked for that emulates no such machine.
    """
    machine = recipe.target.machine
    if machine not in MACHINES:
        raise DeviceError(
            f"--target {recipe.target}: expected a machine of {', '.join(MACHINES)}; got {machine}."
        )
    get_library_path()  # the host evaluates the model too
    get_library_path(machine)
    get_runner_path(machine)
    addresses = recipe.deploy.addresses()
    if not addresses and machine != host_machine():
        return _without_device(recipe, machine, note)
    for address in addresses:
        if address.kind == QEMU and (machine == host_machine() or machine != "aarch64"):
            raise UsageError(
                f"--device {address.text}: expected --target arm64 on another machine, which QEMU "
                f"emulates; the bundle is for {machine}, this machine is {host_machine()}."
            )
        if address.kind == QEMU:
            Emulator(machine, address.cpu)
        else:
            with open_link(address) as link:
                found = preflight(link, machine)
            if crowded := _crowded(recipe, found, address):
                note(crowded)
    return Place(machine, addresses)


def _crowded(recipe: Recipe, found: Preflight, address: DeviceAddress) -> str:
    """What is said of more threads than a device can run at once; empty otherwise."""
    threads = recipe.deploy.device_threads
    if threads is None or found.processors is None:
        return ""
    return crowded_note("--device-threads", threads, found.processors, address.text)


def _without_device(recipe: Recipe, machine: str, note: Note) -> Place:
    """The place of a bundle that this host cannot run, without a device given: QEMU."""
    if recipe.deploy.skip_device_check:
        return Place(machine, (), SKIPPED)
    if missing := lacking(machine):
        note(
            f"the {machine} bundle will run nowhere, so that its verdict will be inconclusive: "
            f"expected {missing}"
        )
        return Place(machine, (), f"there was no {machine} machine, and no QEMU to emulate one.")
    address = parse_device(QEMU)
    note(f"no --device given: the {machine} bundle is validated by QEMU ({address.cpu})")
    return Place(machine, (address,))


@contextmanager
def open_link(address: DeviceAddress) -> Iterator[Link]:
    """The link to a real device, by ssh or adb, closed at the end."""
    with (open_adb if address.kind == ADB else open_ssh)(address) as link:
        yield link


def run_devices(
    recipe: Recipe,
    deployment: Deployment,
    files: BundleFiles,
    make_expected: Callable[[], Expected],
    settings: MeasureSettings,
    progress: Progress,
) -> tuple[DeviceResult, ...]:
    """Validate the bundle on every device, and measure it on real ones.

    Args:
        make_expected: makes the host's result; not called without a device.
        settings: how much is measured on real devices, but for the threads.

    Raises:
        ParityError: a device computes something else than this host.
        DeviceError: a device could not be used.
    """
    if not deployment.addresses:
        return ()
    expected = make_expected()
    results = []
    for address in deployment.addresses:
        emulated = address.kind == QEMU
        count = emulate.steps(2) if emulated else real.steps(files, expected, settings)
        ticks = _Ticks(address.text, progress, count)
        if emulated:
            result = emulate.validate_emulated(
                address.text,
                deployment.machine,
                address.cpu,
                files.folder,
                files.dense,
                expected,
                ticks.tick,
            )
        else:
            with open_link(address) as link:
                result = real.validate_real(
                    link,
                    address.path,
                    deployment.machine,
                    files,
                    expected,
                    settings,
                    recipe.deploy.device_threads,
                    ticks.tick,
                )
        results.append(result)
    return tuple(results)


class _Ticks:
    """Counts the steps of one device for the progress display."""

    def __init__(self, name: str, progress: Progress, steps: int) -> None:
        self._what, self._progress, self._steps, self._done = name, progress, steps, 0

    def tick(self) -> None:
        self._done += 1
        self._progress(f"device {self._what}", min(self._done, self._steps), self._steps)


def describe_target(
    deployment: Place, devices: tuple[DeviceResult, ...], bounds: Any = ()
) -> TargetResult:
    """What vouches for the bundle."""
    kinds = {device.kind for device in devices}
    if deployment.measures_host:
        kinds.add(HOST)
    machine = deployment.machine
    for kind, reason in (
        (REAL, "The bundle's own files ran on a real device."),
        (HOST, "The bundle's own files ran on this host."),
        (
            EMULATED,
            f"The bundle's own files ran under QEMU, emulating {machine}: what they "
            "compute is proved, how fast is not.",
        ),
    ):
        if kind in kinds:
            return TargetResult(machine, kind, reason, bounds)
    return TargetResult(machine, None, deployment.unvalidated, bounds)
