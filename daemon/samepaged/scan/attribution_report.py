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
    from samepaged.scan.guest import ScannedGuest
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["answers_of", "still_shown"]

log = logging.getLogger(__name__)


def answers_of(
    scanned: Mapping[str, ScannedGuest], *, names: bool, beat: Callable[[], None] = lambda: None
) -> dict[str, AttributionReport]:
    """The answers for each guest whose pages' owners are known, by domain. All of `scanned` of its group are the others
    with whom it shares. `beat` is called between two guests. How much there is to join is the guest's word: where
    memory runs out over it, that guest has no answers.
    """
    found = {}
    for name, one in scanned.items():
        if one.ownership is None or one.digest is None:
            continue
        beat()
        group = one.scan.group
        others = (it.contents.distinct for other, it in scanned.items() if other != name and it.scan.group == group)
        distinct = one.contents.distinct
        try:
            found[name] = report_attribution(
                name, one.ownership, one.digest.pages, elsewhere(distinct, others), names=names
            )
        except MemoryError:
            log.warning("domain %r: memory ran out over whose its pages are, so this stays as it was", name)
    return found


def still_shown(sources: Mapping[str, GuestAttribution], config: SourcesConfig) -> Mapping[str, GuestAttribution]:
    """What may be shown by this configuration of what was found by another."""
    if not config.enabled:
        return {}
    if config.names:
        return sources
    return {domain: replace(one, answers=one.answers.without_names()) for domain, one in sources.items()}
