"""What is seen first: whether all is well, and the figures of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.formatting import ppm, seconds
from samepaged.page.charts import Part, bar, legend
from samepaged.page.markup import Html, amount, element, joined, named, noun, share, span, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["notes", "operation", "totals"]


def notes(snapshot: Snapshot, now: float) -> Html:
    """What is not as it should be, a line each with its remedy; nothing where all is well."""
    found = [element("li", *line) for line in _notes(snapshot, now)]
    return element("ul", *found, class_="notes", aria_label="What is not as it should be") if found else Html()


def _notes(snapshot: Snapshot, now: float) -> Iterator[tuple[str, ...]]:
    strong = element("strong", "libvirt is away. ")
    latest = snapshot.latest
    if not snapshot.libvirt_up:
        shown = "What is shown is from before." if latest else "Nothing can be scanned."
        yield strong, shown, " samepaged keeps trying to connect; is libvirtd running?"
    if not snapshot.config.successful:
        yield (
            element("strong", "The configuration was not reloaded. "),
            "The one of ",
            when(snapshot.config.loaded, now),
            " is in force; ",
            element("code", "samepaged check-config"),
            " tells every mistake in the new one.",
        )
    if latest is None:
        yield element("strong", "The first scan is not finished. "), "Sharing is shown from then on."
        return
    limits = snapshot.limits
    if limits is not None and now - _ended(latest) > 3 * limits.interval + latest.duration_seconds:
        told = (
            f"The last scan is {span(now - _ended(latest))} old, though one is wanted every {span(limits.interval)}. "
        )
        yield element("strong", told), "The log of samepaged says why."


def totals(scan: HostScan) -> Html:
    """How much there is to share."""
    report = scan.report
    page = report.page_size
    memory = sum(guest.memory_pages for guest in (*report.guests, *scan.departed)) * page
    shared = report.total_sharing_pages * page
    stable = "" if scan.stable is None else f", {amount(scan.stable.total_sharing_pages * page)} of it stable"
    figures = _figures(
        ("", "Memory of the guests", amount(memory), _with_departed(scan)),
        ("", "Total sharing", amount(shared), f"{share(shared, memory)} of the memory{stable}"),
        _part("self", "Self-sharing", report.self_sharing_pages * page, memory, "within each guest"),
        _part("inter", "Inter-VM sharing", report.inter_sharing_pages * page, memory, "between guests"),
        _part("zero", "Zero pages", scan.zero_pages * page, memory, "beside the sharing"),
    )
    return joined([figures, _memory(scan)])


def _memory(scan: HostScan) -> Html:
    """All guests' memory as one bar: what is shared is what would be freed, not what takes part in it."""
    report, page = scan.report, scan.report.page_size
    guests = (*report.guests, *scan.departed)
    distinct = sum(guest.distinct_pages for guest in guests)
    parts = (
        Part("duplicate", "self-sharing", report.self_sharing_pages * page),
        Part("shared", "inter-VM sharing", report.inter_sharing_pages * page),
        Part("own", "contents that differ", (distinct - report.inter_sharing_pages) * page),
        Part("zeros", "zero", scan.zero_pages * page),
        Part("absent", "absent", sum(guest.absent_pages for guest in guests) * page),
        Part("swapped", "swapped", sum(guest.swapped_pages for guest in guests) * page),
    )
    if not guests:
        return Html()
    drawn = bar(parts, "Memory of all guests", 22)
    return joined([drawn, legend(*((part.kind, part.name) for part in parts if part.value))])


def operation(snapshot: Snapshot, now: float) -> Html:
    """When the last scan was and the next is, and what the guests felt."""
    scan, limits = snapshot.latest, snapshot.limits
    figures: list[tuple[str, str, str, str]] = []
    if scan is not None:
        ended = _ended(scan)
        took = joined([when(ended, now), f", took {seconds(scan.duration_seconds)}"])
        figures.append(("", "Last scan", f"{span(now - ended)} ago", took))
    if snapshot.next_scan is not None:
        due = snapshot.next_scan - now
        figures.append(("", "Next scan", f"in {span(due)}" if due > 0 else "due", when(snapshot.next_scan, now)))
    if scan is not None:
        failed = [one for one in scan.skipped if not one.reason.intended]
        skipped = element("a", f"{len(scan.skipped)} not scanned", href="#skipped") if scan.skipped else "none skipped"
        figures.append(("bad" if failed else "", "Guests scanned", str(len(scan.scans)), skipped))
        longest = max((one.longest_pause_seconds for one in scan.scans), default=0.0)
        over = limits is not None and longest > limits.max_pause
        bound = "" if limits is None else f"{'over' if over else 'within'} the limit of {seconds(limits.max_pause)}"
        figures.append(("bad" if over else "", "Longest pause", seconds(longest), bound))
    if snapshot.paused:
        name, most = max(snapshot.paused.items(), key=lambda item: item[1].ratio)
        over = limits is not None and most.ratio > limits.max_drift
        bound = joined(["of the last hour, guest ", named(name)]) if most.ratio else "no guest in the last hour"
        figures.append(("bad" if over else "", "Suspended most", ppm(most.ratio), bound))
    return _figures(*figures)


def _part(kind: str, name: str, value: int, memory: int, what: str) -> tuple[str, str, str, str]:
    return kind, name, amount(value), f"{share(value, memory)}, {what}"


def _with_departed(scan: HostScan) -> str:
    guests = noun(len(scan.report.guests), "guest")
    return f"{guests}, and {len(scan.departed)} that left since" if scan.departed else guests


def _ended(scan: HostScan) -> float:
    return scan.started + scan.duration_seconds


def _figures(*figures: tuple[str, str, str, str]) -> Html:
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", element("strong", value), more), class_=kind or None)
            for kind, name, value, more in figures
        ),
        class_="figures",
    )
