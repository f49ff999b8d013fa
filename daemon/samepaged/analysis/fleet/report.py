"""Reports on the sharing between the hosts of a fleet, as JSON and as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from samepaged.formatting import size
from samepaged.text_layout import aligned
from samepaged.traces import utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.analysis.fleet.result import Fleet, HostPair

__all__ = ["document_lines", "text_lines"]

MOST_SHOWN: Final = 10


def document_lines(found: Fleet) -> Iterator[str]:
    """Yield the JSON object in pieces; each host, pair of hosts and content is on a separate line."""
    head = {
        "schema": 1,
        "page_size": found.page_size,
        "sample": found.sample,
        "oldest_trace": utc(found.oldest),
        "newest_trace": utc(found.newest),
        "guests": sum(host.guests for host in found.hosts),
        "memory_pages": sum(host.memory_pages for host in found.hosts),
        "hashed_pages": found.hashed_pages,
        "distinct_pages": found.distinct_pages,
        "distinct_pages_bounds": found.distinct_bounds,
        "distinct_pages_relative_error": _rounded(found.distinct_error),
        "duplicate_pages": found.duplicate_pages,
        "self_sharing_pages": found.self_sharing_pages,
        "inter_sharing_pages": found.inter_sharing_pages,
    }
    yield "".join(f"{'{' if at == 0 else ','}\n  {_entry(key, head[key])}" for at, key in enumerate(head))
    hosts = (
        {
            "host": host.name,
            "guests": host.guests,
            "memory_pages": host.memory_pages,
            "self_sharing_pages": host.self_sharing_pages,
            "inter_sharing_pages": found.inter_sharing_of(host),
            "distinct_pages": found.distinct_pages_of(host),
            "only_here_pages": found.exclusive_pages_of(host),
        }
        for host in found.hosts
    )
    yield from _lines("hosts", hosts)
    pairs = (
        {
            "hosts": pair.hosts,
            "shared_pages": found.shared_pages_of(pair),
            "bounds": found.bounds_of(pair),
            "relative_error": _rounded(found.error_of(pair)),
        }
        for pair in found.pairs
    )
    yield from _lines("host_pairs", pairs)
    yield from _lines(
        "widespread", ({"hosts": one.hosts, "guests": one.guests, "pages": one.pages} for one in found.common_contents)
    )
    yield "\n}\n"


def _lines(name: str, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield f",\n  {json.dumps(name)}: ["
    empty = True
    for row in rows:
        yield f"{'' if empty else ','}\n    {json.dumps(row)}"
        empty = False
    yield "]" if empty else "\n  ]"


def _entry(key: str, value: object) -> str:
    return f"{json.dumps(key)}: {json.dumps(value)}"


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, 6)


def text_lines(found: Fleet) -> Iterator[str]:
    """Yield the lines of the tables."""

    def shown(pages: int) -> str:
        return size(pages * found.page_size)

    guests = sum(host.guests for host in found.hosts)
    memory = sum(host.memory_pages for host in found.hosts)
    yield f"{len(found.hosts)} hosts, {guests} guests, traces from {utc(found.oldest)} to {utc(found.newest)}"
    if found.sample > 1:
        error = f"{found.distinct_error:.2%}" if found.distinct_error is not None else "unknown"
        yield (
            f"Counted in 1/{found.sample} of the contents: distinct pages have a standard error of {error}; "
            "the columns after the shared memory are its 95% confidence interval."
        )
    yield ""
    for name, pages in (
        ("memory of the guests", memory),
        ("distinct pages", found.distinct_pages),
        ("duplicate pages", found.duplicate_pages),
        ("  within a guest", found.self_sharing_pages),
        ("  between guests", found.inter_sharing_pages),
    ):
        yield f"{name:<20}  {shown(pages):>8}  {pages / max(memory, 1):6.1%}"
    yield ""
    rows = [("host", "guests", "memory", "self-sharing", "inter-VM", "only here")]
    ordered = sorted(found.hosts, key=lambda host: (-found.inter_sharing_of(host), host.name))
    rows += [
        (
            host.name,
            str(host.guests),
            shown(host.memory_pages),
            shown(host.self_sharing_pages),
            shown(found.inter_sharing_of(host)),
            shown(found.exclusive_pages_of(host)),
        )
        for host in ordered[:MOST_SHOWN]
    ]
    yield from aligned(rows, right=range(1, len(rows[0])))
    yield from _more(len(ordered))
    yield ""
    if not found.pairs:
        yield "No hosts have memory in common."
        return
    headings = _pair_headings(found)
    pairs = [_pair(found, pair) for pair in found.pairs[:MOST_SHOWN]]
    yield from aligned([headings, *pairs], right=range(len(headings) - 1))
    yield from _more(len(found.pairs))


def _pair_headings(found: Fleet) -> tuple[str, ...]:
    return ("shared", *(("at least", "at most") if found.sample > 1 else ()), "hosts")


def _pair(found: Fleet, pair: HostPair) -> tuple[str, ...]:
    amounts = (found.shared_pages_of(pair), *(found.bounds_of(pair) if found.sample > 1 else ()))
    return *(size(pages * found.page_size) for pages in amounts), " + ".join(pair.hosts)


def _more(count: int) -> Iterator[str]:
    if count > MOST_SHOWN:
        yield f"and {count - MOST_SHOWN} more; see --json"
