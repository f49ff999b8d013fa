"""Fixtures inside the lab host: its libvirt, a guest under KVM, processes that write on command, soft-dirty bits, and
KSM.

There are no fallbacks: a lab host that lacks one of these has failed, so a skipped test counts as a failure, unless its
reason names a variable (SAMEPAGED_LAB_...) that enables it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import numpy as np
import pytest

from tests.support.guests import Spec, Writer, running
from tests.support.waiting import wait_for
from tests.vm.writer_process import PAGE, WriterProcess, writer_process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

IN_THE_LAB = os.environ.get("SAMEPAGED_LAB") == "1"
URI = "qemu:///system"
KSM = Path("/sys/kernel/mm/ksm")
# The nested guest, and its region: the part of its memory with contents that a test defines.
GUEST = "samepaged-lab"
GUEST_MEMORY = 128
REGION = 32
REGION_PAGES = REGION * 256

libvirt.registerErrorHandler(lambda *_: None, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not IN_THE_LAB:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="runs in the lab host: make test-vm"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected = hasattr(report, "wasxfail") or "SAMEPAGED_LAB_" in str(report.longrepr)
    if IN_THE_LAB and report.skipped and not expected:
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be missing: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def connection() -> Iterator[Any]:
    """The system's libvirt."""
    with contextlib.closing(libvirt.open(URI)) as connection:
        yield connection


@pytest.fixture(scope="session")
def kvm_guest(connection: Any) -> Iterator[Writer]:
    """A writer guest under KVM, for the whole run. Each test leaves it running, and defines the region's contents."""
    # Not below pytest's own directories, because QEMU's user cannot read them.
    with tempfile.TemporaryDirectory(prefix="lab-") as root:
        Path(root).chmod(0o755)
        spec = Spec(GUEST, memory=GUEST_MEMORY, accel="kvm", cmdline=f"region={REGION}")
        with running(connection, Path(root), spec) as (writer,):
            yield writer


@pytest.fixture(scope="session")
def kvm_guest_pid(kvm_guest: Writer) -> int:
    """The pid of the nested guest's QEMU."""
    return int(Path(f"/run/libvirt/qemu/{kvm_guest.name}.pid").read_text())


@pytest.fixture(autouse=True)
def the_guest_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a test does not leave the nested guest paused."""
    yield
    if "kvm_guest" in request.fixturenames:
        # A service that a test has left running may be scanning the guest.
        assert request.getfixturevalue("kvm_guest").runs_within(30), "the guest is left paused"


@pytest.fixture
def start_process() -> Iterator[Callable[..., WriterProcess]]:
    """Start writer processes, with `pages` and `kind` as in writer_process.KINDS; ended with the test."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    with contextlib.ExitStack() as stack:

        def start(pages: int = 1024, kind: str = "private") -> WriterProcess:
            if kind == "hugetlb":
                pool.write_text(str(-(-pages * PAGE // (2 << 20))))
                stack.callback(pool.write_text, before)
            return stack.enter_context(writer_process(pages, kind))

        yield start


@pytest.fixture
def process(start_process: Callable[..., WriterProcess]) -> WriterProcess:
    """A process with a private region of 1,024 pages of 4 KiB, all touched, all different."""
    return start_process()


class SoftDirty:
    """Soft-dirty bits, read without samepaged's code (Documentation/admin-guide/mm/soft-dirty.rst)."""

    def clear(self, pid: int) -> None:
        Path(f"/proc/{pid}/clear_refs").write_text("4")

    def entries(self, pid: int, address: int, pages: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(address // PAGE * 8)
            return np.fromfile(pagemap, np.uint64, pages)

    def pages(self, process: WriterProcess) -> list[int]:
        """Return the numbers of the region's pages that have the bit set."""
        return self.within(process.pid, process.address, process.pages)

    def within(self, pid: int, address: int, pages: int) -> list[int]:
        """Return the numbers of the pages that have the bit set, among the `pages` pages from `address` on."""
        found: list[int] = np.flatnonzero(self.entries(pid, address, pages) & np.uint64(1 << 55)).tolist()
        return found


@pytest.fixture(scope="session")
def soft_dirty() -> SoftDirty:
    return SoftDirty()


class Ksm:
    """Controls KSM (Documentation/admin-guide/mm/ksm.rst)."""

    def value(self, name: str) -> int:
        return int((KSM / name).read_text())

    def set(self, name: str, value: int) -> None:
        (KSM / name).write_text(str(value))

    def start(self) -> None:
        """Start fast merging, and return immediately."""
        self.set("pages_to_scan", 5000)
        self.set("sleep_millisecs", 5)
        self.set("run", 1)

    def wait_until(self, done: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until KSM has reached the condition."""
        wait_for(done, timeout, lambda: {path.name: path.read_text() for path in KSM.iterdir()}, every=0.05)


@pytest.fixture
def ksm() -> Iterator[Ksm]:
    """Idle KSM. After the test, all pages are unmerged and the settings are restored."""
    one = Ksm()
    names = ("pages_to_scan", "sleep_millisecs", "run")
    before = {name: one.value(name) for name in names}
    try:
        yield one
    finally:
        one.set("run", 2)
        for name, value in before.items():
            one.set(name, value)
