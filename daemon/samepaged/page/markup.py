"""HTML that is well-formed XML, too. Text is escaped unless it is markup made here."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Final

from samepaged.escape import printable
from samepaged.formatting import size
from samepaged.text_layout import elided

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Html", "amount", "clock", "element", "joined", "named", "noun", "share", "span", "when"]

# What ends where it begins: elements of HTML without an end tag, and those of SVG that are mostly empty.
_EMPTY: Final = frozenset({"br", "line", "link", "meta", "path", "rect"})
_LONGEST_NAME: Final = 60
_DAY: Final = 86400


class Html(str):
    """Finished markup. Whatever else is put into an element is text."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | int | None) -> Html:
    """`<tag>` around `children`. `class_` is the attribute class, `aria_label` is aria-label; one that is None is not
    there.
    """
    told = "".join(
        [
            f' {_attribute(name)}="{escape(value) if isinstance(value, str) else value}"'
            for name, value in attributes.items()
            if value is not None
        ]
    )
    inner = "".join([child if isinstance(child, Html) else escape(child, quote=False) for child in children])
    return Html(f"<{tag}{told}/>" if tag in _EMPTY and not inner else f"<{tag}{told}>{inner}</{tag}>")


@cache
def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def joined(parts: Iterable[str], separator: str = "") -> Html:
    """`parts` one after another; those that are no markup are escaped."""
    texts = (part if isinstance(part, Html) else escape(part, quote=False) for part in parts)
    return Html(escape(separator).join(texts))


def named(name: str) -> Html:
    """A domain's name, kept from reordering what stands around it; one that is too long is whole in its tooltip."""
    text = printable(name) or "(no name)"
    short = elided(text, _LONGEST_NAME)
    return element("bdi", short, title=None if short == text else text)


def amount(value: int) -> str:
    """`value` of bytes as `size` gives it, negative ones too."""
    return size(value) if value >= 0 else f"\N{MINUS SIGN}{size(-value)}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent; a dash of nothing."""
    if not whole:
        return "\N{EN DASH}"
    ratio = part / whole
    return f"{ratio:.0%}" if ratio == 0 or ratio >= 0.0995 else f"{ratio:.1%}"  # noqa: PLR2004 - 9.9% is two digits


def noun(count: int, one: str) -> str:
    """`1 guest`, `2 guests`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def span(seconds: float) -> str:
    """`seconds` as people say it: 12 s, 4 min, 3 h, 2 days."""
    for length, unit, most in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if round(seconds / length) < most:
            return f"{max(round(seconds / length), 0)} {unit}"
    return f"{round(seconds / _DAY)} days"


def clock(epoch: float, now: float) -> str:
    """The time of day, and the day where it is not today's. All times are in UTC: the reader may be anywhere."""
    at = datetime.fromtimestamp(epoch, UTC)
    return f"{at:%H:%M:%S} UTC" if _day(epoch) == _day(now) else f"{at.day} {at:%B, %H:%M} UTC"


def when(epoch: float, now: float) -> Html:
    """`clock`, also for programs."""
    exact = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return element("time", clock(epoch, now), datetime=exact)


def _day(epoch: float) -> int:
    return int(epoch // _DAY)
