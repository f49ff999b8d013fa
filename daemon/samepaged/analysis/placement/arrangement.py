"""Assignment of guests to hosts during a search: contents of each class on each host, and each guest's gain there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.placement.contents import gather_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Constraints
    from samepaged.analysis.placement.contents import Incidence

__all__ = ["UNPLACED", "Arrangement"]

UNPLACED: Final = -1


class Arrangement:
    """Guests on hosts, or temporarily unplaced. Starts with the current hosts.

    `host_of` has each guest's host or UNPLACED. `contents_at_host[g, h]` (int64) is the number of contents of g that
    guests of h have, including g itself if it is on h. `sharing` is the sum of S_inter over the hosts.
    """

    def __init__(self, incidence: Incidence, terms: Constraints) -> None:
        self.terms = terms
        self.host_of = np.full(len(terms.origin), UNPLACED, dtype=np.int64)
        self.contents_at_host = np.zeros((len(terms.origin), len(terms.limits)), dtype=np.int64)
        self.sharing = 0
        self._incidence = incidence
        self._lengths = incidence.guest_counts
        self._memory: list[int] = terms.memory.tolist()
        self._origin: list[int] = terms.origin.tolist()
        order = np.argsort(incidence.guests, kind="stable")
        cuts = np.searchsorted(incidence.guests[order], np.arange(len(terms.origin) + 1))
        classes = incidence.class_of_entries()[order]
        self._classes = [classes[cuts[guest] : cuts[guest + 1]] for guest in range(len(terms.origin))]
        self._count = np.zeros((len(terms.limits), len(incidence.weights)), dtype=np.int32)
        self._load = np.zeros(len(terms.limits), dtype=np.int64)
        self._arrivals = np.zeros(len(terms.limits), dtype=np.int64)
        self._rivals_at = np.zeros(self.contents_at_host.shape, dtype=np.int32)
        for guest, host in enumerate(self._origin):
            self.place(guest, host)

    def common_contents(self, guest: int) -> NDArray[np.int64]:
        """Return the number of contents that the guest has in common with each guest: int64 (guests,)."""
        return self._guest_counts(self._classes[guest])

    def feasible_hosts(self, guest: int) -> NDArray[np.bool_]:
        """Return the feasible hosts of an unplaced guest: bool (hosts,).

        A host over its limit may keep its original guests as long as no other guest arrived.
        """
        terms = self.terms
        room = self._load + self._memory[guest] <= terms.limits
        origin = self._origin[guest]
        if self._arrivals[origin] == 0:
            room[origin] = True
        if terms.rivals[guest]:
            room &= self._rivals_at[guest] == 0
            # Two guests of the same name on one host already: one may be gone, with its trace left behind.
            room[origin] |= self._arrivals[origin] == 0
        return room

    def place(self, guest: int, host: int) -> None:
        """Place an unplaced guest on a host."""
        classes = self._classes[guest]
        before = self._count[host, classes]
        self._count[host, classes] = before + 1
        self.sharing += int(self.contents_at_host[guest, host])
        self.contents_at_host[:, host] += self._guest_counts(classes[before == 0])
        self._update_load(guest, host, 1)
        self.host_of[guest] = host

    def remove(self, guest: int) -> None:
        """Remove a guest from its host."""
        host = int(self.host_of[guest])
        classes = self._classes[guest]
        after = self._count[host, classes] - 1
        self._count[host, classes] = after
        self.contents_at_host[:, host] -= self._guest_counts(classes[after == 0])
        self.sharing -= int(self.contents_at_host[guest, host])
        self._update_load(guest, host, -1)
        self.host_of[guest] = UNPLACED

    def restore(self, hosts: NDArray[np.int64]) -> None:
        """Restore the previous arrangement `hosts`."""
        others = np.flatnonzero(self.host_of != hosts).tolist()
        for guest in others:
            if self.host_of[guest] != UNPLACED:
                self.remove(guest)
        for guest in others:
            self.place(guest, int(hosts[guest]))

    def _update_load(self, guest: int, host: int, sign: int) -> None:
        self._load[host] += sign * self._memory[guest]
        self._arrivals[host] += sign * (host != self._origin[guest])
        if rivals := self.terms.rivals[guest]:
            self._rivals_at[list(rivals), host] += sign

    def _guest_counts(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of contents in `classes` that each guest has."""
        lengths = self._lengths[classes]
        owners = self._incidence.guests[gather_slices(self._incidence.starts[classes], lengths)]
        weights = np.repeat(self._incidence.weights[classes], lengths)
        # Sums of floats are exact here: a fleet has fewer than 2^53 pages.
        return np.bincount(owners, weights, minlength=len(self.host_of)).astype(np.int64)
