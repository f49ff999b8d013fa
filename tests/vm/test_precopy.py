"""Precopy captures the bytes of one instant under concurrent writes; and each workaround for a blind spot is needed.

Every pause in these tests reads the whole memory once more before it ends: the digest must equal this reading.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.errors import GuestError, Reason
from samepaged.guard.client import GuardClient
from samepaged.guard.suspend import SuspendedDomain, Suspender
from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory import precopy, ram_location, softdirty
from samepaged.memory.capture import capture
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.pagemap import PRESENT, SOFT_DIRTY
from samepaged.memory.precopy import Precopy
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram
from samepaged.memory.reader import Capture, GuestControl, GuestMemory
from samepaged.memory.scan_state import ScanState
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from tests.support.guests import Writer
    from tests.vm.conftest import Ksm
    from tests.vm.writer_process import WriterProcess

HASHING = Hashing(best_hasher(), 7, 1, lambda: False)
Digest = "NDArray[np.uint64]"


class Witnessed:
    """A guest's memory, scanned with a complete reading in each pause. `before` is called before each suspension."""

    def __init__(
        self,
        pid: int,
        blocks: tuple[int, ...],
        suspended: Callable[[], AbstractContextManager[object]],
        directory: Path,
    ) -> None:
        self.before: Callable[[], None] = lambda: None
        self.pauses = 0
        self.truth: NDArray[np.uint64] | None = None
        self.kept = ScanState(start_time=0)
        self._pid, self._blocks, self._suspended, self._directory = pid, blocks, suspended, directory

    @contextlib.contextmanager
    def _pause(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        del expected, dumping
        self.before()
        held, began = SuspendedDomain(), time.monotonic()
        with self._suspended():
            yield held
            self.pauses += 1
            with self.reader() as reader:
                self.truth = reader.read()
        held.seconds = time.monotonic() - began

    def reader(self) -> ProcessRam:
        mappings = locate_ram(ram_location.read_smaps(self._pid), self._blocks)
        return ProcessRam(self._pid, mappings, HASHING)

    def scan(self, mode: str = "precopy", *, verify_pages: int = 0, still_ksm: bool = False) -> Capture:
        self.pauses = 0
        source = GuestMemory(self._pid, self._blocks, paused=False, vfio=False)
        control = GuestControl(self._pause, lambda _: None, self._directory)
        request = scan_request(mode, "process", 60.0, 1.0, verify_pages=verify_pages, still_ksm=still_ksm)
        return capture(source, control, HASHING, request, self.kept)

    def wrong(self, found: Capture) -> int:
        """Return the number of pages that differ between the digest and the reading in the pause."""
        assert self.truth is not None
        return int(np.count_nonzero(found.digest.pages != self.truth))


@pytest.fixture
def witnessed(tmp_path: Path) -> Callable[[WriterProcess], Witnessed]:
    return lambda process: Witnessed(process.pid, (process.size,), process.suspended, tmp_path)


@pytest.fixture(params=[False, True], ids=["", "all rounds"])
def all_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all rounds that shrink, however little is left: the readings make pauses so long that few rounds would pay
    off.
    """
    if request.param:
        monkeypatch.setattr(Precopy, "_enough", lambda *_, **__: False)


@pytest.mark.usefixtures("all_rounds")
@pytest.mark.parametrize("kind", ["private", "huge"])
@pytest.mark.parametrize("seed", range(3))
def test_precopy_digest_is_of_one_instant(
    start_process: Any, witnessed: Callable[[WriterProcess], Witnessed], kind: str, seed: int
) -> None:
    process = start_process(4096, kind)
    guest = witnessed(process)
    rng = random.Random(seed)
    for _ in range(6):
        process.keep_writing(rng.randrange(1 << 30), rng.choice([20, 200, 2000]))
        found = guest.scan(verify_pages=256)
        assert found.mode == "precopy"
        assert guest.wrong(found) == 0
        process.stop_writing()
        for _ in range(rng.randrange(4)):
            first, count = rng.randrange(3800), rng.randrange(1, 200)
            act = rng.choice(["fill", "zero", "discard", "read", "touch"])
            if act == "fill":
                process.fill(first, count, rng.randrange(9), rng.randrange(1, 5))
            elif act == "zero":
                process.fill(first, count, 0, 0)
            elif act == "discard":
                process.discard(first, count)
            else:
                getattr(process, act)(range(first, first + count))


def test_idle_rescan_reads_almost_nothing(start_process: Any, witnessed: Callable[[WriterProcess], Witnessed]) -> None:
    process = start_process(8192)
    guest = witnessed(process)
    assert guest.scan().bytes_read >= process.size
    for _ in range(3):
        again = guest.scan()
        assert again.bytes_read <= 0.02 * process.size
        assert guest.pauses == 1  # a first scan has one more pause, before its first read
        assert guest.wrong(again) == 0


def test_only_what_was_written_since_is_read_again(
    start_process: Any, witnessed: Callable[[WriterProcess], Witnessed]
) -> None:
    process = start_process(8192)
    guest = witnessed(process)
    guest.scan()
    process.touch(range(0, 8192, 64))
    again = guest.scan()
    assert 128 * 4096 <= again.bytes_read <= 200 * 4096
    assert guest.wrong(again) == 0


@pytest.fixture
def naive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust soft-dirty bits without the workarounds."""
    both = PRESENT | SOFT_DIRTY
    monkeypatch.setattr(softdirty, "changed_pages", lambda entries, _digest, **_: (entries & both) == both)


def once_read(guest: Witnessed, act: Callable[[], None]) -> Callable[[], None]:
    """Return `act` without effect before the first pause of a first scan, because nothing has been read by then."""
    return lambda: act() if guest.pauses else None


def merged_meanwhile(process: WriterProcess, ksm: Ksm) -> Callable[[], None]:
    """Write zero pages. Return a function to call between the first reading and the pause: it changes the pages, and
    waits until KSM has merged them.
    """
    process.fill(100, 200, 0, 0)
    process.offer_to_ksm()
    merged = Path(f"/proc/{process.pid}/ksm_merging_pages")

    def act() -> None:
        process.fill(100, 200, 3, 1)
        ksm.start()
        # of this process, because the nested guest offers memory to KSM, too
        ksm.wait_until(lambda: int(merged.read_text()) >= 200)

    return act


@pytest.fixture
def merging(
    process: WriterProcess, ksm: Ksm, witnessed: Callable[[WriterProcess], Witnessed], tmp_path: Path
) -> Witnessed:
    guest = witnessed(process)
    guest.before = once_read(guest, merged_meanwhile(process, ksm))
    return guest


def test_pages_that_ksm_merged_are_read_again(merging: Witnessed) -> None:
    assert merging.wrong(merging.scan()) == 0


@pytest.mark.usefixtures("naive")
def test_ksm_pages_are_missed_without_workaround(merging: Witnessed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precopy, "SAMPLE_PAGES_WHILE_MERGING", 0)
    assert merging.wrong(merging.scan()) >= 190


@pytest.fixture
def offered(process: WriterProcess, ksm: Ksm, witnessed: Callable[[WriterProcess], Witnessed]) -> Witnessed:
    """The process with its memory offered to KSM, while KSM runs."""
    guest = witnessed(process)
    process.offer_to_ksm()
    ksm.start()
    return guest


def test_ksm_can_be_held_still_for_the_scan(offered: Witnessed, ksm: Ksm) -> None:
    seen: list[int] = []
    offered.before = lambda: seen.append(ksm.value("run"))
    assert offered.wrong(offered.scan(still_ksm=True)) == 0
    assert seen == [0, 0]
    assert ksm.value("run") == 1


def test_while_ksm_runs_nothing_is_taken_as_unchanged(offered: Witnessed, process: WriterProcess) -> None:
    offered.scan()
    assert offered.scan().bytes_read >= process.size


@pytest.mark.usefixtures("naive")
@pytest.mark.parametrize("verify_pages", [4096, 0], ids=["asked to check", "not asked, but KSM merges"])
def test_wrong_soft_dirty_bits_are_detected(merging: Witnessed, verify_pages: int) -> None:
    with pytest.raises(GuestError, match="sampled pages had changed") as caught:
        merging.scan(verify_pages=verify_pages)
    assert caught.value.reason is Reason.VERIFICATION
    merging.before = lambda: None
    found = merging.scan()
    assert found.mode == "snapshot"
    assert found.fallback is not None
    assert found.fallback.code == "distrusted"
    assert merging.wrong(found) == 0


def dropped_meanwhile(process: WriterProcess) -> Callable[[], None]:
    def act() -> None:
        process.discard(100, 50)
        process.read(range(100, 120))  # zero pages now, mapped by a read: present, and without the bit

    return act


def test_ballooned_pages_are_seen(process: WriterProcess, witnessed: Callable[[WriterProcess], Witnessed]) -> None:
    guest = witnessed(process)
    guest.before = once_read(guest, dropped_meanwhile(process))
    assert guest.wrong(guest.scan()) == 0


@pytest.mark.usefixtures("naive")
def test_ballooned_pages_are_missed_without_workaround(
    process: WriterProcess, witnessed: Callable[[WriterProcess], Witnessed]
) -> None:
    guest = witnessed(process)
    guest.before = once_read(guest, dropped_meanwhile(process))
    assert guest.wrong(guest.scan()) == 20


@pytest.mark.parametrize(("kind", "code"), [("memfd", "shared"), ("hugetlb", "hugetlb")])
def test_untracked_memory_is_not_precopied(
    start_process: Any, witnessed: Callable[[WriterProcess], Witnessed], kind: str, code: str
) -> None:
    guest = witnessed(start_process(1024, kind))
    found = guest.scan()
    assert found.mode == "snapshot"
    assert found.fallback is not None
    assert found.fallback.code == code
    assert guest.wrong(found) == 0


def test_shared_memory_falls_back_to_snapshot(
    start_process: Any, witnessed: Callable[[WriterProcess], Witnessed]
) -> None:
    process = start_process(1024, "memfd")
    guest = witnessed(process)
    with process.second_mapping() as window:

        def write() -> None:
            window[7 * 4096 : 8 * 4096] = b"x" * 4096

        guest.before = write
        found = guest.scan()
    assert found.mode == "snapshot"
    assert guest.wrong(found) == 0


def test_soft_dirty_bits_of_others_are_kept(
    process: WriterProcess, witnessed: Callable[[WriterProcess], Witnessed]
) -> None:
    daemon, beside = witnessed(process), witnessed(process)
    daemon.scan()
    process.touch([5])
    found = beside.scan()
    assert found.mode == "snapshot"
    assert found.fallback is not None
    assert found.fallback.code == "claimed"
    assert beside.wrong(found) == 0
    again = daemon.scan()
    assert again.mode == "precopy"
    assert again.bytes_read <= 0.1 * process.size
    assert daemon.wrong(again) == 0
    daemon.kept.forget()
    assert beside.scan().mode == "precopy"


def test_kvm_guest_digest_is_of_one_instant(kvm_guest: Writer, tmp_path: Path) -> None:
    hypervisor = LibvirtHypervisor("qemu:///system")
    hypervisor.connect()
    kvm_guest.fill(0, 4096, 5, 512)
    guest = describe(hypervisor.by_uuid(kvm_guest.domain.UUIDString()))
    guard = GuardClient(hypervisor.uri, tmp_path)
    suspender = Suspender(hypervisor, guest, guard, 3600, lambda: False)
    witnessed = Witnessed(guest.process.pid, guest.xml.blocks, suspender, tmp_path)
    whole = sum(guest.xml.blocks)
    try:
        for rate in (0, 50, 500, 0, 0):
            kvm_guest.tell(f"dirty {rate}")
            found = witnessed.scan(verify_pages=1024)
            assert found.mode == "precopy"
            assert witnessed.wrong(found) == 0
        # bits cover 2 MiB if the host backs the guest with huge pages, and guests are never completely idle
        assert found.bytes_read <= 0.5 * whole
    finally:
        kvm_guest.tell("dirty 0")
        guard.close()
        hypervisor.close()
