"""The lab host has the expected parts: a Debian with soft-dirty bits in its kernel, KVM, libvirt, and samepaged from
its wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt

import samepaged
from samepaged.memory import hashing
from tests.support.waiting import wait_for
from tests.vm.conftest import GUEST_MEMORY, REGION_PAGES, URI
from tests.vm.writer_process import HUGE_PAGE, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.guests import Writer
    from tests.vm.conftest import Ksm, SoftDirty
    from tests.vm.writer_process import WriterProcess

RUNNING, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED
SAMEPAGED = "/usr/local/bin/samepaged"


# --- the kernel


def test_exactly_the_written_pages_are_soft_dirty(process: WriterProcess, soft_dirty: SoftDirty) -> None:
    assert len(soft_dirty.pages(process)) == process.pages
    soft_dirty.clear(process.pid)
    assert soft_dirty.pages(process) == []
    process.read(range(100))
    assert soft_dirty.pages(process) == []
    process.touch([3, 5, 1023])
    assert soft_dirty.pages(process) == [3, 5, 1023]


def test_a_huge_page_is_soft_dirty_as_a_whole(
    start_process: Callable[..., WriterProcess], soft_dirty: SoftDirty
) -> None:
    process = start_process(2048, "huge")
    soft_dirty.clear(process.pid)
    process.touch([700])
    assert soft_dirty.pages(process) == list(range(512, 1024))


def test_suspended_process_does_not_write(process: WriterProcess, soft_dirty: SoftDirty) -> None:
    process.keep_writing(seed=1, pages_a_second=1000)
    with process.suspended():
        soft_dirty.clear(process.pid)
        time.sleep(0.2)
        assert soft_dirty.pages(process) == []
    wait_for(lambda: soft_dirty.pages(process), 20)
    process.stop_writing()


def test_discarded_pages_are_absent_and_read_as_zeros(process: WriterProcess, soft_dirty: SoftDirty) -> None:
    process.discard(10, 5)
    present = soft_dirty.entries(process.pid, process.address, process.pages) >> 63
    assert [page for page in range(process.pages) if not present[page]] == [10, 11, 12, 13, 14]
    assert process.content()[10] == bytes(PAGE)


def test_a_second_mapping_writes_what_the_process_reads(start_process: Callable[..., WriterProcess]) -> None:
    process = start_process(16, "memfd")
    with process.second_mapping() as window:
        window[7 * PAGE : 8 * PAGE] = b"x" * PAGE
    assert process.content()[7] == b"x" * PAGE


def test_hugetlb_pages_are_available(start_process: Callable[..., WriterProcess]) -> None:
    process = start_process(2 * HUGE_PAGE // PAGE, "hugetlb")
    smaps = Path(f"/proc/{process.pid}/smaps").read_text()
    assert f"Private_Hugetlb:{2 * HUGE_PAGE >> 10:8} kB" in smaps


def test_ksm_merges_madvised_pages(process: WriterProcess, ksm: Ksm) -> None:
    process.fill(0, 100, seed=7, distinct=1)
    process.offer_to_ksm()
    ksm.start()
    # Of this process only, because the nested guest, which an earlier test may have started, offers its memory as well.
    merged = Path(f"/proc/{process.pid}/ksm_merging_pages")
    ksm.wait_until(lambda: int(merged.read_text()) == 100)


# --- KVM and libvirt


def test_the_nested_guest_runs_under_kvm(kvm_guest: Writer, kvm_guest_pid: int) -> None:
    opened = {str(path.readlink()) for path in Path(f"/proc/{kvm_guest_pid}/fd").iterdir()}
    assert {"/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"} <= opened


def ram(pid: int) -> int:
    """Return the address of the nested guest's RAM: the only mapping of its size."""
    ranges = [line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    (start,) = (int(start, 16) for start, end in ranges if int(end, 16) - int(start, 16) == GUEST_MEMORY << 20)
    return start


def test_libvirt_suspends_and_resumes_the_guest(kvm_guest: Writer, kvm_guest_pid: int, soft_dirty: SoftDirty) -> None:
    where = kvm_guest_pid, ram(kvm_guest_pid), GUEST_MEMORY * 256
    kvm_guest.tell("dirty 500")
    kvm_guest.domain.suspend()
    try:
        assert kvm_guest.domain.state()[0] == PAUSED
        soft_dirty.clear(kvm_guest_pid)
        time.sleep(1)
        assert soft_dirty.within(*where) == []
    finally:
        kvm_guest.domain.resume()
    assert kvm_guest.domain.state()[0] == RUNNING
    wait_for(lambda: soft_dirty.within(*where), 20)
    kvm_guest.tell("dirty 0")


# --- samepaged, from its wheel


def test_samepaged_is_the_installed_wheel() -> None:
    assert Path(samepaged.__file__).is_relative_to(sys.prefix)
    assert hashing.NativeHasher().name == "native"
    assert Path(SAMEPAGED).resolve().is_relative_to(sys.prefix)


def scan(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [SAMEPAGED, "scan", "--json", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_samepaged_counts_the_nested_guest(kvm_guest: Writer) -> None:
    def domain() -> dict[str, Any]:
        (found,) = scan("--connect", URI, kvm_guest.name)["domains"]
        return dict(found)

    kvm_guest.fill(0, REGION_PAGES, seed=1, distinct=REGION_PAGES)
    before = domain()
    kvm_guest.fill(0, 1000, seed=7, distinct=10)
    after = domain()
    assert after["duplicate_pages"] - before["duplicate_pages"] == 990
    states = ("absent", "swapped", "zero", "distinct", "duplicate")
    assert sum(after[f"{state}_pages"] for state in states) == after["memory_pages"] == GUEST_MEMORY * 256
    assert kvm_guest.domain.state()[0] == RUNNING
