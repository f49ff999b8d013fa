"""Guests on hosts while a search moves them: what each host has of each class, and what each guest would find there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.placement.contents import gathered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Terms
    from samepaged.analysis.placement.contents import Incidence

__all__ = ["NOWHERE", "Arrangement"]

NOWHERE: Final = -1


class Arrangement:
    """Guests on hosts, or taken out for a moment. It begins with all where they are.

    `host_of` has each guest's host or NOWHERE; `found[g, h]` (int64) the contents of g that guests of h have, g itself
    among them where it is one of these. `sharing` is the sum of S_inter over the hosts.
    """

    def __init__(self, incidence: Incidence, terms: Terms) -> None:
        self.terms = terms
        self.host_of = np.full(len(terms.origin), NOWHERE, dtype=np.int64)
        self.found = np.zeros((len(terms.origin), len(terms.limits)), dtype=np.int64)
        self.sharing = 0
        self._incidence = incidence
        self._lengths = incidence.lengths
        self._memory: list[int] = terms.memory.tolist()
        self._origin: list[int] = terms.origin.tolist()
        order = np.argsort(incidence.owners, kind="stable")
        cuts = np.searchsorted(incidence.owners[order], np.arange(len(terms.origin) + 1))
        classes = incidence.class_of_entries()[order]
        self._classes = [classes[cuts[guest] : cuts[guest + 1]] for guest in range(len(terms.origin))]
        self._count = np.zeros((len(terms.limits), len(incidence.weights)), dtype=np.int32)
        self._load = np.zeros(len(terms.limits), dtype=np.int64)
        self._strangers = np.zeros(len(terms.limits), dtype=np.int64)
        self._rivals_at = np.zeros(self.found.shape, dtype=np.int32)
        for guest, host in enumerate(self._origin):
            self.put(guest, host)

    def kin(self, guest: int) -> NDArray[np.int64]:
        """How many contents the guest has in common with each guest: int64 (guests,)."""
        return self._owners(self._classes[guest])

    def open_to(self, guest: int) -> NDArray[np.bool_]:
        """The hosts that may have the guest, which is nowhere: bool (hosts,).

        A host over its limit may have what it had, as long as there is nothing else.
        """
        terms = self.terms
        room = self._load + self._memory[guest] <= terms.limits
        origin = self._origin[guest]
        if self._strangers[origin] == 0:
            room[origin] = True
        if terms.rivals[guest]:
            room &= self._rivals_at[guest] == 0
            # Two of a name that are on one host already: one of them may have gone, and its trace be left.
            room[origin] |= self._strangers[origin] == 0
        return room

    def put(self, guest: int, host: int) -> None:
        """Put a guest that is nowhere on a host."""
        classes = self._classes[guest]
        before = self._count[host, classes]
        self._count[host, classes] = before + 1
        self.sharing += int(self.found[guest, host])
        self.found[:, host] += self._owners(classes[before == 0])
        self._account(guest, host, 1)
        self.host_of[guest] = host

    def take(self, guest: int) -> None:
        """Take a guest out of its host."""
        host = int(self.host_of[guest])
        classes = self._classes[guest]
        after = self._count[host, classes] - 1
        self._count[host, classes] = after
        self.found[:, host] -= self._owners(classes[after == 0])
        self.sharing -= int(self.found[guest, host])
        self._account(guest, host, -1)
        self.host_of[guest] = NOWHERE

    def arrange(self, hosts: NDArray[np.int64]) -> None:
        """Put every guest where `hosts` says: an arrangement that was there before."""
        others = np.flatnonzero(self.host_of != hosts).tolist()
        for guest in others:
            if self.host_of[guest] != NOWHERE:
                self.take(guest)
        for guest in others:
            self.put(guest, int(hosts[guest]))

    def _account(self, guest: int, host: int, sign: int) -> None:
        self._load[host] += sign * self._memory[guest]
        self._strangers[host] += sign * (host != self._origin[guest])
        if rivals := self.terms.rivals[guest]:
            self._rivals_at[list(rivals), host] += sign

    def _owners(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The contents in `classes` that each guest has."""
        lengths = self._lengths[classes]
        owners = self._incidence.owners[gathered(self._incidence.starts[classes], lengths)]
        weights = np.repeat(self._incidence.weights[classes], lengths)
        # Sums of floats are exact here: a fleet has fewer than 2^53 pages.
        return np.bincount(owners, weights, minlength=len(self.host_of)).astype(np.int64)
