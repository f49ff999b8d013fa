"""What a placement has to keep to: the memory of guests and hosts, who stays, and who cannot be beside whom."""

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
    """Guests and hosts by number. `origin` is int64 (guests,), the host that each is on now; `memory` int64 (guests,)
    and `limits` int64 (hosts,), in one unit. `movable` is bool (guests,).

    `rivals` has for each guest those that no host can hold beside it, as libvirt wants each of a host's domains to
    have a name of its own.

    A host takes a guest if it is within its limit with it. One that is over its limit now takes none, and may lose
    guests.
    """

    origin: NDArray[np.int64]
    memory: NDArray[np.int64]
    limits: NDArray[np.int64]
    movable: NDArray[np.bool_]
    rivals: tuple[tuple[int, ...], ...]

    @property
    def load(self) -> NDArray[np.int64]:
        """The memory of the guests that each host has now."""
        return self.load_of(self.origin)

    def has_feasible_step(self) -> bool:
        """Whether any guest could be moved now, if there were no rivals."""
        room = self.limits - self.load
        elsewhere = np.arange(len(room)) != self.origin[self.movable, None]
        return bool(((self.memory[self.movable, None] <= room) & elsewhere).any())

    def load_of(self, hosts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The memory of each host's guests if they were on `hosts`."""
        load = np.zeros(len(self.limits), dtype=np.int64)
        np.add.at(load, hosts, self.memory)
        return load


def is_feasible(constraints: Constraints, steps: Sequence[Step]) -> bool:
    """Whether the steps can be made one after the other."""
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
