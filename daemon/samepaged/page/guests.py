"""The guests, those with most to share first: a row each, with a bar of its memory by state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.escape import printable
from samepaged.formatting import ppm, seconds
from samepaged.page.charts import bar, legend, states
from samepaged.page.markup import Html, amount, clock, element, joined, named, share
from samepaged.scan.label_values import SHORT_OBSTACLES
from samepaged.scan.results import mergeable_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.ksm import Merging
    from samepaged.scan.results import GuestScan, HostScan
    from samepaged.scan.snapshot import Limits
    from samepaged.sharing import GuestSharing

__all__ = ["groups", "guests"]

_AT_ONCE: Final = 25
_MOST: Final = 1000
_LEGEND: Final = (
    ("duplicate", "duplicate: self-sharing"),
    ("shared", "distinct, shared with others"),
    ("own", "distinct, its own"),
    ("zeros", "zero"),
    ("absent", "absent"),
    ("swapped", "swapped"),
)
_HEADINGS: Final = (
    ("guest", ""),
    ("memory", "number"),
    ("memory by state", ""),
    ("self-sharing", "number"),
    ("shared with others", "number"),
    ("merged by KSM", "number"),
    ("mode", ""),
    ("longest pause", "number"),
)


def guests(scan: HostScan, merging: Merging | None, limits: Limits | None, paused: Mapping[str, PausedTime]) -> Html:
    """The section on the guests."""
    how = {one.name: one for one in scan.scans}
    several = len(scan.report.groups) > 1
    order = sorted(scan.report.guests, key=lambda guest: (-_at_stake(guest), guest.name))
    rows = [
        _row(guest, how[guest.name], scan, merging, _pause(how[guest.name], limits, paused), several=several)
        for guest in order[:_MOST]
    ]
    note = "Those with most to share first."
    if len(order) > _MOST:
        note += f" {_MOST} of {len(order)} guests; the JSON and the metrics have all."
    body: list[Html] = [_table(rows[:_AT_ONCE], note)] if rows else [element("p", "No guest was scanned.")]
    if later := rows[_AT_ONCE:]:
        told = f"{len(later)} more guests, with less to share" if len(later) > 1 else "One more guest"
        body.append(element("details", element("summary", told), _table(later, "")))
    return element(
        "section",
        element("h2", "Guests", id="guests-title"),
        _legend(scan) if rows else Html(),
        *body,
        id="guests",
        aria_labelledby="guests-title",
    )


def _legend(scan: HostScan) -> Html:
    there = {part.kind for guest in scan.report.guests for part in states(guest, 1) if part.value}
    return legend(*((kind, name) for kind, name in _LEGEND if kind in there))


def groups(scan: HostScan) -> Html:
    """The groups, where there are several: what guests that may share with each other could."""
    found = scan.report.groups
    if len(found) < 2:  # noqa: PLR2004 - with one, the host's figures are the group's
        return Html()
    page = scan.report.page_size
    order = sorted(found, key=lambda group: (-group.self_sharing_pages - group.inter_sharing_pages, group.name))
    rows = [
        element(
            "tr",
            element("th", named(group.name), scope="row"),
            _number(amount(group.self_sharing_pages * page)),
            _number(amount(group.inter_sharing_pages * page)),
        )
        for group in order[:_MOST]
    ]
    head = (("group", ""), ("self-sharing", "number"), ("inter-VM sharing", "number"))
    return element(
        "section",
        element("h2", "Groups", id="groups-title"),
        element(
            "table",
            element("caption", "Guests of a group may share with each other; across groups is not counted here."),
            _head(head),
            element("tbody", *rows),
        ),
        id="groups",
        aria_labelledby="groups-title",
    )


def _at_stake(guest: GuestSharing) -> int:
    return guest.duplicate_pages + guest.shared_with_others_pages


def _table(rows: Iterable[Html], note: str) -> Html:
    # On a phone the style turns rows into blocks; the roles keep it a table for who hears it.
    return element(
        "table",
        element("caption", note) if note else Html(),
        _head(_HEADINGS),
        element("tbody", *rows, role="rowgroup"),
        class_="guests",
        role="table",
    )


def _head(names: Iterable[tuple[str, str]]) -> Html:
    cells = (element("th", name, scope="col", role="columnheader", class_=kind or None) for name, kind in names)
    return element("thead", element("tr", *cells, role="row"), role="rowgroup")


def _row(
    guest: GuestSharing,
    how: GuestScan,
    scan: HostScan,
    merging: Merging | None,
    pause: str,
    *,
    several: bool,
) -> Html:
    page = scan.report.page_size
    group = element("small", "group ", named(guest.group), class_="soft") if several else Html()
    return element(
        "tr",
        element("th", named(guest.name), group, _marks(how, scan), scope="row", role="rowheader"),
        _cell(amount(guest.memory_pages * page), "memory", "number size"),
        element("td", bar(states(guest, page), printable(guest.name)[:60]), class_="states", role="cell"),
        _number(amount(guest.duplicate_pages * page), "self-sharing"),
        _number(amount(guest.shared_with_others_pages * page), "with others"),
        _number(
            _merged(guest.name, mergeable_pages(guest, how) * page, merging),
            "merged by KSM",
        ),
        _cell(printable(how.mode), "mode"),
        _number(pause, "longest pause"),
        role="row",
    )


def _marks(how: GuestScan, scan: HostScan) -> Html:
    marks = []
    if how.started < scan.started:
        marks.append(f"still of {clock(how.started, scan.started)}")
    if how.fallback_code is not None:
        marks.append(f"not as preferred: {printable(how.fallback_code)}")
    if how.device_writes:
        marks.append("a passed-through device may have written meanwhile")
    if how.merge_obstacle is not None:
        reason = SHORT_OBSTACLES.get(how.merge_obstacle, printable(how.merge_obstacle))
        marks.append(f"KSM cannot merge it: {reason}")
    return element("small", joined(element("span", mark, class_="mark") for mark in marks)) if marks else Html()


def _merged(name: str, potential: int, merging: Merging | None) -> str:
    found = None if merging is None else merging.guests.get(name)
    if found is None:
        return "\N{EN DASH}"
    merged = found.merged_bytes
    return joined([amount(merged), element("small", f"{share(merged, potential)} of potential", class_="soft")])


def _pause(how: GuestScan, limits: Limits | None, paused: Mapping[str, PausedTime]) -> str:
    told = [seconds(how.longest_pause_seconds) if how.pauses else "\N{EN DASH}"]
    if how.pauses and limits is not None and how.longest_pause_seconds > limits.max_pause:
        told.append(element("small", element("span", "over the limit", class_="mark")))
    if (time := paused.get(how.name)) is not None and time.ratio:
        told.append(element("small", f"{ppm(time.ratio)} of the last hour", class_="soft"))
    return joined(told)


def _cell(value: str, label: str, kind: str | None = None) -> Html:
    return element("td", value, class_=kind, role="cell", data_label=label or None)


def _number(value: str, label: str = "") -> Html:
    return _cell(value, label, "number")
