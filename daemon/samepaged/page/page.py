"""The page, put together. What did not change since the page before is not made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, ParamSpec

from samepaged.page.attribution import sources
from samepaged.page.guests import groups, guests
from samepaged.page.history import history
from samepaged.page.ksm import merging
from samepaged.page.markup import Html, element, joined, when
from samepaged.page.overview import notes, operation, totals
from samepaged.page.pairs import pairs
from samepaged.page.skipped import fallbacks, skipped
from samepaged.page.style import POLICY, STYLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.scan.snapshot import Snapshot

__all__ = ["Page"]

_P = ParamSpec("_P")
_LINKS: Final = (
    ("metrics", "metrics"),
    ("api/v1/snapshot", "last scan as JSON"),
    ("api/v1/sources", "where sharing comes from as JSON"),
    ("-/healthy", "healthy"),
    ("-/ready", "ready"),
)
_TERMS: Final = (
    ("duplicate", "A further copy of a page within the guest: that is its self-sharing."),
    (
        "distinct",
        "The first copy of a content within the guest. Shared with others: some guest of its group has it, too.",
    ),
    (
        "zero, absent",
        "All zeros; never backed by the host. Both are in none of the sharing, but KSM merges zero pages.",
    ),
    ("inter-VM sharing", "What could be saved on top of self-sharing only because the guests are on one host."),
    ("stable", "Of pages that kept their content since the scan before: KSM can only merge such."),
)


class _Kept(Generic[_P]):
    """What `make` made last, as long as it is asked for the very same values."""

    def __init__(self, make: Callable[_P, Html]) -> None:
        self._make = make
        self._of: tuple[object, ...] | None = None
        self._made = Html()

    def __call__(self, *of: _P.args, **more: _P.kwargs) -> Html:
        if self._of is None or any(value is not before for value, before in zip(of, self._of, strict=True)):
            self._made = self._make(*of, **more)
            self._of = of
        return self._made


class Page:
    """Makes the page of a snapshot. `host` is the name that it has in the title."""

    def __init__(self, host: str = "") -> None:
        self._host = host
        self._totals = _Kept(totals)
        self._merging = _Kept(merging)
        self._history = _Kept(history)
        self._guests = _Kept(guests)
        self._groups = _Kept(groups)
        self._pairs = _Kept(pairs)
        self._sources = _Kept(sources)
        self._skipped = _Kept(skipped)
        self._fallbacks = _Kept(fallbacks)

    def __call__(self, snapshot: Snapshot, now: float) -> bytes:
        """The page as it is at `now` (seconds of the Unix epoch)."""
        title = f"samepaged on {self._host}" if self._host else "samepaged"
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", title),
            Html(f"<style>{STYLE}</style>"),
        )
        body = element("body", self._header(snapshot, now), self._main(snapshot, now), _footer())
        html = element("html", head, body, lang="en")
        return f"<!DOCTYPE html>\n{html}\n".encode()

    def _header(self, snapshot: Snapshot, now: float) -> Html:
        host = element("span", f"on {self._host}") if self._host else Html()
        # It does not reload itself: that would take a reader back to the top, and close what is open.
        again = element("a", "look again", href="./")
        return element(
            "header",
            element("h1", "samepaged ", host),
            element("p", "as of ", when(now, now), ", ", again),
            _contents(snapshot),
        )

    def _main(self, snapshot: Snapshot, now: float) -> Html:
        scan = snapshot.latest
        overview = element(
            "section",
            notes(snapshot, now),
            element("h2", "Overview", id="overview-title"),
            self._totals(scan) if scan is not None else Html(),
            operation(snapshot, now),
            aria_labelledby="overview-title",
        )
        if scan is None:
            return element("main", overview)
        return element(
            "main",
            overview,
            self._merging(scan, snapshot.merging),
            self._history(snapshot.history) if snapshot.history else Html(),
            self._guests(scan, snapshot.merging, snapshot.limits, snapshot.paused),
            self._groups(scan),
            self._pairs(scan),
            self._sources(snapshot.sources, scan),
            self._skipped(scan, snapshot.failures),
            self._fallbacks(scan),
            _terms(),
        )


def _contents(snapshot: Snapshot) -> Html:
    """Links to what is further down; it may be far."""
    scan = snapshot.latest
    if scan is None:
        return Html()
    there = (
        ("ksm", "KSM", True),
        ("history", "The last day", bool(snapshot.history)),
        ("guests", "Guests", True),
        ("groups", "Groups", len(scan.report.groups) > 1),
        ("pairs", "Pairs", len(scan.report.guests) > 1),
        ("sources", "Where sharing comes from", bool(snapshot.sources)),
        ("skipped", "Not scanned", bool(scan.skipped)),
        ("fallbacks", "Not in the preferred way", any(one.fallback_code is not None for one in scan.scans)),
    )
    items = (element("li", element("a", name, href=f"#{place}")) for place, name, shown in there if shown)
    return element("nav", element("ul", *items), aria_label="On this page")


def _terms() -> Html:
    told = joined(element(tag, text) for term in _TERMS for tag, text in zip(("dt", "dd"), term, strict=True))
    return element("details", element("summary", "What the words mean"), element("dl", told, class_="terms"))


def _footer() -> Html:
    links = joined((element("a", name, href=path) for path, name in _LINKS), " \N{MIDDLE DOT} ")
    return element("footer", element("nav", links, aria_label="Other forms"))
