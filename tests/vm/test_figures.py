"""Measurements that need this kernel: the cost of precopy and rescans for a guest of 1 GiB. bench/precopy.py reads
them.

Absolute times are not asserted, because this host is emulated. The results are ratios of two times in one run.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samepaged.config import Config
from samepaged.guard.client import GuardClient
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.scan.guest import GuestScanner
from tests.support.guests import Spec, Writer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.scan.results import GuestScan

FIGURES = os.environ.get("SAMEPAGED_LAB_FIGURES") == "1"
pytestmark = pytest.mark.skipif(not FIGURES, reason="measured by bench/precopy.py, with SAMEPAGED_LAB_FIGURES=1")

RESULTS = Path("results/figures.json")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEMORY, REGION = 1024, 768
# 1% of its pages per second
RATE = MEMORY * 256 // 100
# Reading is so much slower here than on hardware that is not emulated (docs/develop/vm.md). With pages of 2 MiB this
# decides whether rounds shrink at all; so the guest is also measured with its write rate reduced by this factor.
SLOWER = 32
SCANS = 5


@contextmanager
def guest(connection: Any, *, huge: bool) -> Iterator[Writer]:
    """A guest of 1 GiB, almost completely written, in 4 KiB or 2 MiB pages of the host."""
    before = THP.read_text().split("[")[1].split("]")[0]
    THP.write_text("always" if huge else "never")
    try:
        with tempfile.TemporaryDirectory(prefix="lab-") as root:
            Path(root).chmod(0o755)
            spec = Spec("samepaged-figures", memory=MEMORY, accel="kvm", cmdline=f"region={REGION}")
            with running(connection, Path(root), spec) as (writer,):
                writer.fill(0, REGION * 256, 3, REGION * 256)
                yield writer
    finally:
        THP.write_text(before)


def scans(writer: Writer, mode: str, directory: Path) -> list[GuestScan]:
    """Consecutive scans by one scanner, as in the daemon."""
    hypervisor = LibvirtHypervisor("qemu:///system")
    hypervisor.connect()
    settings = {"scan": {"mode": mode, "max_pause": "1h", "verify_every": 0}}
    config = Config.model_validate(settings)
    guard = GuardClient(hypervisor.uri, directory)
    scanner = GuestScanner(hypervisor, guard, config, Hashing(best_hasher(), 7, 1, lambda: False), {})
    try:
        domain = hypervisor.by_uuid(writer.domain.UUIDString())
        return [scanner.scan(domain).scan for _ in range(SCANS)]
    finally:
        guard.close()
        hypervisor.close()


def longest(found: list[GuestScan]) -> float:
    return statistics.median(one.longest_pause_seconds for one in found)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("huge", [False, True], ids=["4 KiB pages", "THP"])
def test_pauses_and_bytes(connection: Any, tmp_path: Path, huge: bool, request: pytest.FixtureRequest) -> None:  # noqa: FBT001
    with guest(connection, huge=huge) as writer:
        writer.tell("dirty 0")
        idle = scans(writer, "precopy", tmp_path)
        writer.tell(f"dirty {RATE}")
        snapshot = scans(writer, "snapshot", tmp_path)
        precopy = scans(writer, "precopy", tmp_path)
        writer.tell(f"dirty {RATE // SLOWER}")
        scaled = scans(writer, "precopy", tmp_path)
        writer.tell("dirty 0")
    assert {one.mode for one in idle + precopy + scaled} == {"precopy"}
    figures = {
        "snapshot pause": longest(snapshot),
        "precopy pause, first scan": precopy[0].longest_pause_seconds,
        "precopy pause, rescans": longest(precopy[1:]),
        "precopy pauses": [one.pauses for one in precopy],
        "precopy pause, first scan, scaled rate": scaled[0].longest_pause_seconds,
        "precopy pause, rescans, scaled rate": longest(scaled[1:]),
        "precopy pauses, scaled rate": [one.pauses for one in scaled],
        "idle rescan bytes": statistics.median(one.bytes_read for one in idle[1:]),
        "idle rescan pause": longest(idle[1:]),
        "memory bytes": MEMORY << 20,
    }
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept | {request.node.callspec.id: figures}))
    print(json.dumps(figures, indent=1))
