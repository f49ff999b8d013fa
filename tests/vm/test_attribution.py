"""Page attribution by precopy: the pages copied ahead, with the written ones copied again, are of the instant of the
digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from samepaged.attribution.session import GuestKernelCache
from samepaged.guard.client import GuardClient
from samepaged.guard.suspend import Suspender
from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.scan_state import ScanState
from tests.support.instant import differences, scanned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.guests import Writer


@pytest.fixture
def hypervisor() -> Iterator[LibvirtHypervisor]:
    found = LibvirtHypervisor("qemu:///system")
    found.connect()
    yield found
    found.close()


def test_precopied_pages_equal_full_memory(kvm_guest: Writer, hypervisor: LibvirtHypervisor, tmp_path: Path) -> None:
    guest = describe(hypervisor.by_uuid(kvm_guest.domain.UUIDString()))
    guard = GuardClient(hypervisor.uri, tmp_path)
    suspender = Suspender(hypervisor, guest, guard, 3600, lambda: False)
    kept, known = ScanState(start_time=0), GuestKernelCache(start_time=0)
    try:
        for number, rate in enumerate((0, 500)):
            kvm_guest.fill(0, 2048 * (number + 1), number, 512)
            kvm_guest.tell(f"dirty {rate}")
            found, owned, truth = scanned(guest, suspender, kept, known, "precopy", tmp_path)
            assert found.mode == "precopy"
            assert owned.note is None
            assert owned.labelled_ratio >= 0.97
            assert differences(owned, truth) == []
    finally:
        kvm_guest.tell("dirty 0")
        guard.close()
