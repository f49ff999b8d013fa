"""Results of a fleet analysis."""

from __future__ import annotations

from dataclasses import dataclass, field

from samepaged.analysis.fleet.sampling import confidence_bounds, relative_error

__all__ = ["CommonContent", "Fleet", "Host", "HostPair"]


@dataclass(frozen=True, slots=True)
class Host:
    """One host: its guests, all their pages, and the sums of S_self and of |U(V)| over its guests; these are exact.

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
    """Two hosts, and the number of sampled contents on both."""

    hosts: tuple[str, str]
    shared: int


@dataclass(frozen=True, slots=True)
class CommonContent:
    """A content of many guests: the number of hosts, of guests, and of all its pages. Exact."""

    hosts: int
    guests: int
    pages: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet by the newest traces of all guests, taken from `oldest` to `newest` (Unix epoch, s), `page_size` in
    bytes.

    Contents are counted in a sample of 1/`sample`: `contents` of them, on all hosts. `pairs` without shared contents
    are omitted; the others are sorted by shared contents in the sample, descending, then by name.

    Estimates and bounds are capped by exactly known values, the number of contents of each guest.
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
        # Cache: there are many more pairs than hosts, and each needs its hosts' numbers of contents.
        object.__setattr__(self, "_known", {host.name: host.summed_distinct_pages for host in self.hosts})

    @property
    def summed_distinct_pages(self) -> int:
        """Sum of |U(V)| over all guests: exact."""
        return sum(host.summed_distinct_pages for host in self.hosts)

    @property
    def distinct_pages(self) -> int:
        """Distinct contents of the fleet: an estimate if `sample` is not 1."""
        return min(self.contents * self.sample, self.summed_distinct_pages)

    @property
    def distinct_bounds(self) -> tuple[int, int]:
        """95% confidence interval of `distinct_pages`."""
        return _bounds(self.contents, self.sample, self.summed_distinct_pages)

    @property
    def distinct_error(self) -> float | None:
        """Relative standard error of `distinct_pages`; None if the sample has no contents."""
        return relative_error(self.contents, self.sample)

    @property
    def duplicate_pages(self) -> int:
        """Pages saved if each content were stored once in the whole fleet."""
        return self.hashed_pages - self.distinct_pages

    @property
    def self_sharing_pages(self) -> int:
        """Sum of S_self over all guests: exact."""
        return sum(host.self_sharing_pages for host in self.hosts)

    @property
    def inter_sharing_pages(self) -> int:
        """The remaining duplicates: sharing between guests, on any hosts."""
        return self.duplicate_pages - self.self_sharing_pages

    def inter_sharing_of(self, host: Host) -> int:
        """Return S_inter of a host's current guests."""
        return host.summed_distinct_pages - self.distinct_pages_of(host)

    def distinct_pages_of(self, host: Host) -> int:
        """Return the distinct contents of a host's guests."""
        return min(host.sampled_contents * self.sample, host.summed_distinct_pages)

    def exclusive_pages_of(self, host: Host) -> int:
        """Return the contents that are on this host only."""
        return min(host.exclusive_contents * self.sample, host.summed_distinct_pages)

    def shared_pages_of(self, pair: HostPair) -> int:
        """Return the contents on both hosts of a pair."""
        return min(pair.shared * self.sample, self._max_shared_of(pair))

    def bounds_of(self, pair: HostPair) -> tuple[int, int]:
        """Return the 95% confidence interval of `shared_pages_of`."""
        return _bounds(pair.shared, self.sample, self._max_shared_of(pair))

    def error_of(self, pair: HostPair) -> float | None:
        """Return the relative standard error of `shared_pages_of`."""
        return relative_error(pair.shared, self.sample)

    def _max_shared_of(self, pair: HostPair) -> int:
        return min(self._known[name] for name in pair.hosts)


def _bounds(found: int, sample: int, most: int) -> tuple[int, int]:
    low, high = confidence_bounds(found, sample)
    return min(low, most), min(high, most)
