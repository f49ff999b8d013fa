"""What the daemon has the process that reads a guest's memory do: it asks, waits as long as it may, and checks.

Whatever the process says, it is the guest's word at best: numbers of pages are of that guest, and nothing is kept that
would be used for another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.btf_files import types_of
from samepaged.attribution.messages import CHECKED, answers, ascending, ownership_from, regions_of
from samepaged.attribution.page_buffer import PageBuffer
from samepaged.attribution.sandbox import PROGRAM, Limits, SandboxedProcess
from samepaged.attribution.wire import Channel
from samepaged.escape import printable
from samepaged.ipc import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.attribution.page_buffer import PageSource
    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.ram_map import RamMap
    from samepaged.attribution.wire import Message

__all__ = ["Prepared", "WorkerClient", "WorkerLimits", "WorkerRefused"]

# Seconds in which a process that is gone from its socket has to be gone altogether, so that its status tells why.
PARTING: Final = 0.1
# Pages that are had ready at a time for what is asked for one by one.
READY: Final = 1024
# Seconds in which an answer is taken that may have been there for long before it was asked for.
TAKING: Final = 5.0


class WorkerRefused(Exception):  # noqa: N818 - no error of ours: the guest's memory does not make sense
    """The process could not do it, and said why. `linux` says whether it had found a kernel."""

    def __init__(self, why: str, *, linux: bool) -> None:
        super().__init__(why)
        self.linux = linux


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a scan may take: bytes of the guest, seconds of thinking before and after the pause; whether the process
    must be under a filter, whether names are wanted, and where types are that kernels do not have themselves.
    """

    memory_limit: int
    time_limit: float
    seccomp: bool = True
    names: bool = False
    btf_directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was seen of the running guest: its profile (uint8, in no form of ours), and pages (int64, ascending): those
    that hold its struct pages, those that these chose (slabs, tables), and others that were needed.
    """

    profile: NDArray[np.uint8]
    array: NDArray[np.int64]
    selection: NDArray[np.int64]
    others: NDArray[np.int64]


class WorkerClient:
    """With one process about one guest, of `layouts` (the likeliest first). `copied` is what it reads. Methods raise
    ProtocolError where it is no use to go on; __init__ raises OSError where there can be no process.
    """

    def __init__(
        self, layouts: Sequence[RamMap], terms: WorkerLimits, stop: Callable[[], bool], program: Sequence[str] = PROGRAM
    ) -> None:
        self._layouts = layouts
        self._terms = terms
        pages = layouts[0].pages
        most = max(1, min(terms.memory_limit // PAGE_SIZE, pages))
        self.copied = PageBuffer(pages, most)
        try:
            limits = Limits.of(2 * terms.time_limit, pages, most, seccomp=terms.seccomp)
            self._child = SandboxedProcess(self.copied.file, pages, limits, program)
        except BaseException:
            self.copied.close()
            raise
        self._channel = Channel(self._child.socket, stop)
        self._forms = answers(pages)
        self._pages = pages
        self._asked = 0.0

    def last_words(self) -> str:
        """What is worth saying of how the process ended that is gone, or nothing."""
        return self._child.status(PARTING)

    def kill(self) -> None:
        """Let it do nothing any more; this takes no time, and `end` is still to be called."""
        self._child.kill()

    def end(self) -> None:
        """See the process end, and give the memory back."""
        self._child.end()
        self.copied.close()

    def look(
        self,
        source: PageSource,
        notes: NDArray[np.int64],
        profile: NDArray[np.uint8],
        blocks: NDArray[np.bool_],
        *,
        cold: bool,
    ) -> Prepared:
        """Have the running guest looked at, page by page; `blocks` says which blocks of its pages the host backs, of
        the others no struct pages are needed. Raises Refused.
        """
        deadline = self._deadline()
        self.copied.forget()
        asked = 0
        arrays: dict[str, NDArray[Any]] = {
            "regions": regions_of(self._layouts),
            "notes": notes,
            "profile": profile,
            "blocks": blocks.astype(np.uint8),
        }
        fields = {"cold": int(cold), "names": int(self._terms.names)}
        self._channel.send("begin", arrays, fields, deadline)
        while True:
            message = self._receive(("fetch", "types", "prepared"), deadline)
            if message.kind == "prepared":
                return Prepared(**message.arrays)
            if message.kind == "fetch":
                pages = message.arrays["pages"]
                self.copied.ready(max(len(pages), READY))
                self._channel.send("answer", {"slots": self.copied.add(source, pages)}, deadline=deadline)
            else:
                asked += 1
                if asked > len(self._layouts):  # once for each of them that shows a kernel
                    raise ProtocolError("it asked for types again and again")
                types = types_of(self._terms.btf_directory, message.fields["build"])
                self._channel.send("types", {"types": np.frombuffer(types, dtype=np.uint8)}, deadline=deadline)

    def choose(self, pages: NDArray[np.int64], deadline: float) -> None:
        """Have it choose by these pages, which are copied; `chosen` is its answer."""
        self._channel.send("held", {"pages": pages, "slots": self.copied.slots[pages]}, deadline=deadline)

    def chosen(self, deadline: float) -> NDArray[np.int64]:
        """The pages that it chose. Raises Refused."""
        pages: NDArray[np.int64] = self._receive(("selected",), deadline).arrays["pages"]
        return pages

    def think(self, pages: NDArray[np.int64]) -> None:
        """Have it think, now that these pages are copied, too; `thought` is its answer."""
        self._asked = self._deadline()
        self._channel.send("think", {"pages": pages, "slots": self.copied.slots[pages]}, deadline=self._asked)

    def thought(self) -> tuple[PageOwners, NDArray[np.int64]]:
        """What it found, and which pages it needed besides the struct pages and what these chose. Raises Refused."""
        message = self._receive(("ownership",), max(self._asked, time.monotonic() + TAKING))
        return ownership_from(message.fields, message.arrays), message.arrays["others"]

    def _deadline(self) -> float:
        return time.monotonic() + self._terms.time_limit

    def _receive(self, kinds: Sequence[str], deadline: float) -> Message:
        message = self._channel.receive({kind: self._forms[kind] for kind in (*kinds, "failed")}, deadline)
        if message.kind == "failed":
            raise WorkerRefused(
                printable(message.fields["why"] or "it did not say why"), linux=message.fields["linux"] == 1
            )
        for name in CHECKED.get(message.kind, ()):
            if not ascending(message.arrays[name], self._pages):
                raise ProtocolError(f"its {name} are no pages of the guest")
        return message
