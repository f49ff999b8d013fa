"""Calls that may never return, each made in a thread that is left behind when the call takes too long.

A QEMU that hangs blocks virDomainSuspend for as long as it hangs, and other calls for half a minute (libvirt waits for
the domain's job). The caller gets its own thread back after a bounded time; the call itself goes on in libvirt.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from samepaged import threads
from samepaged.errors import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallNotMadeError", "CallTimeout", "Calls"]

# Between two calls of `beat` while an answer is waited for.
BEAT_SECONDS: Final = 0.2
# So much of one turn of that loop counts as waiting at most.
MOST_WAITED_SECONDS: Final = 0.5


class CallNotMadeError(HypervisorError):
    """No thread could be started, so the call was not made."""


class CallTimeout(Exception):  # noqa: N818 - the caller turns it into a GuestError that names the call
    """The call has not returned in time. It goes on in its own thread."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call and its result, or the exception that it raised."""

    function: Callable[[], Any]
    returned: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None
    given_up: Callable[[], object] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self.error = error
        with self.lock:
            self.returned.set()
        if self.given_up is not None:
            self.given_up()

    def give_up(self, afterwards: Callable[[], object]) -> bool:
        """Do not wait any longer: `afterwards` is called when it returns. False if it has returned already."""
        with self.lock:
            if self.returned.is_set():
                return False
            self.given_up = afterwards
            return True


class _Worker:
    """A thread that makes one call after another; idle workers are in `idle`."""

    def __init__(self, idle: deque[_Worker]) -> None:
        self._idle = idle
        self._call: _Call | None = None
        self._given = threading.Semaphore(0)
        threads.Worker(self._run).start(CallNotMadeError)

    def make(self, call: _Call | None) -> None:
        """Make a call; None ends the thread."""
        self._call = call
        self._given.release()

    def _run(self) -> None:
        while True:
            self._given.acquire()
            call, self._call = self._call, None
            if call is None:
                return
            call.make()
            del call
            self._idle.append(self)


class Calls:
    """Makes calls with a bound in time. `beat` is called while an answer is waited for."""

    def __init__(self, beat: Callable[[], object] = lambda: None) -> None:
        self._beat = beat
        self._idle: deque[_Worker] = deque()
        self._unanswered: list[_Call] = []

    @property
    def unanswered(self) -> int:
        """The number of calls that were given up and have not returned since."""
        self._unanswered = [call for call in self._unanswered if not call.returned.is_set()]
        return len(self._unanswered)

    def make(self, function: Callable[[], Any], seconds: float, afterwards: Callable[[], object] = lambda: None) -> Any:  # noqa: ANN401 - whatever the call returns
        """Call `function` and give what it returns or raises. Raises Unanswered after so many seconds; `afterwards` is
        then called in the call's thread when it returns. Raises CallNotMadeError if no thread can be started.
        """
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle)
        call = _Call(function)
        worker.make(call)
        left = seconds
        while True:
            began = time.monotonic()
            if call.returned.wait(max(0.0, min(BEAT_SECONDS, left))):
                break
            self._beat()
            # A process that was stopped meanwhile (SIGSTOP) has not waited: the answer may be there already.
            left -= min(time.monotonic() - began, MOST_WAITED_SECONDS)
            if left <= 0 and call.give_up(afterwards):
                self._unanswered.append(call)
                raise CallTimeout
        if call.error is not None:
            raise call.error
        return call.result

    def close(self) -> None:
        """End the idle threads. A thread whose call has not returned ends with the process."""
        while self._idle:
            self._idle.pop().make(None)
