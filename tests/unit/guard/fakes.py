"""A guard, a guest and its journal entry, for tests of suspending and resuming."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samepaged.guard.journal import Entry, OpenEntry
from samepaged.guest_id import GuestId
from samepaged.hypervisor.guest import DomainXml, Guest
from samepaged.hypervisor.qemu_process import QemuProcess
from samepaged.procfs import boot_id
from tests.support.hypervisor import URI, UUID

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Entry(URI, UUID, 7, "web-1", boot_id())


@dataclass
class FakeGuard:
    """Records the requests; `overdue` says that it resumed the guest."""

    calls: list[str] = field(default_factory=list)
    overdue: bool = False
    refusal: Exception | None = None
    died: Exception | None = None

    def arm(self, name: str, uuid: str, number: int, seconds: float, *, dumping: bool) -> None:
        self.calls.append("arm")
        if self.refusal is not None:
            raise self.refusal

    def suspended(self, name: str) -> None:
        self.calls.append("suspended")
        if self.died is not None:
            raise self.died

    def dump_ended(self) -> None:
        self.calls.append("dump_ended")

    def disarm(self) -> bool:
        self.calls.append("disarm")
        return self.overdue

    def leave_open(self) -> None:
        self.calls.append("leave_open")


def guest(*, paused: bool = False) -> Guest:
    return Guest(
        "web-1", GuestId(URI, UUID), 7, paused, QemuProcess(1, 1), DomainXml((1 << 20,), encryption=None, vfio=False)
    )


def open_entry(directory: Path, entry: Entry = ENTRY) -> OpenEntry:
    path = directory / "suspended-4194000-1"
    path.write_bytes(entry.line())
    return OpenEntry(path, entry, 0.0)
