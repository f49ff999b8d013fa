"""Guest states and events, observed through the test's own connection."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import libvirt

from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.libvirtd import Libvirtd

__all__ = ["Pause", "Witness"]

# Seconds within which libvirtd answers, unless it hangs.
ANSWER: Final = 20.0
# Between two looks: pauses of the large guests are some 20 ms and longer.
POLL_SECONDS: Final = 0.002


@dataclass(frozen=True)
class Pause:
    """A guest was seen suspended: it still ran at `after` (of the monotonic clock) and did not at `before`."""

    name: str
    after: float
    before: float


class _Asker:
    """Runs calls that may hang in a separate thread."""

    def __init__(self) -> None:
        self._questions: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._work, name="witness", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                answer = self._questions.get()()
            except Exception as error:  # noqa: BLE001 - raised again in the caller
                answer = error
            self._answers.put(answer)

    def ask(self, question: Callable[[], Any], timeout: float) -> Any:
        """Return the result or raise the call's exception. Raises TimeoutError if the call does not return."""
        self._questions.put(question)
        try:
            answer = self._answers.get(timeout=timeout)
        except Empty:
            raise TimeoutError(f"libvirtd has not answered for {timeout:.0f} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


class Witness:
    """Looks at the guests of `names` again and again. It lives through restarts of their libvirtd, and does not wait
    for ever for one that hangs.
    """

    def __init__(self, libvirtd: Libvirtd, names: list[str]) -> None:
        self._libvirtd = libvirtd
        self._connection: Any = None
        self._domains: dict[str, Any] = {}
        self._asker = _Asker()
        self._hanging: list[Any] = []  # to be closed, they would have to answer
        self.names = names
        self.crashes = 0  # of libvirtd's own

    def close(self) -> None:
        self._domains.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(libvirt.libvirtError):
                connection.close()

    def _domain(self, name: str) -> Any:
        if self._connection is None:
            self._connection = libvirt.open(self._libvirtd.uri)
        if name not in self._domains:
            self._domains[name] = self._connection.lookupByName(name)
        return self._domains[name]

    def state(self, name: str) -> tuple[int, int]:
        """The state of a guest and its reason, as libvirt has them now."""
        try:
            state, why = self._asker.ask(lambda: self._ask(name), ANSWER)
        except TimeoutError:
            self._hanging += [self._asker, self._connection, *self._domains.values()]
            self._asker, self._connection, self._domains = _Asker(), None, {}
            raise
        return state, why

    def _ask(self, name: str) -> Any:
        try:
            return self._domain(name).state()
        except libvirt.libvirtError:  # the libvirtd of before: ask the one that is there now
            self.close()
            self._see_to_libvirtd()
            return self._domain(name).state()

    def _see_to_libvirtd(self) -> None:
        """Start a libvirtd that has crashed, as systemd would. (libvirt 9.0: a client that dies while it registers for
        events may take libvirtd with it, in remoteClientFree.)
        """
        process = self._libvirtd.process
        if process is not None and process.poll() is not None:
            self.crashes += 1
            self._libvirtd.start()

    def is_paused(self, name: str) -> bool:
        paused: int = libvirt.VIR_DOMAIN_PAUSED
        return self.state(name)[0] == paused

    def is_running(self, name: str) -> bool:
        running: int = libvirt.VIR_DOMAIN_RUNNING
        return self.state(name)[0] == running

    def paused(self) -> list[str]:
        return [name for name in self.names if not self.is_running(name)]

    def next_pause(self, unless: Callable[[], object] = lambda: None, timeout: float = 60) -> Pause:
        """Wait until a guest is suspended that was seen running. `unless` may raise."""
        ran: dict[str, float] = {}

        def pause() -> Pause | None:
            for name in self.names:
                asked = time.monotonic()
                if self.is_running(name):
                    ran[name] = asked
                elif name in ran and self.is_paused(name):
                    return Pause(name, ran[name], time.monotonic())
            unless()
            return None

        seen = wait_for(pause, timeout, f"one of {self.names} is suspended", every=POLL_SECONDS)
        assert seen is not None
        return seen

    def wait_until_each_ran(self, timeout: float) -> dict[str, float]:
        """When each guest was first seen running; those that were not within `timeout` seconds are left out."""
        seen: dict[str, float] = {}

        def all_ran() -> bool:
            for name in self.names:
                if name not in seen and self.is_running(name):
                    seen[name] = time.monotonic()
            return len(seen) == len(self.names)

        happens(all_ran, timeout, every=POLL_SECONDS)
        return seen

    def left_paused(self, timeout: float) -> list[str]:
        """The guests that did not once run within `timeout` seconds."""
        ran = self.wait_until_each_ran(timeout)
        return [name for name in self.names if name not in ran]
