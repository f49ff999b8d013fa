"""Attribution from the pages copied during suspension equals attribution from all memory at that instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.attribution.page_owners import KIND
from samepaged.attribution.session import GuestKernelCache
from samepaged.guard.client import GuardClient
from samepaged.guard.suspend import Suspender
from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory.scan_state import ScanState
from samepaged.sharing import FIRST_HASH
from tests.support.guests import Spec, running
from tests.support.instant import differences, scanned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.guests import Writer
    from tests.support.libvirtd import Libvirtd

REGION = 64


@pytest.fixture
def guest(connection: Any, root: Path) -> Iterator[Writer]:
    spec = Spec("instant", memory=192, cmdline=f"region={REGION}", kaslr=True)
    with running(connection, root, spec) as (writer,):
        yield writer


def test_copied_pages_equal_full_memory(libvirtd: Libvirtd, guest: Writer, tmp_path: Path) -> None:
    hypervisor = LibvirtHypervisor(libvirtd.uri)
    hypervisor.connect()
    guard = GuardClient(libvirtd.uri, tmp_path)
    kept, known = ScanState(start_time=0), GuestKernelCache(start_time=0)
    try:
        for number, dirty in enumerate((0, 500, 500, 0)):
            guest.tell(f"dirty {dirty}")
            # More of its memory is mapped each time: tables, struct pages and free lists change.
            guest.fill(0, (number + 1) * REGION * 64, number, 4096)
            described = describe(hypervisor.by_uuid(guest.domain.UUIDString()))
            suspender = Suspender(hypervisor, described, guard, 60, lambda: False)
            found, owned, truth = scanned(described, suspender, kept, known, "snapshot", tmp_path)
            assert owned.note is None
            assert owned.labelled_ratio >= 0.97
            # Objects created between the first look at the running guest and its suspension are missing or correct.
            assert owned.missing <= 64
            unknown = np.count_nonzero((owned.kinds == KIND["unknown"]) & (found.digest.pages >= FIRST_HASH))
            assert unknown <= 4 * 64
            assert differences(owned, truth) == []
    finally:
        guard.close()
        hypervisor.close()
