"""All page owners that a scan finds: `python -m tests.support.attribution.scan CONFIG OUT DOMAIN ...`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samepaged.attribution.page_owners import PageOwners
from samepaged.config import load
from samepaged.guard.client import GuardClient
from samepaged.guard.journal import runtime_directory
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.privileges import seal
from samepaged.scan.attribution import AttributionSchedule
from samepaged.scan.circuit_breaker import CircuitBreaker
from samepaged.scan.guest import GuestScanner
from samepaged.scan.host import scan_host

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["owners"]

ARRAYS = ("kinds", "labels", "offsets", "modes", "used_pages", "used_by")
SAID = ("names", "processes", "kernel", "missing", "note")


def owners(config: Path, directory: Path, *domains: str) -> dict[str, tuple[PageOwners, float]]:
    """Return the page owners of these guests, from one scan with this configuration in a separate process, and the
    seconds of each guest's suspension.
    """
    command = [sys.executable, "-m", "tests.support.attribution.scan", str(config), str(directory), *domains]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL, timeout=300)
    found = {}
    for name in domains:
        arrays = np.load(directory / f"{name}.npz")
        said = json.loads((directory / f"{name}.json").read_text())
        pause = said.pop("pause")
        said |= {key: tuple(said[key]) for key in ("names", "processes")}
        found[name] = PageOwners(**{key: arrays[key] for key in ARRAYS}, **said), pause
    return found


def _never() -> bool:
    return False


def _scan(config_file: Path, directory: Path, domains: Sequence[str]) -> None:
    seal()
    config = load(config_file)
    sources = config.sources.model_copy(update={"enabled": True, "every": 1, "names": True})
    hypervisor = LibvirtHypervisor(config.libvirt.uri, stop=_never)
    hypervisor.connect()
    guard = GuardClient(config.libvirt.uri, runtime_directory(config.runtime_directory).path, _never)
    hashing = Hashing(best_hasher(), 1, config.scan.thread_count, _never)
    try:
        scanner = GuestScanner(
            hypervisor, guard, config, hashing, {}, CircuitBreaker(), None, AttributionSchedule(sources)
        )
        round_ = scan_host(hypervisor, config, scanner, list(domains), lambda *_: None)
    finally:
        guard.close()
        hypervisor.close()
    for one in round_.scanned.values():
        name = one.scan.name
        if one.ownership is None:
            raise SystemExit(f"{name}: the scan had no page attribution")
        np.savez(directory / f"{name}.npz", **{key: getattr(one.ownership, key) for key in ARRAYS})
        said = {key: getattr(one.ownership, key) for key in SAID} | {"pause": one.scan.pause_seconds}
        (directory / f"{name}.json").write_text(json.dumps(said))
    if round_.skipped:
        raise SystemExit(str(round_.skipped))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("domains", nargs="+")
    given = parser.parse_args()
    _scan(given.config, given.directory, given.domains)
