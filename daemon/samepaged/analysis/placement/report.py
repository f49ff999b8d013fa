"""Reports on a proposed placement of guests, as JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.formatting import size
from samepaged.text_layout import aligned
from samepaged.traces import utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.analysis.placement.plan import HostOutcome, Placement
    from samepaged.traces import TraceInfo

__all__ = ["document", "text_lines"]

LIMITS: Final = {
    "--limit": "option",
    "--memory": "option",
    "traces": "host memory",
    "now": "current guest memory",
}


def document(placement: Placement, abouts: Sequence[TraceInfo]) -> dict[str, Any]:
    """Return the JSON object. `abouts` describe the traces."""
    page_size = abouts[0].page_size
    return {
        "schema": 1,
        "page_size": page_size,
        "guests": len(abouts),
        "oldest_trace": utc(min(about.scanned_at for about in abouts)),
        "newest_trace": utc(max(about.scanned_at for about in abouts)),
        "sample": placement.sample,
        "search_sample": placement.search_sample,
        "moves": [
            {"domain": move.domain, "from": move.origin, "to": move.target, "gain_pages": move.gain_pages}
            for move in placement.moves
        ],
        "gain_pages": placement.gain_pages,
        "gain_error_pages": round(placement.gain_error_pages),
        "at_most_pages": placement.upper_bound_pages,
        "hosts": [
            {
                "host": one.host.name,
                "limit_bytes": one.host.limit_pages * page_size,
                "limit_from": one.host.limit_origin,
                "memory_bytes_before": one.memory_pages[0] * page_size,
                "memory_bytes_after": one.memory_pages[1] * page_size,
                "inter_sharing_pages_before": one.inter_sharing_pages[0],
                "inter_sharing_pages_after": one.inter_sharing_pages[1],
            }
            for one in placement.hosts
        ],
    }


def text_lines(placement: Placement, abouts: Sequence[TraceInfo]) -> Iterator[str]:
    """Yield the lines of the text. `abouts` describe the traces."""
    page_size = abouts[0].page_size

    def shown(pages: int) -> str:
        return f"{'-' * (pages < 0)}{size(abs(pages) * page_size)}"

    if placement.moves:
        rows = [(shown(one.gain_pages), one.domain, one.origin, one.target) for one in placement.moves]
        yield from aligned([("gain", "guest", "from", "to"), *rows], right=(0,))
        yield ""
        error = f" (± {shown(round(placement.gain_error_pages))})" if placement.sample > 1 else ""
        yield f"{_moves(len(placement.moves))} {shown(placement.gain_pages)}{error} of inter-VM sharing."
    else:
        yield "No moves were found that gain inter-VM sharing within the limits."
    yield f"At most {shown(placement.upper_bound_pages)} can be gained within the limits."
    if placement.sample > 1:
        yield f"The traces have 1/{placement.sample} of the contents: shared memory is an estimate."
    elif placement.search_sample > 1:
        yield f"The search used 1/{placement.search_sample} of the contents; gains are counted in all contents."
    if any(one.host.limit_origin == "now" for one in placement.hosts):
        yield "Hosts of unknown memory are limited to their current guest memory; set --memory or --limit."
    times = [about.scanned_at for about in abouts]
    yield f"Traces from {utc(min(times))} to {utc(max(times))}."
    yield ""
    headings = ("host", "memory", "after", "limit", "inter-VM", "after", "limit from")
    yield from aligned([headings, *(_outcome(one, page_size) for one in placement.hosts)], right=(1, 2, 3, 4, 5))


def _moves(count: int) -> str:
    return "1 move gains" if count == 1 else f"{count} moves gain"


def _outcome(one: HostOutcome, page_size: int) -> tuple[str, ...]:
    amounts = (*one.memory_pages, one.host.limit_pages, *one.inter_sharing_pages)
    over = " (exceeded)" if one.memory_pages[1] > one.host.limit_pages else ""
    return one.host.name, *(size(pages * page_size) for pages in amounts), LIMITS[one.host.limit_origin] + over
