"""Page attribution of guests: the scans that include it, and the reports after a round of scans."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.ram_map import RamMap, RamRegion, ram_maps
from samepaged.attribution.report import report_attribution
from samepaged.attribution.session import AttributionSession, GuestKernelCache
from samepaged.sharing.overlap import elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import SourcesConfig
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.guest import Guest
    from samepaged.scan.results import ScannedGuest
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["AttributionSchedule", "attribution_reports", "visible_attribution"]

log = logging.getLogger(__name__)

# What is found of a guest waits, with its digest, until all guests are scanned.
BYTES_A_PAGE: Final = 32


class AttributionSchedule:
    """By the configuration; what is kept of a guest is of one process of it, and is used for no other guest.

    Of a round no more are asked than `sources.memory_limit` has room for what is found of them, one at least; the
    others are late, and come first in the next round.
    """

    def __init__(self, config: SourcesConfig) -> None:
        self._config = config
        self._known: dict[GuestId, GuestKernelCache] = {}
        # Bytes that the result of each guest takes: of the late guests, and of those of them that are still to come in
        # this round.
        self._late: dict[GuestId, int] = {}
        self._first: dict[GuestId, int] = {}
        self._seen: set[GuestId] = set()
        self._taken = 0

    def begin(self) -> None:
        """A round begins, however the one before has ended."""
        # Not those whose scans fail before they are asked for here: room that is kept for them is nobody's.
        self._first = {guest_id: takes for guest_id, takes in self._late.items() if guest_id in self._seen}
        self._seen.clear()
        self._taken = 0

    def change(self, config: SourcesConfig) -> None:
        """From now on, by this configuration."""
        if not config.enabled or config.btf_directory != self._config.btf_directory:
            self._known.clear()
        self._config = config

    def attend(self, guest: Guest, scans: int, stop: Callable[[], bool]) -> AttributionSession | None:
        """Who attends a guest's next scan, of which so many were made before; None where it is not due."""
        config = self._config
        late = guest.guest_id in self._late
        self._first.pop(guest.guest_id, None)
        self._seen.add(guest.guest_id)
        if not config.enabled or (scans % config.every and not late):
            return None
        takes = guest.xml.memory // PAGE_SIZE * BYTES_A_PAGE
        spoken_for = self._taken + (0 if late else sum(self._first.values()))
        if spoken_for and spoken_for + takes > config.memory_limit:
            self._late[guest.guest_id] = takes
            return None
        self._late.pop(guest.guest_id, None)
        self._taken += takes
        known = self._known.get(guest.guest_id)
        if known is None or known.start_time != guest.process.start_time:
            known = self._known[guest.guest_id] = GuestKernelCache(guest.process.start_time)
        boot = guest.xml.memory - sum(size for _, size in guest.xml.dimms)
        dimms = [RamRegion(start, size) for start, size in guest.xml.dimms]
        try:
            found = list(ram_maps(guest.xml.machine, boot, dimms))
        except ValueError:
            found = []
        told = found and all(start >= 0 for start, _ in guest.xml.dimms)
        attendant = AttributionSession(
            known, found if told else [RamMap((RamRegion(0, guest.xml.memory),))], config, stop
        )
        if not told:
            attendant.decline("where its memory devices lie is not told")
        return attendant

    def forget(self, running: Collection[GuestId]) -> None:
        """Forget guests other than these."""
        for kept in (self._known, self._late):
            for guest_id in kept.keys() - set(running):
                del kept[guest_id]


def attribution_reports(
    scanned: Mapping[GuestId, ScannedGuest], *, names: bool, beat: Callable[[], None] = lambda: None
) -> dict[GuestId, AttributionReport]:
    """The report of each guest with attributed pages. Guests of `scanned` of the same group count as the others that it
    shares with. `beat` is called between two guests. A guest controls the size of its report: a guest that exhausts the
    memory has none.
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


def visible_attribution(
    sources: Mapping[GuestId, GuestAttribution], config: SourcesConfig
) -> Mapping[GuestId, GuestAttribution]:
    """The part of `sources`, found under another configuration, that this configuration allows."""
    if not config.enabled:
        return {}
    if config.names:
        return sources
    return {guest_id: replace(one, answers=one.answers.without_names()) for guest_id, one in sources.items()}
