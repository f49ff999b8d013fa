"""The client of the attribution worker: sends requests, waits up to a deadline, and checks the replies.

Replies are untrusted: page numbers must lie in that guest, and no reply is used for another guest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.btf_files import read_btf_file
from samepaged.attribution.messages import (
    PAGE_NUMBER_ARRAYS,
    are_page_numbers,
    page_owners_from_message,
    regions_of,
    replies,
)
from samepaged.attribution.page_buffer import PageBuffer
from samepaged.attribution.sandbox import PROGRAM, Limits, SandboxedProcess
from samepaged.attribution.wire import Channel
from samepaged.escape import printable
from samepaged.ipc import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.page_buffer import PageProvider
    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.ram_map import RamMap
    from samepaged.attribution.wire import Message
    from samepaged.config import SourcesConfig

__all__ = ["GuestInspection", "WorkerClient", "WorkerRefused"]

# A worker that closed its socket must exit within this time, so that its exit status gives the reason.
EXIT_SECONDS: Final = 0.1
# Pages to preallocate at a time for `fetch` requests.
PREALLOCATED_PAGES: Final = 1024
# Minimum time to receive a reply that may have arrived before the call.
MIN_RECEIVE_SECONDS: Final = 5.0


class WorkerRefused(Exception):  # noqa: N818 - an invalid guest, not an error of samepaged
    """Error reply of the worker. `linux` is true if the worker had found a kernel."""

    def __init__(self, reason: str, *, linux: bool) -> None:
        super().__init__(reason)
        self.linux = linux


@dataclass(frozen=True, slots=True)
class GuestInspection:
    """Result of inspecting the running guest: its profile (uint8, opaque), and page numbers (int64, ascending) of the
    struct pages, of the slabs and page tables that these select, and of further pages that the analysis reads.
    """

    profile: NDArray[np.uint8]
    struct_pages: NDArray[np.int64]
    selected_pages: NDArray[np.int64]
    extra_pages: NDArray[np.int64]


class WorkerClient:
    """One worker process for one guest with one of `layouts` (the likeliest first). The worker reads `page_buffer`.
    Methods raise ProtocolError if the worker is unusable; __init__ raises OSError if it cannot start.
    """

    def __init__(
        self,
        layouts: Sequence[RamMap],
        config: SourcesConfig,
        stop: Callable[[], bool],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._layouts = layouts
        self._config = config
        pages = layouts[0].pages
        most = max(1, min(config.memory_limit // PAGE_SIZE, pages))
        self.page_buffer = PageBuffer(pages, most)
        try:
            limits = Limits.of(2 * config.time_limit, pages, most, seccomp=config.seccomp)
            self._process = SandboxedProcess(self.page_buffer.file, pages, limits, program)
        except BaseException:
            self.page_buffer.close()
            raise
        self._channel = Channel(self._process.socket, stop)
        self._forms = replies(pages)
        self._pages = pages
        self._request_deadline = 0.0

    def exit_description(self) -> str:
        """Return a description of an unusual exit of the worker, else an empty string."""
        return self._process.exit_description(EXIT_SECONDS)

    def kill(self) -> None:
        """Kill the worker without waiting; call `close` later."""
        self._process.kill()

    def close(self) -> None:
        """Wait until the worker exits, and free the page buffer."""
        self._process.close()
        self.page_buffer.close()

    def inspect(
        self,
        provider: PageProvider,
        notes: NDArray[np.int64],
        profile: NDArray[np.uint8],
        blocks: NDArray[np.bool_],
        *,
        full: bool,
    ) -> GuestInspection:
        """Inspect the running guest. `blocks` (bool) are the blocks of pages that the host backs; struct pages of other
        blocks are not needed. `full` runs the whole analysis, to find the pages that it reads. Raises WorkerRefused.
        """
        deadline = self._deadline()
        self.page_buffer.clear()
        asked = 0
        arrays: dict[str, NDArray[Any]] = {
            "regions": regions_of(self._layouts),
            "notes": notes,
            "profile": profile,
            "blocks": blocks.astype(np.uint8),
        }
        fields = {"full": int(full), "names": int(self._config.names)}
        self._channel.send("inspect", arrays, fields, deadline)
        while True:
            message = self._receive(("fetch", "find_btf", "inspection"), deadline)
            if message.kind == "inspection":
                return GuestInspection(**message.arrays)
            if message.kind == "fetch":
                pages = message.arrays["pages"]
                self.page_buffer.preallocate(max(len(pages), PREALLOCATED_PAGES))
                self._channel.send("page_slots", {"slots": self.page_buffer.add(provider, pages)}, deadline=deadline)
            else:
                asked += 1
                if asked > len(self._layouts):  # at most once for each layout with a kernel
                    raise ProtocolError("it sent too many find_btf requests")
                types = read_btf_file(self._config.btf_directory, message.fields["build_id"])
                self._channel.send("btf", {"btf": np.frombuffer(types, dtype=np.uint8)}, deadline=deadline)

    def request_selection(self, pages: NDArray[np.int64], deadline: float) -> None:
        """Request the selection (slabs and page tables) by these copied pages; `receive_selection` has the reply."""
        self._channel.send("select", {"pages": pages, "slots": self.page_buffer.slots[pages]}, deadline=deadline)

    def receive_selection(self, deadline: float) -> NDArray[np.int64]:
        """Return the selected pages. Raises WorkerRefused."""
        pages: NDArray[np.int64] = self._receive(("selection",), deadline).arrays["pages"]
        return pages

    def request_attribution(self, pages: NDArray[np.int64]) -> None:
        """Request the attribution, with these further copied pages; `receive_attribution` has the reply."""
        self._request_deadline = self._deadline()
        self._channel.send(
            "attribute", {"pages": pages, "slots": self.page_buffer.slots[pages]}, deadline=self._request_deadline
        )

    def receive_attribution(self) -> tuple[PageOwners, NDArray[np.int64]]:
        """Return the page owners, and the pages read besides struct pages and the selection. Raises WorkerRefused."""
        message = self._receive(("attribution",), max(self._request_deadline, time.monotonic() + MIN_RECEIVE_SECONDS))
        return page_owners_from_message(message.fields, message.arrays), message.arrays["extra_pages"]

    def _deadline(self) -> float:
        return time.monotonic() + self._config.time_limit

    def _receive(self, kinds: Sequence[str], deadline: float) -> Message:
        message = self._channel.receive({kind: self._forms[kind] for kind in (*kinds, "error")}, deadline)
        if message.kind == "error":
            raise WorkerRefused(
                printable(message.fields["reason"] or "no reason given"), linux=message.fields["linux"] == 1
            )
        for name in PAGE_NUMBER_ARRAYS.get(message.kind, ()):
            if not are_page_numbers(message.arrays[name], self._pages):
                raise ProtocolError(f"invalid page numbers in {name}")
        return message
