"""Constraints of a placement: the memory of guests and hosts, pinned guests, and guests with conflicting names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Constraints", "Step", "is_feasible"]

Step = tuple[int, int]
"""A move: the guest and the host that it goes to, by their numbers."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Constraints, with guests and hosts by number. `origin` is int64 (guests,), each guest's current host; `memory`
    int64 (guests,) and `limits` int64 (hosts,), in one unit. `movable` is bool (guests,).

    `rivals` lists for each guest the guests that cannot be on the same host, because libvirt requires unique domain
    names on a host.

    A host takes a guest if it stays within its limit. A host over its limit takes none, and may lose guests.
    """

    origin: NDArray[np.int64]
    memory: NDArray[np.int64]
    limits: NDArray[np.int64]
    movable: NDArray[np.bool_]
    rivals: tuple[tuple[int, ...], ...]

    @property
    def load(self) -> NDArray[np.int64]:
        """Memory of each host's current guests."""
        return self.load_of(self.origin)

    def has_feasible_step(self) -> bool:
        """Return whether any guest could move now, ignoring rivals."""
        room = self.limits - self.load
        elsewhere = np.arange(len(room)) != self.origin[self.movable, None]
        return bool(((self.memory[self.movable, None] <= room) & elsewhere).any())

    def load_of(self, hosts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the memory of each host's guests if the guests were on `hosts`."""
        load = np.zeros(len(self.limits), dtype=np.int64)
        np.add.at(load, hosts, self.memory)
        return load


def is_feasible(constraints: Constraints, steps: Sequence[Step]) -> bool:
    """Return whether the steps can be made one after the other."""
    hosts, load = constraints.origin.copy(), constraints.load
    for guest, host in steps:
        if (
            not constraints.movable[guest]
            or hosts[guest] == host
            or load[host] + constraints.memory[guest] > constraints.limits[host]
            or any(hosts[rival] == host for rival in constraints.rivals[guest])
        ):
            return False
        load[hosts[guest]] -= constraints.memory[guest]
        load[host] += constraints.memory[guest]
        hosts[guest] = host
    return True
