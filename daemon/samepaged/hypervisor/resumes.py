"""Resumes of domains that another client of libvirt made while samepaged held them suspended."""

from __future__ import annotations

from collections import Counter

__all__ = ["Resumes"]


class Resumes:
    """Counts of resumes: of those that libvirt tells of, and of our own. Events come late, but none comes before its
    resume: so there were others' where more were seen than are ours, and more than ever before.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._own: Counter[str] = Counter()
        self._most: Counter[str] = Counter()

    def seen(self, uuid: str) -> None:
        """Libvirt tells that a domain was resumed (in its event loop's thread)."""
        self._seen[uuid] += 1

    def own(self, uuid: str) -> None:
        """We are about to resume it."""
        self._own[uuid] += 1

    def by_others(self, uuid: str) -> bool:
        """Whether somebody else has resumed it since this was last asked."""
        others = self._seen[uuid] - self._own[uuid]
        more = others > self._most[uuid]
        self._most[uuid] = max(others, self._most[uuid])
        return more
