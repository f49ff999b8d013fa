"""Resumes of domains that another client of libvirt made while samepaged held them suspended."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Final

__all__ = ["ResumeCounter"]

# libvirtd sends the event of a resume within milliseconds of the call's return.
EVENT_SECONDS: Final = 0.05
# Events come in order: behind another client's event, ours is not far.
NEXT_EVENT_SECONDS: Final = 0.002


class ResumeCounter:
    """Counts of resumes: by libvirt's events, and by our own calls. Events come late, but none comes before its resume:
    another client has resumed a domain if there are more events than calls, and more of these than ever before.
    """

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._most_others: Counter[str] = Counter()
        self._event = threading.Condition()

    def count_event(self, uuid: str) -> None:
        """Libvirt reports a resume of the domain (in the event loop's thread)."""
        with self._event:
            self._events[uuid] += 1
            self._event.notify_all()

    def count_call(self, uuid: str) -> None:
        """Samepaged is about to resume the domain."""
        self._calls[uuid] += 1

    def uncount_call(self, uuid: str) -> None:
        """The resume call has failed: no event of it will come."""
        self._calls[uuid] -= 1

    def wait_for_event(self, uuid: str) -> None:
        """Wait, after our own resume, for its event, and with it for each event before it."""
        with self._event:
            self._event.wait_for(lambda: self._others(uuid) >= self._most_others[uuid], EVENT_SECONDS)
        time.sleep(NEXT_EVENT_SECONDS)  # if that was another client's event, ours is behind it

    def by_others(self, uuid: str) -> bool:
        """Whether another client has resumed the domain since this was last asked."""
        others = self._others(uuid)
        more = others > self._most_others[uuid]
        self._most_others[uuid] = max(others, self._most_others[uuid])
        return more

    def _others(self, uuid: str) -> int:
        return self._events[uuid] - self._calls[uuid]
