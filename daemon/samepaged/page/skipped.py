"""What was not scanned, and what was scanned in another way than preferred: each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.escape import printable
from samepaged.page.markup import Html, element, joined, named, noun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.errors import Reason
    from samepaged.scan.results import HostScan

__all__ = ["fallbacks", "skipped"]

_MOST: Final = 500
_NAMED: Final = 12


def skipped(scan: HostScan, failures: Mapping[tuple[str, Reason], int]) -> Html:
    """The guests that were not scanned: those that failed first, then those that were left out on purpose."""
    if not scan.skipped:
        return Html()
    order = sorted(scan.skipped, key=lambda one: (one.reason.intended, one.name))
    rows = [
        element(
            "tr",
            element("th", named(one.name), scope="row"),
            element("td", "as asked for" if one.reason.intended else "failed", element("small", one.reason.value)),
            element("td", printable(one.message), _times(failures.get((one.name, one.reason), 0))),
        )
        for one in order[:_MOST]
    ]
    head = element("tr", *(element("th", name, scope="col") for name in ("guest", "not scanned", "why")))
    more = f"{_MOST} of {len(order)}." if len(order) > _MOST else ""
    return element(
        "section",
        element("h2", "Not scanned", id="skipped-title"),
        element("table", element("caption", more) if more else Html(), element("thead", head), element("tbody", *rows)),
        id="skipped",
        aria_labelledby="skipped-title",
    )


def fallbacks(scan: HostScan) -> Html:
    """Which guests were scanned in another way than preferred. A reason that many share is told once."""
    names: dict[tuple[str, str], list[str]] = {}
    for one in scan.scans:
        if one.fallback_code is not None:
            names.setdefault((one.fallback_code, one.fallback_reason or "no more is known"), []).append(one.name)
    if not names:
        return Html()
    items = [
        element("li", element("strong", _who(who, len(scan.scans))), f" ({printable(code)}): {printable(reason)}")
        for (code, reason), who in list(names.items())[:_MOST]
    ]
    return element(
        "section",
        element("h2", "Not in the preferred way", id="fallbacks-title"),
        element("p", "These guests were scanned, but not as the configuration would rather have it."),
        element("ul", *items),
        id="fallbacks",
        aria_labelledby="fallbacks-title",
    )


def _who(names: list[str], of: int) -> Html:
    if len(names) == of > 1:
        return Html(f"all {of} guests")
    shown = joined((named(name) for name in names[:_NAMED]), ", ")
    rest = len(names) - _NAMED
    return joined([shown, f" and {rest} more"]) if rest > 0 else shown


def _times(count: int) -> Html:
    if count < 2:  # noqa: PLR2004 - the one that is told
        return Html()
    return element("small", f"{noun(count, 'time')} since samepaged was started", class_="soft")
