"""The status page: views of a snapshot, rendered by the templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from samepaged.escape import printable
from samepaged.formatting import clock, duration, percent, plural, ppm, rfc3339, seconds, size, time_of_day
from samepaged.page.attribution import attribution
from samepaged.page.guests import groups, guests
from samepaged.page.history import history
from samepaged.page.ksm import ksm
from samepaged.page.overview import operation, problems, totals
from samepaged.page.pairs import pairs
from samepaged.page.skipped import fallbacks, skipped
from samepaged.page.style import POLICY, STYLE
from samepaged.templating import load_templates
from samepaged.text_layout import elided

if TYPE_CHECKING:
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["Page"]

# At import, because an upgrade while the service runs replaces the templates with those of another version.
_PAGE: Final = load_templates(
    "samepaged.page",
    {
        "clock": clock,
        "duration": duration,
        "elided": elided,
        "percent": percent,
        "plural": plural,
        "ppm": ppm,
        "printable": printable,
        "rfc3339": rfc3339,
        "seconds": seconds,
        "size": size,
        "svg_percent": lambda value: f"{value:.2f}%",
        "svg_pixels": lambda value: f"{value:.1f}",
        "thousands": lambda value: f"{value:,}",
        "time_of_day": time_of_day,
    },
).get_template("page.html")


@dataclass(frozen=True, slots=True)
class _Section:
    """A section: its fragment in the page's URL, its title, its template, and its data. The page omits a
    section with an empty view.
    """

    name: str
    title: str
    template: str
    view: object


class Page:
    """Renders the page of a snapshot. `host` is the name in its title."""

    def __init__(self, host: str = "") -> None:
        self._host = host

    def __call__(self, snapshot: Snapshot, now: float) -> bytes:
        """Render the page at `now` (seconds since the Unix epoch)."""
        scan = snapshot.latest
        html = _PAGE.render(
            host=self._host,
            now=now,
            operation=operation(snapshot),
            policy=POLICY,
            problems=problems(snapshot, now),
            sections=[] if scan is None else [section for section in _sections(snapshot, scan) if section.view],
            style=Markup(STYLE),  # noqa: S704 - a file of the package
            totals=None if scan is None else totals(scan),
        )
        return f"{html}\n".encode()


def _sections(snapshot: Snapshot, scan: HostScan) -> tuple[_Section, ...]:
    guest_rows = guests(scan, snapshot.merging, snapshot.scan_config, snapshot.paused)
    attributed = attribution(snapshot.attributions, scan.started)
    return (
        _Section("ksm", "KSM", "ksm.html", ksm(scan, snapshot.merging)),
        _Section("history", "The last day", "history.html", history(snapshot.history)),
        _Section("guests", "Guests", "guests.html", guest_rows),
        _Section("groups", "Groups", "groups.html", groups(scan)),
        _Section("pairs", "Pairs", "pairs.html", pairs(scan)),
        _Section("sources", "Page attribution", "attribution.html", attributed),
        _Section("skipped", "Not scanned", "skipped.html", skipped(scan, snapshot.failures)),
        _Section("fallbacks", "Fallbacks", "fallbacks.html", fallbacks(scan)),
    )
