"""How long a guest stands still: a snapshot against the dump that operators have, of the same guest in the same run."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from samepaged.config import Config
from samepaged.guard.client import GuardClient
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.scan.guest import GuestScanner
from tests.support.guests import Spec, running
from tests.support.libvirtd import private_libvirtd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.row import Row
    from samepaged.hypervisor.protocol import Domain
    from tests.support.guests import Writer

__all__ = ["rows"]

MEMORY = 1024
# The kernel reserves some memory; the region is the rest, fully written.
REGION = 800
REPEATS = 7
THREADS = (1, 2)


@contextlib.contextmanager
def _guest() -> Iterator[tuple[str, Writer]]:
    """A guest of 1 GiB with every page written and all pages distinct."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    with tempfile.TemporaryDirectory(prefix="spb-") as root, private_libvirtd(Path(root)) as daemon:
        spec = Spec("samepaged-bench", memory=MEMORY, cmdline=f"region={REGION} init_on_alloc=1")
        with (
            contextlib.closing(libvirt.open(daemon.uri)) as connection,
            running(connection, Path(root), spec) as (writer,),
        ):
            writer.fill(0, REGION * 256, 1, REGION * 256)
            yield daemon.uri, writer


def _snapshot(scanner: GuestScanner, domain: Domain) -> float:
    return scanner.scan(domain).scan.longest_pause_seconds


def _dump(writer: Writer, directory: Path) -> float:
    """Return the seconds of `virsh dump --memory-only`, which pauses the guest for its whole duration."""
    path = directory / "dump"
    began = time.monotonic()
    writer.domain.coreDumpWithFormat(str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY)
    taken = time.monotonic() - began
    path.unlink()
    return taken


def rows() -> list[Row]:
    """The figures of this part: medians of scans and dumps taken in turn."""
    pauses: dict[int, list[float]] = {threads: [] for threads in THREADS}
    dumps: list[float] = []
    with _guest() as (uri, writer), tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        hypervisor = LibvirtHypervisor(uri)
        hypervisor.connect()
        config = Config.model_validate({"scan": {"mode": "snapshot"}})
        guard = GuardClient(uri, Path(tmpfs))
        scanners = {
            threads: GuestScanner(hypervisor, guard, config, Hashing(best_hasher(), 7, threads, lambda: False), {})
            for threads in THREADS
        }
        domain = hypervisor.by_uuid(writer.domain.UUIDString())
        scanned = scanners[1].scan(domain)
        backed = scanned.contents.memory_pages - scanned.contents.absent_pages
        for _ in range(REPEATS):
            for threads, scanner in scanners.items():
                pauses[threads].append(_snapshot(scanner, domain))
            dumps.append(_dump(writer, Path(tmpfs)))
        guard.close()
        hypervisor.close()
    dump = statistics.median(dumps)
    found: list[Row] = [
        {"name": "virsh dump --memory-only to tmpfs: pause of a 1 GiB guest", "value": dump * 1e3, "unit": "ms"},
        {"name": "backed part of that guest", "value": backed / scanned.contents.memory_pages, "unit": "ratio"},
    ]
    for threads, taken in pauses.items():
        snapshot, how = statistics.median(taken), f"{threads} thread{'s' * (threads > 1)}"
        found += [
            {"name": f"snapshot: pause of the same guest, {how}", "value": snapshot * 1e3, "unit": "ms"},
            {"name": f"pause of snapshot ÷ dump, {how}", "value": snapshot / dump, "unit": "ratio", "at_most": 1 / 8},
        ]
    return found
