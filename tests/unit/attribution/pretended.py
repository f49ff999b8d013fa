"""A guest with its memory in a numpy array and a fake kernel, and workers that behave well or badly.

The note's page has, after the mark, the location of the struct page array (first page, pages), and a further page that
the analysis needs. The array has the numbers of the selected pages, 0 for none. The first word of a selected page is
its kind.

As a program, this module is the worker: `python -I pretended.py HOW`, plus the arguments of SandboxedProcess.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution import messages, worker
from samepaged.attribution.guest_ram import PAGE_WORDS, GuestRam, Unreadable
from samepaged.attribution.page_owners import KIND, PageOwners
from samepaged.attribution.ram_map import RamMap, RamRegion
from samepaged.attribution.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MARK = b"OSRELEASE="
PAGES = 256
LAYOUTS = [RamMap((RamRegion(0, PAGES * PAGE_SIZE),))]
NOTE, ARRAY, ARRAY_PAGES, OTHER = 7, 20, 4, 99
CHOSEN = (50, 51, 60)


def program(how: str) -> tuple[str, str]:
    return (str(Path(__file__)), how)


@dataclass
class Guest:
    """A PageProvider; `asked` has the copied pages, in order."""

    words: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((PAGES, PAGE_WORDS), dtype=np.uint64))
    unbacked: frozenset[int] = frozenset()
    swapped: frozenset[int] = frozenset()
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.words[NOTE].view(np.uint8)[: len(MARK)] = np.frombuffer(MARK, dtype=np.uint8)
        self.words[NOTE, 2:5] = ARRAY, ARRAY_PAGES, OTHER
        self.words[OTHER, 0] = 5
        self.choose(*CHOSEN)

    def choose(self, *pages: int) -> None:
        self.words[ARRAY : ARRAY + ARRAY_PAGES] = 0
        for number, page in enumerate(pages):
            self.words[ARRAY + number % ARRAY_PAGES, number // ARRAY_PAGES] = page
            self.words[page, 0] = KIND["slab"]

    @property
    def pages(self) -> int:
        return len(self.words)

    def copy(self, pages: NDArray[np.int64], out: memoryview) -> NDArray[np.int32]:
        places = np.full(len(pages), -1, dtype=np.int32)
        done = 0
        for at, page in enumerate(pages.tolist()):
            self.asked.append(page)
            if page in self.swapped:
                places[at] = -2
            elif page not in self.unbacked:
                out[done * PAGE_SIZE : (done + 1) * PAGE_SIZE] = self.words[page].tobytes()
                places[at] = done
                done += 1
        return places

    @property
    def present(self) -> NDArray[np.bool_]:
        return np.array([page not in self.unbacked | self.swapped for page in range(self.pages)], dtype=np.bool_)

    @property
    def absent(self) -> NDArray[np.bool_]:
        return np.array([page in self.unbacked for page in range(self.pages)], dtype=np.bool_)

    def starting_with(self, mark: bytes) -> NDArray[np.int64]:
        return np.array(
            [page for page in range(self.pages) if self.words[page].tobytes().startswith(mark)], dtype=np.int64
        )


class Pretended:
    """KernelAnalysis of the fake kernel."""

    def open(
        self, ram: GuestRam, notes: Sequence[int], profile: bytes, types: Callable[[str], bytes | None]
    ) -> tuple[GuestRam, list[int]]:
        del profile, types
        for note in notes:
            words, ok = ram.gather(np.array([note * PAGE_SIZE], dtype=np.int64), 40)
            if ok[0] and words[0, 2]:
                return ram, words[0, 2:5].tolist()
        raise Unreadable("no kernel in any of the notes")

    def profile(self, kernel: tuple[GuestRam, list[int]]) -> bytes:
        return json.dumps(kernel[1]).encode()

    def struct_page_pages(
        self, kernel: tuple[GuestRam, list[int]], backed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        array = self._array(kernel)
        return array[backed[array]], array[~backed[array]]

    def _array(self, kernel: tuple[GuestRam, list[int]]) -> NDArray[np.int64]:
        _, (first, count, _) = kernel
        return np.arange(first, first + count, dtype=np.int64)

    def slab_and_table_pages(self, kernel: tuple[GuestRam, list[int]]) -> NDArray[np.int64]:
        ram, _ = kernel
        words, _ = ram.gather(self._array(kernel) * PAGE_SIZE, PAGE_SIZE)
        return np.unique(words[words != 0]).astype(np.int64)

    def attribute(self, kernel: tuple[GuestRam, list[int]]) -> PageOwners:
        ram, (_, _, other) = kernel
        found = PageOwners.unknown(ram.pages, "", "pretended")
        chosen = self.slab_and_table_pages(kernel)
        words, ok = ram.gather(np.append(chosen, other) * PAGE_SIZE, 8)
        found.kinds[chosen[ok[:-1]]] = words[:-1][ok[:-1], 0].astype(np.uint8)
        found.labels[chosen] = 0
        found.kinds[other], found.labels[other], found.offsets[other] = KIND["library"], 1, int(words[-1, 0])
        return PageOwners(
            kinds=found.kinds,
            labels=found.labels,
            offsets=found.offsets,
            modes=found.modes,
            names=("slab of\na kind", "/lib/secret.so"),
            used_pages=np.array([other, other], dtype=np.int32),
            used_by=np.array([1, 0], dtype=np.int32),
            processes=("sshd", "apache2"),
            kernel="pretended",
            missing=int(np.count_nonzero(ram.missing)),
        )


def _raise() -> None:
    raise RuntimeError("the guest's own words")


def _impossible() -> None:
    raise Unreadable("a task at 0x123")


def _hang() -> None:
    while True:
        pass


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(np.ones(1 << 24, dtype=np.uint8))


def _rubbish() -> None:
    _say(b"\0" * 4096)


def _endless_header() -> None:
    _say(b"SPS1" + b"\xff" * 4)


def _fork() -> None:
    os.fork()


def _connect() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _kill() -> None:
    os.kill(1, 0)


def _open() -> None:
    with contextlib.suppress(PermissionError):
        Path("/etc/passwd").read_text()
        raise RuntimeError("it was read")


def _leave() -> None:
    os._exit(3)


def _sleep() -> None:
    time.sleep(600)


def _say(raw: bytes) -> None:
    os.write(int(sys.argv[2]), raw)


HOW: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "impossible": _impossible,
    "hang": _hang,
    "eat": _eat,
    "rubbish": _rubbish,
    "endless-header": _endless_header,
    "fork": _fork,
    "connect": _connect,
    "kill": _kill,
    "open": _open,
    "leave": _leave,
    "sleep": _sleep,
}


class Bad(Pretended):
    """Misbehaves in the attribution, or (`-choosing`) in the selection while the guest is suspended. The inspection
    before it makes the selection twice.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self._choices = 0

    def slab_and_table_pages(self, kernel: Any) -> NDArray[np.int64]:
        self._choices += 1
        if self._how.endswith("-choosing") and self._choices > 2:
            HOW[self._how.removesuffix("-choosing")]()
        return super().slab_and_table_pages(kernel)

    def open(self, ram: GuestRam, notes: Sequence[int], profile: bytes, types: Callable[[str], bytes | None]) -> Any:
        while self._how == "asking":
            types("0123456789abcdef")
        if self._how == "lost":  # from the start
            _hang()
        return super().open(ram, notes, profile, types)

    def profile(self, kernel: Any) -> bytes:
        if self._how == "deaf":  # after the profile is sent
            Channel.receive = lambda *_: _hang()  # type: ignore[method-assign,assignment]
        return super().profile(kernel)

    def attribute(self, kernel: Any) -> PageOwners:
        if self._how in HOW:
            HOW[self._how]()
        return super().attribute(kernel)


if __name__ == "__main__":
    if sys.argv[1] == "by-twos":
        worker.BLOCK_PAGES = messages.BLOCK_PAGES = 2  # type: ignore[attr-defined,misc] # so that a small guest has several blocks
    worker.main(Bad(sys.argv[1]), sys.argv[2:])
