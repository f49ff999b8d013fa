"""Bars: parts of a whole side by side, told in words as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samepaged.page.markup import Html, amount, element, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.sharing import GuestSharing

__all__ = ["Part", "bar", "legend", "states"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: its class in the style, its name, and how long it is."""

    kind: str
    name: str
    value: int


def states(guest: GuestSharing, page_size: int) -> tuple[Part, ...]:
    """The memory of `guest` by state in bytes, what could be shared first. Distinct pages are two parts: those that
    others of its group have too, and the rest.
    """
    parts = (
        Part("duplicate", "duplicate", guest.duplicate_pages),
        Part("shared", "distinct, shared with others", guest.shared_with_others_pages),
        Part("own", "distinct, its own", guest.distinct_pages - guest.shared_with_others_pages),
        Part("zeros", "zero", guest.zero_pages),
        Part("absent", "absent", guest.absent_pages),
        Part("swapped", "swapped", guest.swapped_pages),
    )
    return tuple(Part(part.kind, part.name, part.value * page_size) for part in parts)


def bar(parts: Sequence[Part], label: str, height: int = 16) -> Html:
    """`parts` side by side, as long as there is room. Those of nothing are not drawn, and not told."""
    there = [part for part in parts if part.value > 0]
    whole = sum(part.value for part in there)
    told = ", ".join(f"{part.name} {amount(part.value)} ({share(part.value, whole)})" for part in there)
    drawn, start = [], 0.0
    for part in there:
        width = 100 * part.value / whole
        # Without `element`, as a host may have a thousand of them.
        drawn.append(Html(f'<rect class="{part.kind}" x="{start:.2f}%" width="{width:.2f}%" height="100%"/>'))
        start += width
    title = element("title", f"{label}: {told or 'nothing'}")
    return element("svg", title, *drawn, class_="bar", role="img", width="100%", height=height)


def legend(*kinds: tuple[str, str]) -> Html:
    """What the colours mean: of each kind its name."""
    return element("ul", *(element("li", _swatch(kind), name) for kind, name in kinds), class_="legend")


def _swatch(kind: str) -> Html:
    """A spot of the colour of `kind`; it says nothing to who cannot see it."""
    spot = element("rect", class_=kind, width=12, height=12)
    return element("svg", spot, width=12, height=12, aria_hidden="true")
