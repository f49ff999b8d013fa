"""The status page: views of a snapshot, rendered by the templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, ParamSpec

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
    from collections.abc import Callable, Iterator

    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot

__all__ = ["Page", "Section"]

_P = ParamSpec("_P")

# At import: the service may be upgraded while it runs, and must not read templates of another version then.
_TEMPLATES: Final = load_templates(
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
)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A section of one page: its fragment in the page's address, its title and its markup."""

    name: str
    title: str
    html: Markup


class Section(Generic[_P]):
    """A section of the page: `view` makes its data, and the template renders them. `name` is its fragment in the page's
    address. Only new arguments of `view` render it anew.
    """

    def __init__(self, name: str, title: str, template: str, view: Callable[_P, object]) -> None:
        self.name = name
        self.title = title
        self._template = _TEMPLATES.get_template(template)
        self._view = view
        self._arguments: tuple[object, ...] | None = None
        self._html = Markup()

    def render(self, *arguments: _P.args, **keywords: _P.kwargs) -> Markup:
        """The markup; empty if the view has nothing to show."""
        before = self._arguments
        if before is None or any(new is not old for new, old in zip(arguments, before, strict=True)):
            view = self._view(*arguments, **keywords)
            self._html = Markup(self._template.render(section=self, view=view)) if view else Markup()  # noqa: S704
            self._arguments = arguments
        return self._html


class Page:
    """Renders the page of a snapshot. `host` is the name in its title."""

    def __init__(self, host: str = "") -> None:
        self._host = host
        self._template = _TEMPLATES.get_template("page.html")
        self._ksm = Section("ksm", "KSM", "ksm.html", ksm)
        self._history = Section("history", "The last day", "history.html", history)
        self._guests = Section("guests", "Guests", "guests.html", guests)
        self._groups = Section("groups", "Groups", "groups.html", groups)
        self._pairs = Section("pairs", "Pairs", "pairs.html", pairs)
        self._attribution = Section("sources", "Where sharing comes from", "attribution.html", attribution)
        self._skipped = Section("skipped", "Not scanned", "skipped.html", skipped)
        self._fallbacks = Section("fallbacks", "Not in the preferred way", "fallbacks.html", fallbacks)

    def __call__(self, snapshot: Snapshot, now: float) -> bytes:
        """The page at `now` (seconds of the Unix epoch)."""
        scan = snapshot.latest
        html = self._template.render(
            host=self._host,
            now=now,
            operation=operation(snapshot),
            policy=POLICY,
            problems=problems(snapshot, now),
            sections=[] if scan is None else list(self._sections(snapshot, scan)),
            style=Markup(STYLE),  # noqa: S704 - a file of the package
            totals=None if scan is None else totals(scan),
        )
        return f"{html}\n".encode()

    def _sections(self, snapshot: Snapshot, scan: HostScan) -> Iterator[_Rendered]:
        sections = (
            (self._ksm, self._ksm.render(scan, snapshot.merging)),
            (self._history, self._history.render(snapshot.history)),
            (
                self._guests,
                self._guests.render(scan, snapshot.merging, snapshot.limits, snapshot.paused),
            ),
            (self._groups, self._groups.render(scan)),
            (self._pairs, self._pairs.render(scan)),
            (self._attribution, self._attribution.render(snapshot.sources, scan.started)),
            (self._skipped, self._skipped.render(scan, snapshot.failures)),
            (self._fallbacks, self._fallbacks.render(scan)),
        )
        return (_Rendered(section.name, section.title, html) for section, html in sections if html)
