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
import numpy.ma  # np.unique loads it when it is first called, and then it is too late for loading anything

from samepaged.attribution.guest_ram import WORDS, Ram, Unreadable
from samepaged.attribution.messages import BLOCK, LONGEST_LINE, nameless, orders, ownership_parts
from samepaged.attribution.page_owners import KIND
from samepaged.attribution.ram_map import RamMap, RamRegion
from samepaged.attribution.sandbox import confine
from samepaged.attribution.wire import Channel
from samepaged.ipc import ProtocolError
from samepaged.privileges import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.kernel_analysis import Analysis
    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.wire import Message

__all__ = ["Worker", "main"]

COLUMNS: Final = 3  # of a layout's regions: the layout's number, start, size


class Worker:
    """Looks at a guest twice: while it runs, by pages that it asks for, and at one instant, by what was copied then."""

    def __init__(self, channel: Channel, words: NDArray[np.uint64], pages: int, analysis: Analysis[Any]) -> None:
        self._channel = channel
        self._words = words
        self._analysis = analysis
        self._pages = pages
        self._slots = np.full(pages, -1, dtype=np.int32)
        self._running = False
        self._known = np.zeros(pages, dtype=np.bool_)  # in the array of struct pages, or chosen by it
        self._spared = np.zeros(pages, dtype=np.bool_)  # in that array, for pages that the host does not back
        self._backed = np.ones(pages, dtype=np.bool_)
        self._notes: list[int] = []
        self._names = False
        self._opened: tuple[Ram, Any] | None = None

    def run(self) -> None:
        """Do as it is told, until nobody tells it anything any more. Raises ProtocolError."""
        while True:
            order = self._channel.receive(orders(self._pages))
            try:
                self._do(order)
            except ProtocolError:
                raise
            except Unreadable as error:
                self._fail(str(error), linux=order.kind != "begin")
            except MemoryError:
                self._fail("it needed more memory than it may have", linux=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is of this guest
                self._fail(_told(error), linux=True)

    def _do(self, order: Message) -> None:
        match order.kind:
            case "begin":
                self._prepare(order)
            case "held":
                self._select(order)
            case "think":
                self._think(order)
            case _:
                raise ProtocolError("it answered what nobody asked")

    def _prepare(self, order: Message) -> None:
        self._slots.fill(-1)
        self._opened = None
        self._notes = order.arrays["notes"].tolist()
        self._names = bool(order.fields["names"])
        self._running = True
        self._backed = np.repeat(order.arrays["blocks"] != 0, BLOCK)[: self._pages]
        self._spared.fill(False)
        ram, opened = self._opened = self._open(_layouts(order.arrays["regions"]), order.arrays["profile"].tobytes())
        array, spared = self._analysis.array_pages(opened, self._backed)
        self._spared[spared] = True
        selection = self._analysis.selected(opened)
        if order.fields["cold"]:
            # What it finds is of no instant; which pages it needs for that is what is to be known.
            with contextlib.suppress(Exception):
                self._analysis.attribute(opened)
        self._running = False
        self._known[:] = self._spared
        self._known[array] = self._known[selection] = True
        profile = self._analysis.profile(opened)
        self._channel.send(
            "prepared",
            {
                "profile": np.frombuffer(profile, dtype=np.uint8),
                "array": array.astype("<i8"),
                "selection": selection.astype("<i8"),
                "others": self._others(ram),
            },
        )

    def _open(self, layouts: Sequence[RamMap], profile: bytes) -> tuple[Ram, Any]:
        """The kernel, by the first of the layouts that shows one."""
        trouble: Unreadable | None = None
        for layout in layouts:
            ram = Ram(self._words, layout, self._slots, self._fetch)
            try:
                return ram, self._analysis.open(ram, self._notes, profile, self._types)
            except Unreadable as error:
                trouble = trouble or error
        raise trouble or Unreadable("no layout of its memory")

    def _select(self, order: Message) -> None:
        _, opened = self._needed()
        self._slots.fill(-1)
        self._slots[order.arrays["pages"]] = order.arrays["slots"]
        selection = self._analysis.selected(opened)
        self._known[selection] = True
        self._channel.send("selected", {"pages": selection.astype("<i8")})

    def _think(self, order: Message) -> None:
        before, opened = self._needed()
        self._slots[order.arrays["pages"]] = order.arrays["slots"]
        profile = self._analysis.profile(opened)
        self._opened = None
        del opened
        gc.collect()
        ram, fresh = self._open([before.layout], profile)
        found = self._spare(self._analysis.attribute(fresh), ram)
        if not self._names:
            found = nameless(found)
        fields, arrays = ownership_parts(found)
        self._channel.send("ownership", {**arrays, "others": self._others(ram)}, fields)

    def _needed(self) -> tuple[Ram, Any]:
        if self._opened is None:
            raise ProtocolError("it has not been told of the guest")
        return self._opened

    def _spare(self, found: PageOwners, ram: Ram) -> PageOwners:
        """Of pages that the host does not back no struct page was looked at: they have never been used, free or not."""
        never = ~self._backed & np.isin(found.kinds, [KIND["reserved"], KIND["unknown"]])
        found.kinds[never], found.labels[never] = KIND["absent"], -1
        return replace(found, missing=int(np.count_nonzero(ram.missing & ~self._spared)))

    def _others(self, ram: Ram) -> NDArray[np.int64]:
        """What was needed besides the struct pages and what they choose."""
        return np.flatnonzero(ram.touched & ~self._known).astype("<i8")

    def _fetch(self, pages: NDArray[np.int64]) -> None:
        pages = pages[~self._spared[pages]]
        if self._running and len(pages):
            self._channel.send("fetch", {"pages": pages.astype("<i8")})
            slots = self._channel.receive({"answer": orders(self._pages)["answer"]}).arrays["slots"]
            if len(slots) != len(pages):
                raise ProtocolError("it answered something else")
            self._slots[pages] = slots

    def _types(self, build: str) -> bytes | None:
        if not self._running:
            return None
        self._channel.send("types", fields={"build": build})
        return self._channel.receive({"types": orders(self._pages)["types"]}).arrays["types"].tobytes() or None

    def _fail(self, why: str, *, linux: bool) -> None:
        self._running = False
        self._channel.send("failed", fields={"why": " ".join(why.split())[:LONGEST_LINE], "linux": int(linux)})


def _layouts(rows: NDArray[np.int64]) -> list[RamMap]:
    regions: dict[int, list[RamRegion]] = {}
    for number, start, size in rows[: len(rows) // COLUMNS * COLUMNS].reshape(-1, COLUMNS).tolist():
        regions.setdefault(number, []).append(RamRegion(start, size))
    return [RamMap(tuple(found)) for found in regions.values()]


def _told(error: Exception) -> str:
    """What an error that nobody foresaw is to be told of: not its text, which may be the guest's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}{where}; please report it"


def main(analysis: Analysis[Any], arguments: Sequence[str] = ()) -> None:
    """Give up everything, then read; `arguments` are those that sandbox.Child gives. Raises PrivilegeError."""
    sock, file, pages, seconds, memory, must_filter = map(int, arguments or sys.argv[1:])
    channel = Channel(socket.socket(fileno=sock))
    area = mmap.mmap(file, os.fstat(file).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(file)
    area.madvise(mmap.MADV_DONTDUMP)
    words = np.frombuffer(area, dtype=np.uint64).reshape(-1, WORDS)
    reader = Worker(channel, words, pages, analysis)
    try:
        confine(seconds, memory, must_filter=bool(must_filter))
        reader.run()
    except PrivilegeError as error:
        channel.send("failed", fields={"why": str(error)[:LONGEST_LINE], "linux": 1})
    except ProtocolError:
        pass  # the daemon has what it wanted, or wants no more


if __name__ == "__main__":
    from samepaged.attribution.kernel_analysis import Linux

    main(Linux())
