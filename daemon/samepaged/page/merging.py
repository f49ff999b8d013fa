"""KSM: what the kernel has merged, beside what it could."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.page.charts import Part, bar, legend
from samepaged.page.markup import Html, amount, element, noun, share

if TYPE_CHECKING:
    from samepaged.ksm import HostMerging, Merging
    from samepaged.scan.results import HostScan

__all__ = ["merging"]

_STATES: Final = {
    0: "stopped: what it merged stays merged until it is written to",
    1: "running",
    2: "stopped, and all merging is undone",
}


def merging(scan: HostScan, merged: Merging | None) -> Html:
    """The section on KSM. `merged` is None where its counters cannot be read."""
    page = scan.report.page_size
    potential, attainable = scan.potential_pages * page, scan.attainable_pages * page
    host = None if merged is None else merged.host
    now = 0 if host is None else host.merged_bytes
    # KSM merges in other processes, too: what it has may be more than what the guests give.
    there = max(potential, now)
    within = min(max(attainable, now), there)
    parts = (
        Part("have", "merged now", now),
        Part("attainable", "could be merged", within - now),
        Part("potential", "out of KSM's reach", there - within),
    )
    return element(
        "section",
        element("h2", "KSM", id="ksm-title"),
        element("p", *_told(scan, host, now, potential, attainable)),
        bar(parts, "What KSM merges, of what it could", 22),
        legend(*((part.kind, f"{part.name} {amount(part.value)}") for part in parts if part.value)),
        _more(scan, host, attainable),
        id="ksm",
        aria_labelledby="ksm-title",
    )


def _told(scan: HostScan, host: HostMerging | None, now: int, potential: int, attainable: int) -> tuple[str, ...]:
    if host is None:
        state = "Its counters are not known: this kernel has no KSM, or they could not be read. "
        return state, f"Sharing and zero pages of the guests add up to {amount(potential)}."
    capture = (
        f"It has merged {amount(now)}, {share(now, potential)} of the potential {amount(potential)} "
        "(sharing and zero pages of the guests). "
    )
    if host.running or now:
        return "KSM is ", element("strong", _STATES.get(host.run, f"in state {host.run}")), ". ", capture
    profit = scan.expected_profit_bytes
    worth = f"Turned on, it could save {amount(profit)} net" if profit > 0 else "Turned on, it would save nothing"
    return (
        "KSM is ",
        element("strong", _STATES.get(host.run, f"in state {host.run}")),
        f". {worth}: {amount(attainable)} could be merged, less what its own bookkeeping takes. ",
        element("code", "samepaged advise"),
        " says what that would cost.",
    )


def _more(scan: HostScan, host: HostMerging | None, attainable: int) -> Html:
    barred = sum(1 for one in scan.scans if one.merge_obstacle is not None)
    told = []
    if barred:
        told.append(f"It cannot merge the memory of {noun(barred, 'guest')}; the table of guests says why.")
    if host is not None and (host.running or host.merged_pages):
        profit = scan.expected_profit_bytes
        told.append(
            f"Less its bookkeeping, merging saves {amount(host.profit_bytes)} now, and would save {amount(profit)} "
            f"with all {amount(attainable)} in reach merged."
        )
    if host is not None:
        told.append(f"{noun(host.full_scans, 'full scan')} of memory so far.")
    return element("p", " ".join(told), class_="soft") if told else Html()
