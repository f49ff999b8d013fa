"""Cost of page attribution: alternating scans of one full guest of 4 GiB with and without it."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from samepaged.config import Config, SourcesConfig
from samepaged.guard.client import GuardClient
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.scan.attribution import AttributionSchedule, attribution_reports
from samepaged.scan.guest import GuestScanner
from tests.support.attribution.guests import initramfs
from tests.support.attribution.memory_image import IDLE, image
from tests.support.guests import Spec
from tests.support.libvirtd import private_libvirtd
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.row import Row
    from samepaged.hypervisor.protocol import Domain
    from samepaged.scan.results import ScannedGuest

__all__ = ["rows"]

MEMORY = 4096
FILLED = 3600
PROCESSES = 100
REPEATS = 7
# Writes a number of its own into each page. Without a space: a tenant's command is split at them.
FILL = f"k=bytearray({FILLED}<<20);[k.__setitem__(slice(i,i+8),i.to_bytes(8,'big'))for(i)in(range(0,len(k),4096))]"
REST = "__import__('time').sleep(1e6)"
PATIENCE = 300.0


@contextlib.contextmanager
def _guest() -> Iterator[tuple[str, libvirt.virDomain]]:
    """A guest of 4 GiB whose memory is written, with some processes."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    tenants = (*IDLE, *("/bin/sleep 1000000",) * PROCESSES, f"/bin/python3 -I -S -c {FILL};{REST}")
    with tempfile.TemporaryDirectory(prefix="spb-") as root, private_libvirtd(Path(root)) as daemon:
        spec = Spec("samepaged-bench", memory=MEMORY, image=image("bench", tenants))
        with (
            contextlib.closing(libvirt.open(daemon.uri)) as connection,
            initramfs(connection, Path(root), spec) as (guest,),
        ):
            yield daemon.uri, guest.domain


@dataclass
class _Taken:
    """Seconds of each scan: of its pause, and of all the rest."""

    pauses: list[float] = field(default_factory=list)
    rests: list[float] = field(default_factory=list)

    def scan(self, scanner: GuestScanner, domain: Domain) -> ScannedGuest:
        began = time.monotonic()
        scanned = scanner.scan(domain)
        self.pauses.append(scanned.scan.longest_pause_seconds)
        self.rests.append(time.monotonic() - began - self.pauses[-1])
        return scanned


def _filled(scanner: GuestScanner, domain: Domain) -> ScannedGuest:
    """A scan of the guest with all its memory written."""

    def filled() -> ScannedGuest | None:
        scanned = scanner.scan(domain)
        return scanned if scanned.contents.absent_pages < scanned.contents.memory_pages // 16 else None

    scanned = wait_for(filled, PATIENCE, "the guest has written its memory", every=5)
    assert scanned is not None  # wait_for raises instead
    return scanned


def rows() -> list[Row]:
    """Return the figures of this part: medians of alternating scans. A part of the analysis runs in parallel with the
    scan, in another process: the figure is the delay of the scan's end.
    """
    without, with_, answering = _Taken(), _Taken(), []
    with _guest() as (uri, native), tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        hypervisor = LibvirtHypervisor(uri)
        hypervisor.connect()
        domain = hypervisor.by_uuid(native.UUIDString())
        config = Config.model_validate({"scan": {"mode": "snapshot"}})
        guard = GuardClient(uri, Path(tmpfs))
        hashing = Hashing(best_hasher(), 7, 1, lambda: False)
        plain = GuestScanner(hypervisor, guard, config, hashing, {})
        attribution = AttributionSchedule(SourcesConfig(enabled=True, every=1, names=True))
        asking = GuestScanner(hypervisor, guard, config, hashing, {}, attribution=attribution)
        _filled(plain, domain)
        cold = _Taken()
        cold.scan(asking, domain)
        for _ in range(REPEATS):
            without.scan(plain, domain)
            scanned = with_.scan(asking, domain)
            began = time.monotonic()
            attribution_reports({scanned.scan.guest_id: scanned}, names=True)
            answering.append(time.monotonic() - began)
        guard.close()
        hypervisor.close()
    ownership = scanned.ownership
    assert ownership is not None
    if ownership.kernel is None:
        raise RuntimeError(f"the guest's kernel was not found: {ownership.note}")
    hashed, plain_rest = statistics.median(without.pauses), statistics.median(without.rests)
    asked = statistics.median(with_.rests) - plain_rest
    added = statistics.median(pause / alone for pause, alone in zip(with_.pauses, without.pauses, strict=True))
    return [
        {"name": "owners: pause of a snapshot of a 4 GiB guest without", "value": hashed, "unit": "s"},
        {"name": "owners: pause with ÷ without", "value": added, "unit": "ratio", "at_most": 1.2},
        {
            "name": "owners: warm, outside the pause ÷ hashing it",
            "value": asked / hashed,
            "unit": "ratio",
            "at_most": 3,
        },
        {"name": "owners: cold ÷ hashing it", "value": (cold.rests[0] - plain_rest) / hashed, "unit": "ratio"},
        {
            "name": "owners: time of building the reports ÷ hashing time",
            "value": statistics.median(answering) / hashed,
            "unit": "ratio",
        },
        {
            "name": "owners: labelled share of used pages",
            "value": ownership.labelled_ratio,
            "unit": "ratio",
            "at_least": 0.97,
        },
        {"name": "owners: processes in that guest", "value": PROCESSES + len(IDLE) + 2, "unit": "processes"},
    ]
