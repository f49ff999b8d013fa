"""A scan with page attribution, and a copy of all of the guest's memory at the instant of the suspension."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import GuestRam
from samepaged.attribution.linux.kernel import Kernel
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.page_owners import KIND, KINDS
from samepaged.attribution.ram_map import ram_maps
from samepaged.attribution.session import AttributionSession, GuestKernelCache
from samepaged.config import SourcesConfig
from samepaged.memory.capture import capture
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.reader import Capture, GuestControl, GuestMemory
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.ram_map import RamMap
    from samepaged.hypervisor.guest import Guest
    from samepaged.memory.observer import PageAccess, PageObserver
    from samepaged.memory.reader import Pause
    from samepaged.memory.scan_state import ScanState

__all__ = ["differences", "scanned", "whole"]

MARK = int.from_bytes(b"OSRELEAS", "little")


class Whole:
    """A PageObserver that delegates to another one, and copies all memory while the guest is suspended."""

    def __init__(self, inner: AttributionSession) -> None:
        self.inner = inner
        self.words: NDArray[np.uint64] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    @contextlib.contextmanager
    def while_suspended(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> Iterator[None]:
        with self.inner.while_suspended(copies, written):
            yield
        pages = np.arange(copies.pages, dtype=np.int64)
        buffer = bytearray(copies.pages * PAGE_SIZE)
        places = copies.copy(pages, memoryview(buffer))
        held = places >= 0
        self.words = np.zeros((copies.pages, PAGE_SIZE // 8), dtype=np.uint64)
        self.words[held] = np.frombuffer(buffer, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)[places[held]]


def scanned(
    guest: Guest, pause: Pause, kept: ScanState, known: GuestKernelCache, mode: str, directory: Path
) -> tuple[Capture, PageOwners, PageOwners]:
    """Scan a guest once. Return the capture, the page attribution of the scan, and the attribution from the copy of all
    memory.
    """
    layout = next(ram_maps(guest.xml.machine, guest.xml.memory))
    attendant = AttributionSession(
        known, [layout], SourcesConfig(memory_limit=1 << 30, time_limit=60, names=True), lambda: False
    )
    source = GuestMemory(guest.process.pid, guest.xml.blocks, paused=False, vfio=False)
    control = GuestControl(pause, lambda _: None, directory)
    request = scan_request(mode, "process", 60.0, 1.0)
    with attendant:
        whole_ = Whole(attendant)
        witness: PageObserver = whole_  # type: ignore[assignment]  # the rest is delegated to `inner`
        found = capture(source, control, Hashing(best_hasher(), 7, 1, lambda: False), request, kept, witness)
        attendant.start_attribution()
        owned = attendant.finish()
    assert whole_.words is not None
    return found, owned, whole(whole_.words, layout)


def whole(words: NDArray[np.uint64], layout: RamMap) -> PageOwners:
    """Return the page attribution of a complete memory."""
    ram = GuestRam(words, layout)
    return label_pages(Kernel.open(ram, np.flatnonzero(words[:, 0] == MARK).tolist(), None, None))


def differences(found: PageOwners, truth: PageOwners) -> list[str]:
    """Return a line for each page with different attribution in `found` and `truth`. Pages that are absent or unknown
    in `found` are left out.
    """
    silent = {KIND["absent"], KIND["unknown"]}
    users = [_users(one) for one in (found, truth)]
    told = []
    for page in range(len(found.kinds)):
        if found.kinds[page] in silent:
            continue
        one, other = (
            (KINDS[of.kinds[page]], _name(of, page), int(of.offsets[page]), int(of.modes[page]), using.get(page, set()))
            for of, using in zip((found, truth), users, strict=True)
        )
        if one != other:
            told.append(f"page {page} is {one}, and by all of the memory {other}")
    return told


def _name(of: PageOwners, page: int) -> str | None:
    return None if of.labels[page] < 0 else of.names[of.labels[page]]


def _users(of: PageOwners) -> dict[int, set[str]]:
    users: dict[int, set[str]] = {}
    for page, by in zip(of.used_pages.tolist(), of.used_by.tolist(), strict=True):
        users.setdefault(page, set()).add(of.processes[by])
    return users
