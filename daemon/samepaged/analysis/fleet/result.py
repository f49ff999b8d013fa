"""What the hosts of a fleet have in common, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from samepaged.analysis.fleet.sampling import confidence_bounds, relative_error

__all__ = ["CommonContent", "Fleet", "Host", "HostPair"]


@dataclass(frozen=True, slots=True)
class Host:
    """One host: its guests, all their pages, S_self of each guest added up, and |U(V)| added up: these are exact.
    Of its contents `sampled_contents` are in the sample, and `exclusive_contents` of those are on no other host.
    """

    name: str
    guests: int
    memory_pages: int
    self_sharing_pages: int
    summed_distinct_pages: int
    sampled_contents: int
    exclusive_contents: int


@dataclass(frozen=True, slots=True)
class HostPair:
    """Two hosts, and how many contents of the sample both have."""

    hosts: tuple[str, str]
    shared: int


@dataclass(frozen=True, slots=True)
class CommonContent:
    """A content that many guests have: on how many hosts, in how many guests, and all its pages. Exact."""

    hosts: int
    guests: int
    pages: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The newest traces of all guests, taken from `oldest` to `newest` (Unix epoch, s), `page_size` in bytes.

    Contents are counted in a sample of 1/`sample`: `contents` of them, on all hosts. `pairs` that share nothing are
    left out; the others are in the order of what they share of the sample, most first, then of their names.

    No estimate and no bound is more than there can be by what is known exactly, the contents of each guest.
    """

    page_size: int
    sample: int
    oldest: float
    newest: float
    hashed_pages: int
    contents: int
    hosts: tuple[Host, ...]
    pairs: tuple[HostPair, ...]
    common_contents: tuple[CommonContent, ...]
    _known: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # There are many more pairs than hosts, and each is asked for its hosts' contents.
        object.__setattr__(self, "_known", {host.name: host.summed_distinct_pages for host in self.hosts})

    @property
    def summed_distinct_pages(self) -> int:
        """|U(V)| of every guest, added up: exact."""
        return sum(host.summed_distinct_pages for host in self.hosts)

    @property
    def distinct_pages(self) -> int:
        """Contents of the fleet: an estimate, where `sample` is not 1."""
        return min(self.contents * self.sample, self.summed_distinct_pages)

    @property
    def distinct_bounds(self) -> tuple[int, int]:
        """Between what that is, with 95% confidence."""
        return _bounds(self.contents, self.sample, self.summed_distinct_pages)

    @property
    def distinct_error(self) -> float | None:
        """Its relative standard error; None where the sample has no contents."""
        return relative_error(self.contents, self.sample)

    @property
    def duplicate_pages(self) -> int:
        """What would be saved if each content were kept once in the whole fleet."""
        return self.hashed_pages - self.distinct_pages

    @property
    def self_sharing_pages(self) -> int:
        """S_self of every guest, added up: exact."""
        return sum(host.self_sharing_pages for host in self.hosts)

    @property
    def inter_sharing_pages(self) -> int:
        """What is left of the duplicates: sharing between guests, wherever they are."""
        return self.duplicate_pages - self.self_sharing_pages

    def inter_sharing_of(self, host: Host) -> int:
        """S_inter of a host's guests, as they are today."""
        return host.summed_distinct_pages - self.distinct_pages_of(host)

    def distinct_pages_of(self, host: Host) -> int:
        """Contents of a host's guests, each once."""
        return min(host.sampled_contents * self.sample, host.summed_distinct_pages)

    def exclusive_pages_of(self, host: Host) -> int:
        """Those that no other host has."""
        return min(host.exclusive_contents * self.sample, host.summed_distinct_pages)

    def shared_pages_of(self, pair: HostPair) -> int:
        """Contents that both hosts of a pair have."""
        return min(pair.shared * self.sample, self._max_shared_of(pair))

    def bounds_of(self, pair: HostPair) -> tuple[int, int]:
        """Between what a pair shares, with 95% confidence."""
        return _bounds(pair.shared, self.sample, self._max_shared_of(pair))

    def error_of(self, pair: HostPair) -> float | None:
        """The relative standard error of what a pair shares."""
        return relative_error(pair.shared, self.sample)

    def _max_shared_of(self, pair: HostPair) -> int:
        return min(self._known[name] for name in pair.hosts)


def _bounds(found: int, sample: int, most: int) -> tuple[int, int]:
    low, high = confidence_bounds(found, sample)
    return min(low, most), min(high, most)
