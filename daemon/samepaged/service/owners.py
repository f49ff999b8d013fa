"""Where the sharing of the guests of a round comes from, now that all of them were scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.sharing.elsewhere import elsewhere
from samepaged.sources.answers import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from samepaged.service.scanner import Scanned
    from samepaged.sources.answers import Answers

__all__ = ["answers_of"]


def answers_of(
    scanned: Mapping[str, Scanned], *, names: bool, beat: Callable[[], None] = lambda: None
) -> dict[str, Answers]:
    """The answers for each guest whose pages' owners are known, by domain. All of `scanned` of its group are the others
    with whom it shares. `beat` is called between two guests.
    """
    found = {}
    for name, one in scanned.items():
        if one.ownership is None or one.digest is None:
            continue
        beat()
        group = one.scan.group
        others = (it.contents.distinct for other, it in scanned.items() if other != name and it.scan.group == group)
        distinct = one.contents.distinct
        found[name] = answer(name, one.ownership, one.digest.pages, elsewhere(distinct, others), names=names)
    return found
