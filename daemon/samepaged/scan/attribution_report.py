"""Where the sharing of the guests of a round comes from, now that all of them were scanned."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from samepaged.attribution.report import report_attribution
from samepaged.sharing.overlap import elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import SourcesConfig
    from samepaged.guest_id import GuestId
    from samepaged.scan.guest import ScannedGuest
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["answers_of", "still_shown"]

log = logging.getLogger(__name__)


def answers_of(
    scanned: Mapping[GuestId, ScannedGuest], *, names: bool, beat: Callable[[], None] = lambda: None
) -> dict[GuestId, AttributionReport]:
    """The answers for each guest whose pages' owners are known. All of `scanned` of its group are the others
    with whom it shares. `beat` is called between two guests. How much there is to join is the guest's word: where
    memory runs out over it, that guest has no answers.
    """
    found = {}
    for guest_id, one in scanned.items():
        if one.ownership is None or one.digest is None:
            continue
        beat()
        group = one.scan.group
        others = (it.contents.distinct for other, it in scanned.items() if other != guest_id and it.scan.group == group)
        distinct, name = one.contents.distinct, one.scan.name
        try:
            found[guest_id] = report_attribution(
                name, one.ownership, one.digest.pages, elsewhere(distinct, others), names=names
            )
        except MemoryError:
            log.warning("domain %r: memory ran out over whose its pages are, so this stays as it was", name)
    return found


def still_shown(
    sources: Mapping[GuestId, GuestAttribution], config: SourcesConfig
) -> Mapping[GuestId, GuestAttribution]:
    """What may be shown by this configuration of what was found by another."""
    if not config.enabled:
        return {}
    if config.names:
        return sources
    return {guest_id: replace(one, answers=one.answers.without_names()) for guest_id, one in sources.items()}
