"""The attribution worker, the process that reads a guest's memory: `python -I -m samepaged.attribution.worker`."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.ma  # np.unique imports it on its first call, when the sandbox forbids imports

from samepaged.attribution.guest_ram import PAGE_WORDS, GuestRam, Unreadable
from samepaged.attribution.messages import BLOCK_PAGES, MAX_LINE_CHARS, page_owners_to_message, requests, without_names
from samepaged.attribution.page_owners import KIND
from samepaged.attribution.ram_map import RamMap, RamRegion
from samepaged.attribution.sandbox import confine
from samepaged.attribution.wire import Channel
from samepaged.ipc import ProtocolError
from samepaged.privileges import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.kernel_analysis import KernelAnalysis
    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.wire import Message

__all__ = ["Worker", "main"]

REGION_COLUMNS: Final = 3  # of a layout's regions: the layout's number, start, size


class Worker:
    """Serves requests: inspects the running guest through fetched pages, then attributes the pages of one instant."""

    def __init__(self, channel: Channel, words: NDArray[np.uint64], pages: int, analysis: KernelAnalysis[Any]) -> None:
        self._channel = channel
        self._words = words
        self._analysis = analysis
        self._pages = pages
        self._slots = np.full(pages, -1, dtype=np.int32)
        self._inspecting = False
        self._expected_pages = np.zeros(pages, dtype=np.bool_)  # struct pages, and the selection
        self._unbacked_struct_pages = np.zeros(pages, dtype=np.bool_)  # those of pages that the host does not back
        self._backed = np.ones(pages, dtype=np.bool_)
        self._notes: list[int] = []
        self._names = False
        self._kernel: tuple[GuestRam, Any] | None = None

    def run(self) -> None:
        """Handle requests until the channel closes. Raises ProtocolError."""
        while True:
            order = self._channel.receive(requests(self._pages))
            try:
                self._handle(order)
            except ProtocolError:
                raise
            except Unreadable as error:
                self._fail(str(error), linux=order.kind != "inspect")
            except MemoryError:
                self._fail("memory limit of the worker exceeded", linux=True)
            except Exception as error:  # noqa: BLE001 - any error concerns only this guest
                self._fail(_describe(error), linux=True)

    def _handle(self, order: Message) -> None:
        match order.kind:
            case "inspect":
                self._inspect(order)
            case "select":
                self._select(order)
            case "attribute":
                self._attribute(order)
            case _:
                raise ProtocolError("reply without a request")

    def _inspect(self, order: Message) -> None:
        self._slots.fill(-1)
        self._kernel = None
        self._notes = order.arrays["notes"].tolist()
        self._names = bool(order.fields["names"])
        self._inspecting = True
        self._backed = np.repeat(order.arrays["blocks"] != 0, BLOCK_PAGES)[: self._pages]
        self._unbacked_struct_pages.fill(False)
        ram, opened = self._kernel = self._open(_layouts(order.arrays["regions"]), order.arrays["profile"].tobytes())
        array, spared = self._analysis.struct_page_pages(opened, self._backed)
        self._unbacked_struct_pages[spared] = True
        selection = self._analysis.slab_and_table_pages(opened)
        if order.fields["full"]:
            # The guest runs, so the result is inconsistent; only the set of pages that were read is of use.
            with contextlib.suppress(Exception):
                self._analysis.attribute(opened)
        self._inspecting = False
        self._expected_pages[:] = self._unbacked_struct_pages
        self._expected_pages[array] = self._expected_pages[selection] = True
        profile = self._analysis.profile(opened)
        self._channel.send(
            "inspection",
            {
                "profile": np.frombuffer(profile, dtype=np.uint8),
                "struct_pages": array.astype("<i8"),
                "selected_pages": selection.astype("<i8"),
                "extra_pages": self._extra_pages(ram),
            },
        )

    def _open(self, layouts: Sequence[RamMap], profile: bytes) -> tuple[GuestRam, Any]:
        """Open the kernel with the first layout that works."""
        trouble: Unreadable | None = None
        for layout in layouts:
            ram = GuestRam(self._words, layout, self._slots, self._fetch)
            try:
                return ram, self._analysis.open(ram, self._notes, profile, self._find_btf)
            except Unreadable as error:
                trouble = trouble or error
        raise trouble or Unreadable("no layout of the guest's memory")

    def _select(self, order: Message) -> None:
        _, opened = self._require_kernel()
        self._slots.fill(-1)
        self._slots[order.arrays["pages"]] = order.arrays["slots"]
        selection = self._analysis.slab_and_table_pages(opened)
        self._expected_pages[selection] = True
        self._channel.send("selection", {"pages": selection.astype("<i8")})

    def _attribute(self, order: Message) -> None:
        before, opened = self._require_kernel()
        self._slots[order.arrays["pages"]] = order.arrays["slots"]
        profile = self._analysis.profile(opened)
        self._kernel = None
        del opened
        gc.collect()
        ram, fresh = self._open([before.layout], profile)
        found = self._mark_absent(self._analysis.attribute(fresh), ram)
        if not self._names:
            found = without_names(found)
        fields, arrays = page_owners_to_message(found)
        self._channel.send("attribution", {**arrays, "extra_pages": self._extra_pages(ram)}, fields)

    def _require_kernel(self) -> tuple[GuestRam, Any]:
        if self._kernel is None:
            raise ProtocolError("request without a kernel; inspect the guest first")
        return self._kernel

    def _mark_absent(self, found: PageOwners, ram: GuestRam) -> PageOwners:
        """Mark pages that the host does not back: their struct pages were not read."""
        never = ~self._backed & np.isin(found.kinds, [KIND["reserved"], KIND["unknown"]])
        found.kinds[never], found.labels[never] = KIND["absent"], -1
        return replace(found, missing=int(np.count_nonzero(ram.missing & ~self._unbacked_struct_pages)))

    def _extra_pages(self, ram: GuestRam) -> NDArray[np.int64]:
        """Return the pages read besides the struct pages and the selection."""
        return np.flatnonzero(ram.touched & ~self._expected_pages).astype("<i8")

    def _fetch(self, pages: NDArray[np.int64]) -> None:
        pages = pages[~self._unbacked_struct_pages[pages]]
        if self._inspecting and len(pages):
            self._channel.send("fetch", {"pages": pages.astype("<i8")})
            slots = self._channel.receive({"page_slots": requests(self._pages)["page_slots"]}).arrays["slots"]
            if len(slots) != len(pages):
                raise ProtocolError("wrong number of slots in page_slots")
            self._slots[pages] = slots

    def _find_btf(self, build: str) -> bytes | None:
        if not self._inspecting:
            return None
        self._channel.send("find_btf", fields={"build_id": build})
        return self._channel.receive({"btf": requests(self._pages)["btf"]}).arrays["btf"].tobytes() or None

    def _fail(self, reason: str, *, linux: bool) -> None:
        self._inspecting = False
        self._channel.send("error", fields={"reason": " ".join(reason.split())[:MAX_LINE_CHARS], "linux": int(linux)})


def _layouts(rows: NDArray[np.int64]) -> list[RamMap]:
    regions: dict[int, list[RamRegion]] = {}
    for number, start, size in (
        rows[: len(rows) // REGION_COLUMNS * REGION_COLUMNS].reshape(-1, REGION_COLUMNS).tolist()
    ):
        regions.setdefault(number, []).append(RamRegion(start, size))
    return [RamMap(tuple(found)) for found in regions.values()]


def _describe(error: Exception) -> str:
    """Return type and place of an unexpected error, without its text, which the guest may control."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}{where}; please report it"


def main(analysis: KernelAnalysis[Any], arguments: Sequence[str] = ()) -> None:
    """Drop all privileges, then serve. SandboxedProcess passes the `arguments`. Raises PrivilegeError."""
    sock, file, pages, seconds, memory, must_filter = map(int, arguments or sys.argv[1:])
    channel = Channel(socket.socket(fileno=sock))
    area = mmap.mmap(file, os.fstat(file).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(file)
    area.madvise(mmap.MADV_DONTDUMP)
    words = np.frombuffer(area, dtype=np.uint64).reshape(-1, PAGE_WORDS)
    reader = Worker(channel, words, pages, analysis)
    try:
        confine(seconds, memory, must_filter=bool(must_filter))
        reader.run()
    except PrivilegeError as error:
        channel.send("error", fields={"reason": str(error)[:MAX_LINE_CHARS], "linux": 1})
    except ProtocolError:
        pass  # the daemon has closed the channel


if __name__ == "__main__":
    from samepaged.attribution.kernel_analysis import LinuxAnalysis

    main(LinuxAnalysis())
