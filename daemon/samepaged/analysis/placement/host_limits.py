"""Memory limits of the hosts, from options or from the traces."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from samepaged.analysis.placement.plan import Host
from samepaged.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from samepaged.traces.trace import TraceInfo

__all__ = ["hosts_with_limits"]


def hosts_with_limits(guests: Iterable[TraceInfo], limits: Mapping[str, int], memory: int | None) -> list[Host]:
    """Return the hosts of these guests, sorted by name, with their limits.

    A host's limit is the first of: the value in `limits`; `memory`; the host's own memory, from its newest trace that
    records it; the current memory of its guests, so that it takes no more.

    `limits` and `memory` are in bytes. Raises UsageError if `limits` names a host without guests.
    """
    of_host: defaultdict[str, list[TraceInfo]] = defaultdict(list)
    for about in guests:
        of_host[about.host].append(about)
    for name in limits:
        if name not in of_host:
            known = ", ".join(repr(host) for host in sorted(of_host)[:5])
            raise UsageError(f"--limit: no traces of host {name!r}", f"name a host with traces, such as {known}")
    return [_host(name, of_host[name], limits.get(name), memory) for name in sorted(of_host)]


def _host(name: str, guests: list[TraceInfo], limit: int | None, memory: int | None) -> Host:
    page_size = guests[0].page_size
    if limit is not None:
        return Host(name, limit // page_size, "--limit")
    if memory is not None:
        return Host(name, memory // page_size, "--memory")
    told = [(about.scanned_at, about.host_memory) for about in guests if about.host_memory is not None]
    if told:
        return Host(name, max(told)[1] // page_size, "traces")
    return Host(name, sum(about.memory_pages for about in guests), "now")
