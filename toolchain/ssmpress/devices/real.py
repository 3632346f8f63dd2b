"""A real device: the bundle is copied there, checked against this host, and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ssmpress import replies
from ssmpress.devices.check import Expected, check
from ssmpress.devices.remote import Link, RemoteFolder, preflight
from ssmpress.measure.interleaved import MeasureSettings, Station, measure, measure_steps
from ssmpress.results.devices import DeviceResult
from ssmpress.results.report import EMULATED, EMULATED_TIME, REAL, VARIANTS


@dataclass(frozen=True)
class BundleFiles:
    """A finished bundle. folder: has a manifest. names: of its files for a device, in the folder.

    dense: the model file of the dense baseline, anywhere; its external data lies beside it.
    """

    folder: Path
    names: tuple[str, ...]
    dense: Path

    def all(self) -> dict[str, Path]:
        """The files by their names in the device's folder."""
        beside = (self.dense, self.dense.with_name(self.dense.name + ".data"))
        return {
            **{f"bundle/{name}": self.folder / name for name in self.names},
            **{path.name: path for path in beside if path.is_file()},
        }


def steps(files: BundleFiles, expected: Expected, settings: MeasureSettings) -> int:
    """How often `validate_real` ticks where nothing had been copied before."""
    copied = len(files.all()) + len(_sample_file(expected))
    return copied + 1 + measure_steps(len(VARIANTS), settings)


def validate_real(
    link: Link,
    path: str | None,
    machine: str,
    files: BundleFiles,
    expected: Expected,
    settings: MeasureSettings,
    threads: int | None,
    tick: Callable[[], None],
) -> DeviceResult:
    """Copy, check, measure, clean up.

    Args:
        path: folder on the device to keep; None makes one that goes.
        settings: how much is measured; its threads are replaced by `threads`.
        threads: None is all of the device's processors.

    Raises:
        ParityError: the device computes something else than this host.
        DeviceError: it cannot be reached or used, or fails on the way.
    """
    properties = preflight(link, machine)
    with RemoteFolder(link, path, properties.wrapper) as folder:
        folder.push(files.all() | _sample_file(expected), tick)
        folder.prepare_runner()
        with folder.worker("check", settings.timeout_s) as worker:
            load = {"do": "load", "threads": threads or 1, "cold": False, "seed": 0}
            isa = worker.ask(load).get("ops_isa")
            run_eval = partial(folder.run_eval, threads=threads or 1, timeout_s=settings.timeout_s)
            parity, sample = check(worker, expected, link.name, run_eval)
            environment, before = _state(worker.ask({"do": "environment"}))
        tick()
        environment |= {
            "ops_isa": str(isa)[:20],
            "libc": properties.libc,
            "wrapper": properties.wrapper,
        }
        if "qemu" in properties.wrapper:
            return DeviceResult(
                name=link.name,
                kind=EMULATED,
                machine=machine,
                parity=parity,
                sample=sample,
                environment={**environment, "emulated": True},
                not_measured=EMULATED_TIME,
            )
        processors = int(replies.number(environment, "available_cpus")) or 1
        own = replace(settings, threads=threads or processors)
        stations = _stations(folder, files.dense.name, own.timeout_s)
        measurements = measure(stations, own, lambda *_: tick())
        with folder.worker("check", settings.timeout_s) as worker:
            _, after = _state(worker.ask({"do": "environment"}))
    return DeviceResult(
        name=link.name,
        kind=REAL,
        machine=machine,
        parity=parity,
        sample=sample,
        environment={**environment, "emulated": False, "threads": own.threads},
        measurements=measurements,
        before=before,
        after=after,
    )


def _sample_file(expected: Expected) -> dict[str, Path]:
    """What `ssmrun eval` reads there, if the task's metric comes from it."""
    file = expected.reference.file
    return {} if file is None else {file.name: file}


def _stations(folder: RemoteFolder, dense: str, timeout_s: float) -> dict[str, Station]:
    model = f"{folder.folder}/{dense}"
    loads: dict[str, dict[str, Any]] = {
        "dense": {"model": model},
        "stock": {"model": model, "library": None},
        "compressed": {},
    }
    return {
        name: Station(partial(folder.worker, name, timeout_s), loads[name]) for name in VARIANTS
    }


def _state(reply: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return replies.facts(reply, "environment"), replies.facts(reply, "now")
