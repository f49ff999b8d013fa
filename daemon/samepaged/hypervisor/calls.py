"""Calls that may never return, each made in a thread that is left behind when the call takes too long.

A QEMU that hangs blocks virDomainSuspend for as long as it hangs, and other calls for half a minute (libvirt waits for
the domain's job). The caller gets its own thread back after a bounded time; the call itself goes on in libvirt.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from samepaged import threads
from samepaged.hypervisor.protocol import CallNotMadeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallTimeoutError", "Calls"]

# Between two calls of `beat` during a call.
BEAT_SECONDS: Final = 0.2
# So much of one turn of that loop counts as waiting at most.
MAX_WAIT_SECONDS: Final = 0.5

T = TypeVar("T")


class CallTimeoutError(Exception):
    """The call has not returned in time. It goes on in its own thread."""


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One call and its result, or the exception that it raised."""

    function: Callable[[], T]
    returned: threading.Event = field(default_factory=threading.Event)
    result: T | None = None
    error: BaseException | None = None
    on_return: Callable[[], object] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self.error = error
        with self.lock:
            self.returned.set()
        if self.on_return is not None:
            self.on_return()

    def give_up(self, on_return: Callable[[], object]) -> bool:
        """Do not wait any longer: the call's return calls `on_return`. False if it has returned already."""
        with self.lock:
            if self.returned.is_set():
                return False
            self.on_return = on_return
            return True


class _Worker:
    """A thread that makes one call after another; idle workers are in `idle`."""

    def __init__(self, idle: deque[_Worker]) -> None:
        self._idle = idle
        self._call: Callable[[], None] | None = None
        self._call_ready = threading.Semaphore(0)
        threads.Worker(self._run).start(CallNotMadeError)

    def make(self, call: Callable[[], None] | None) -> None:
        """Make a call; None ends the thread."""
        self._call = call
        self._call_ready.release()

    def _run(self) -> None:
        while True:
            self._call_ready.acquire()
            call, self._call = self._call, None
            if call is None:
                return
            call()
            del call
            self._idle.append(self)


class Calls:
    """Makes calls with a bound in time, and calls `beat` again and again meanwhile."""

    def __init__(self, beat: Callable[[], object] = lambda: None) -> None:
        self._beat = beat
        self._idle: deque[_Worker] = deque()
        self._pending_calls: list[threading.Event] = []

    @property
    def unanswered(self) -> int:
        """The number of calls that timed out and have not returned since."""
        self._pending_calls = [returned for returned in self._pending_calls if not returned.is_set()]
        return len(self._pending_calls)

    def make(self, function: Callable[[], T], seconds: float, afterwards: Callable[[], object] = lambda: None) -> T:
        """Call `function` and give its result, or raise its exception. Raises CallTimeoutError after so many seconds;
        the call's own thread then calls `afterwards` when it returns. Raises CallNotMadeError if no thread can be
        started.
        """
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle)
        call = _Call(function)
        worker.make(call.make)
        left = seconds
        while True:
            began = time.monotonic()
            if call.returned.wait(max(0.0, min(BEAT_SECONDS, left))):
                break
            self._beat()
            # A process that was stopped meanwhile (SIGSTOP) has not waited: the answer may be there already.
            left -= min(time.monotonic() - began, MAX_WAIT_SECONDS)
            if left <= 0 and call.give_up(afterwards):
                self._pending_calls.append(call.returned)
                raise CallTimeoutError
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    def close(self) -> None:
        """End the idle threads. A thread whose call has not returned ends with the process."""
        while self._idle:
            self._idle.pop().make(None)
