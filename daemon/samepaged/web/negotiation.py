"""What a client takes (RFC 9110, 12.5): among the documents of a path, and whether packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["choose", "quality", "takes_gzip"]


def quality(header: str, name: str) -> float:
    """The highest q, 0 to 1, that an Accept or Accept-Encoding header gives to `name`; 0 if it does not name it."""
    best = 0.0
    for item in header.split(","):
        value, *parameters = (part.strip().lower() for part in item.split(";"))
        if value == name:
            given = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
            best = max(best, _weight(given[0]) if given else 1.0)
    return best


def takes_gzip(accept_encoding: str) -> bool:
    """Whether the client names gzip as welcome."""
    return quality(accept_encoding, "gzip") > 0


def choose(accept: str, media_types: Sequence[str]) -> int:
    """The index of the type to send, of some that say the same. The first is for everybody; another is for those who
    name it, and not the first with more weight.
    """
    plain = _essence(media_types[0])
    family = plain.partition("/")[0]
    best = max(quality(accept, name) for name in (plain, f"{family}/*", "*/*"))
    chosen = 0
    for index, media_type in enumerate(media_types[1:], start=1):
        wished = quality(accept, _essence(media_type))
        if wished > 0 and wished >= best:
            chosen, best = index, wished
    return chosen


def _essence(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
