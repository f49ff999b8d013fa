"""The attribution of one damaged image by the sandboxed process's own loop and messages, but in this process."""

from __future__ import annotations

import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.attribution import messages
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.kernel_analysis import LinuxAnalysis
from samepaged.attribution.wire import Channel
from samepaged.attribution.worker import Worker
from samepaged.ipc import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.attribution.kernel_analysis import KernelAnalysis
    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.ram_map import RamMap

__all__ = ["SECONDS", "HangError", "Outcome", "Plan", "Telling", "attempt"]

# Processor time, for the whole analysis of one image.
SECONDS: Final = 5.0
# Messages of a process that reached its memory limit, or of numpy in it.
OUT_OF_MEMORY: Final = ("memory limit of the worker exceeded", "MemoryError", "Unable to allocate")


class HangError(BaseException):
    """An image took longer than its limit. Not an Exception, so that no handler catches it."""


@dataclass(frozen=True)
class Plan:
    """The form of an image's analysis: with the kernel's `profile` (empty: unknown kernel); with the pages `others`
    copied (int64; None: all); `cold`: whether the full analysis runs first, in addition; with or without `names`.
    `blocks` (bool): those that the host reports as backed.
    """

    profile: bytes
    others: NDArray[np.int64] | None
    cold: bool
    names: bool
    blocks: NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an image: `kind` (attributed, partly, refused, or a finding: crash, memory, hang, lie), the
    reason, and seconds of processor time.
    """

    kind: str
    why: str
    seconds: float

    @property
    def is_finding(self) -> bool:
        return self.kind not in {"attributed", "partly", "refused"}


class _End:
    """One end of a socket that has its other end in this thread. If its buffer is empty, `pump` is called for more."""

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.other: _End = self
        self.pump: Callable[[], None] = lambda: None

    def settimeout(self, seconds: float | None) -> None:
        """Ignore the timeout: this socket never waits."""

    def send(self, view: memoryview) -> int:
        self.other.inbox += view
        return len(view)

    def recv_into(self, view: memoryview) -> int:
        if not self.inbox:
            self.pump()
        got = min(len(view), len(self.inbox))
        view[:got] = self.inbox[:got]
        del self.inbox[:got]
        return got


class _Daemon:
    """The daemon's side of the protocol with the process, message by message (client.py, session.py)."""

    def __init__(self, channel: Channel, layout: RamMap, notes: NDArray[np.int64], plan: Plan) -> None:
        self.ownership: PageOwners | None = None
        self.refused: str | None = None
        self.profile = b""
        self._channel = channel
        self._layout = layout
        self._notes = notes[: messages.MAX_NOTES]
        self._plan = plan
        self._forms = messages.replies(layout.pages)
        self._next: tuple[str, ...] = ()
        self._chosen = self._every = np.arange(layout.pages, dtype=np.int64)

    def turn(self) -> None:
        """Receive the last message and send the next one, if any."""
        if not self._next:
            profile = np.frombuffer(self._plan.profile, dtype=np.uint8)
            arrays: dict[str, NDArray[Any]] = {
                "regions": messages.regions_of([self._layout]),
                "notes": self._notes,
                "profile": profile,
                "blocks": self._plan.blocks.astype(np.uint8),
            }
            self._say("inspect", arrays, {"full": int(self._plan.cold), "names": int(self._plan.names)})
            self._next = ("fetch", "find_btf", "inspection")
            return
        if self.ownership is not None or self.refused is not None:
            return
        forms = {kind: self._forms[kind] for kind in (*self._next, "error")}
        message = self._channel.receive(forms)
        for name in messages.PAGE_NUMBER_ARRAYS.get(message.kind, ()):
            if not messages.are_page_numbers(message.arrays[name], self._layout.pages):
                raise ProtocolError(f"invalid page numbers in {name}")
        match message.kind:
            case "error":
                self.refused = message.fields["reason"] or ""
            case "fetch":
                self._say("page_slots", {"slots": message.arrays["pages"].astype("<i4")})
            case "find_btf":
                self._say("btf", {"btf": np.empty(0, dtype=np.uint8)})
            case "inspection":
                self.profile = message.arrays["profile"].tobytes()
                held = np.union1d(message.arrays["struct_pages"], message.arrays["extra_pages"])
                held = self._every if self._plan.others is None else np.union1d(held, self._plan.others)
                self._hold("select", held)
                self._next = ("selection",)
            case "selection":
                self._hold("attribute", message.arrays["pages"])
                self._next = ("attribution",)
            case _:
                self.ownership = messages.page_owners_from_message(message.fields, message.arrays)

    def _hold(self, kind: str, pages: NDArray[np.int64]) -> None:
        self._say(kind, {"pages": pages, "slots": pages.astype("<i4")})

    def _say(
        self, kind: str, arrays: dict[str, NDArray[Any]], fields: dict[str, int | str | None] | None = None
    ) -> None:
        self._channel.send(kind, arrays, fields or {})


class Telling(LinuxAnalysis):
    """The same analysis, with tracebacks of errors on stderr."""

    def open(self, *arguments: Any) -> Any:
        return self._told(super().open, *arguments)

    def slab_and_table_pages(self, kernel: Any) -> Any:
        return self._told(super().slab_and_table_pages, kernel)

    def attribute(self, kernel: Any) -> Any:
        return self._told(super().attribute, kernel)

    @staticmethod
    def _told(ask: Any, *arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except BaseException:
            traceback.print_exc()
            raise


def attempt(
    words: NDArray[np.uint64],
    layout: RamMap,
    notes: NDArray[np.int64],
    plan: Plan,
    analysis: KernelAnalysis[Any] | None = None,
) -> Outcome:
    """Analyse an image: a guest's RAM, uint64 of shape (pages, 512), with pages (int64) that may be notes."""
    child, parent = _End(), _End()
    child.other, parent.other = parent, child
    daemon = _Daemon(Channel(parent), layout, notes, plan)  # type: ignore[arg-type] # the used part of a socket
    child.pump = daemon.turn
    view = words.view()
    view.flags.writeable = False
    reader = Worker(Channel(child), view, layout.pages, analysis or LinuxAnalysis())  # type: ignore[arg-type] # see above
    before = signal.signal(signal.SIGPROF, _hang)
    start = time.process_time()
    # The alarm repeats, because one during garbage collection does not interrupt the analysis.
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 0.5)
    kind, why = "crash", ""
    try:
        reader.run()
    except ProtocolError as error:
        # Either both sides have finished, or the process sent a message that the daemon rejects.
        kind, why = _kind(daemon, str(error))
    except HangError as error:
        kind, why = "hang", _where(error)
    except (Exception, Unreadable) as error:  # noqa: BLE001 - any exception is a finding
        why = f"{type(error).__name__}{_where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    seconds = time.process_time() - start
    return Outcome("hang" if seconds > SECONDS else kind, why, seconds)


def _kind(daemon: _Daemon, said: str) -> tuple[str, str]:
    why = daemon.refused
    if why is None and daemon.ownership is not None:
        why = daemon.ownership.note
        wrong = _wrong(daemon.ownership)
        if wrong:
            return "lie", wrong
    elif why is None:
        return "lie", said
    if why is not None and any(text in why for text in OUT_OF_MEMORY):
        return "memory", why
    if why is not None and "please report it" in why:
        return "crash", why
    return ("attributed" if why is None else "partly" if daemon.refused is None else "refused"), why or ""


def _wrong(found: PageOwners) -> str:
    """Return a message on an impossible value in an accepted result, beyond the daemon's own checks."""
    if found.kernel is None or not found.kernel.isprintable():
        return "its kernel has no name"
    for text in (*found.names, *found.processes):
        if not text.isascii():
            text.encode()  # fails on an unpaired surrogate
    if not 0 <= found.labelled_ratio <= 1:
        return "a ratio that is none"
    return ""


def _hang(*_: object) -> None:
    raise HangError(f"an image took more than {SECONDS} s")


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/attribution/" in frame.filename]
    return f" in {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
