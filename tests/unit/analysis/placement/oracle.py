"""Reference placement from the definitions: sets of contents on hosts, and moves made one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from samepaged.analysis.placement.plan import Guest, Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from samepaged.analysis.placement.plan import Move, Placement

HOSTS = ("a", "b\u202e=", "", "d")


@dataclass(frozen=True)
class Fleet:
    guests: list[Guest]
    hosts: list[Host]
    contents: list[frozenset[int]]

    @property
    def sets(self) -> list[NDArray[np.uint64]]:
        return [np.array(sorted(one), dtype=np.uint64) for one in self.contents]

    def origin(self) -> list[str]:
        return [guest.host for guest in self.guests]

    def load(self, at: Sequence[str]) -> dict[str, int]:
        found = {host.name: 0 for host in self.hosts}
        for guest, host in zip(self.guests, at, strict=True):
            found[host] += guest.memory_pages
        return found

    def sharing_of(self, host: str, at: Sequence[str]) -> int:
        held = [one for one, where in zip(self.contents, at, strict=True) if where == host]
        return sum(map(len, held)) - len(frozenset().union(*held))

    def sharing(self, at: Sequence[str]) -> int:
        return sum(self.sharing_of(host.name, at) for host in self.hosts)

    def moved(self, at: Sequence[str], move: Move) -> list[str]:
        """Apply a move. A domain's name identifies the guest: a host has one movable guest of that name."""
        (guest,) = [
            number for number, one in enumerate(self.guests) if (one.domain, at[number]) == (move.domain, move.origin)
        ]
        assert not self.guests[guest].pinned
        return [move.target if number == guest else host for number, host in enumerate(at)]

    def check(self, placement: Placement) -> list[str]:
        """Make the moves, and check that each keeps to the limits and has the reported gain; return the final hosts."""
        limits = {host.name: host.limit_pages for host in self.hosts}
        at = self.origin()
        for move in placement.moves:
            assert move.origin != move.target
            names = [one.domain for one, host in zip(self.guests, at, strict=True) if host == move.target]
            assert move.domain not in names
            after = self.moved(at, move)
            assert self.load(after)[move.target] <= limits[move.target]
            assert self.sharing(after) - self.sharing(at) == move.gain_pages
            at = after
        assert placement.gain_pages == self.sharing(at) - self.sharing(self.origin())
        before, now = self.load(self.origin()), self.load(at)
        for outcome in placement.hosts:
            name = outcome.host.name
            assert outcome.memory_pages == (before[name], now[name])
            assert outcome.inter_sharing_pages == (self.sharing_of(name, self.origin()), self.sharing_of(name, at))
            assert now[name] <= max(limits[name], before[name])
        return at


def fleet(*guests: tuple[str, str, int, Iterable[int]], limits: dict[str, int]) -> Fleet:
    """Create a fleet from guests (domain, host, memory, contents) and hosts' limits."""
    return Fleet(
        [Guest(domain, host, memory) for domain, host, memory, _ in guests],
        [Host(name, limit, "--limit") for name, limit in limits.items()],
        [frozenset(contents) for *_, contents in guests],
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Generate up to seven guests, some of the same name on different hosts; limits below and above current loads."""
    hosts = HOSTS[: draw(st.integers(1, len(HOSTS)))]
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(["x", "y", "*", "\udcff", "z z"]), st.sampled_from(hosts)),
            max_size=7,
            unique=True,
        )
    )
    values = st.integers(3, 14) | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1])
    guests, contents = [], []
    for domain, host in places:
        guests.append(Guest(domain, host, draw(st.integers(0, 6)), draw(st.integers(0, 5)) == 0))
        contents.append(draw(st.frozensets(values, max_size=9)))
    return Fleet(guests, [Host(name, draw(st.integers(0, 16)), "--limit") for name in hosts], contents)
