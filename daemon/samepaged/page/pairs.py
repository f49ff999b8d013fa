"""Who shares with whom: a heat map of the guests in the largest pairs, and these pairs in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.escape import printable
from samepaged.page.charts import legend
from samepaged.page.markup import Html, amount, element, named, noun
from samepaged.text_layout import elided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from samepaged.scan.results import HostScan
    from samepaged.sharing import PairSharing

__all__ = ["pairs"]

_MOST_ON_THE_MAP: Final = 24
_LISTED: Final = 10
_STEPS: Final = 5
_FEW: Final = 4  # so few that the cells have room for words
# In per cent of the map's width: of all cells, and of one. The rest is for the name at the end of the longest row.
_CELLS: Final = 66.0
_WIDEST: Final = 12.0
_WIDEST_OF_FEW: Final = 18.0


def pairs(scan: HostScan) -> Html:
    """The section on pairs; nothing where fewer than two guests were scanned."""
    if len(scan.report.guests) < 2:  # noqa: PLR2004 - a pair
        return Html()
    heading = element("h2", "Pairs", id="pairs-title")
    if not scan.report.pairs:
        return element(
            "section",
            heading,
            element("p", "No two guests have a page in common."),
            id="pairs",
            aria_labelledby="pairs-title",
        )
    chosen = _in_the_largest(scan.report.pairs)
    shared = _between(chosen, scan.report.pairs)
    drawn = _alike_together(chosen, shared)
    rest = len(scan.report.guests) - len(drawn)
    bound = f" The map has the {len(drawn)} guests of the largest pairs, of {len(scan.report.guests)}." if rest else ""
    return element(
        "section",
        heading,
        element(
            "p",
            "What two guests have in common, whatever their groups. Each cell stands left of one guest's name and "
            f"below another's.{bound}",
        ),
        element(
            "div",
            element("figure", *_map(drawn, shared, scan.report.page_size)),
            _largest(scan.report.pairs, scan.report.page_size),
            class_="columns",
        ),
        id="pairs",
        aria_labelledby="pairs-title",
    )


def _in_the_largest(ordered: Sequence[PairSharing]) -> list[str]:
    """The guests in the largest pairs, as many as there is room for. `ordered` begins with the largest."""
    found: dict[str, None] = {}
    for pair in ordered:
        new = [name for name in pair.domains if name not in found]
        if len(found) + len(new) <= _MOST_ON_THE_MAP:
            found.update(dict.fromkeys(new))
        if len(found) == _MOST_ON_THE_MAP:
            break
    return list(found)


def _between(names: Sequence[str], found: Sequence[PairSharing]) -> dict[tuple[str, str], int]:
    """What any two of `names` share, in either order."""
    wanted = set(names)
    shared = {}
    for pair in found:
        a, b = pair.domains
        if a in wanted and b in wanted:
            shared[a, b] = shared[b, a] = pair.inter_sharing_pages
    return shared


def _alike_together(names: Sequence[str], shared: Mapping[tuple[str, str], int]) -> list[str]:
    """In an order in which each is followed by the one that it shares most with: what is alike forms a triangle."""
    left = list(names)
    order = [left.pop(0)]
    while left:
        last = order[-1]
        order.append(max(left, key=lambda name: shared.get((last, name), 0)))
        left.remove(order[-1])
    return order


def _map(names: Sequence[str], shared: Mapping[tuple[str, str], int], page_size: int) -> tuple[Html, Html]:
    largest = max(shared.values())
    few = len(names) <= _FEW
    width = min(_CELLS / len(names), _WIDEST_OF_FEW if few else _WIDEST)
    height = 30 if few else 18
    drawn = []
    for row, name in enumerate(names):
        for column, other in enumerate(names[:row]):
            pages = shared.get((name, other), 0)
            told = amount(pages * page_size)
            drawn.append(
                element(
                    "rect",
                    element("title", f"{_short(name)} and {_short(other)}: {told}"),
                    class_=f"cell c{_step(pages, largest)}" if pages else "nothing",
                    x=f"{column * width:.2f}%",
                    y=row * height,
                    width=f"{width * 0.97:.2f}%",
                    height=height - 1,
                )
            )
            if pages and few:
                middle = f"{(column + 0.485) * width:.2f}%"
                drawn.append(element("text", told, class_="within", x=middle, y=row * height + 19))
        at = f"{row * width:.2f}%"
        drawn.append(element("text", _short(name), x=at, dx=4, y=row * height + height // 2 + 4))
    told = (
        f"Heat map of what {noun(len(names), 'guest')} have in common, two by two. The table beside it has the largest."
    )
    chart = element(
        "svg", element("title", told), *drawn, class_="map", role="img", width="100%", height=height * len(names)
    )
    steps = range(1, _STEPS + 1)
    bounds = ((f"cell c{step}", f"up to {amount(largest * page_size * step // _STEPS)}") for step in steps)
    return chart, element("figcaption", legend(*bounds))


def _step(pages: int, largest: int) -> int:
    return max(-(-pages * _STEPS // largest), 1)


def _short(name: str) -> str:
    return elided(printable(name) or "(no name)", 28)


def _largest(ordered: Sequence[PairSharing], page_size: int) -> Html:
    rows = [
        element(
            "tr",
            element("td", named(pair.domains[0]), " + ", named(pair.domains[1])),
            element("td", amount(pair.inter_sharing_pages * page_size), class_="number"),
        )
        for pair in ordered[:_LISTED]
    ]
    more = (
        f"The {len(rows)} largest of {len(ordered):,} pairs." if len(ordered) > len(rows) else "All pairs that share."
    )
    head = element("tr", element("th", "guests", scope="col"), element("th", "in common", scope="col", class_="number"))
    return element("table", element("caption", more), element("thead", head), element("tbody", *rows))
