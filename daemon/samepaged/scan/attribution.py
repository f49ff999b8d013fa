"""Page attribution of guests: the scans that include it, and the reports after a round of scans."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.ram_map import RamMap, RamRegion, ram_maps
from samepaged.attribution.report import report_attribution
from samepaged.attribution.session import AttributionSession, GuestKernelCache
from samepaged.log_line import details
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

# The attribution of a guest stays in memory, with its digest, until all guests are scanned.
RESULT_BYTES_PER_PAGE: Final = 32


class AttributionSchedule:
    """Selects the guests with page attribution in each round, and keeps a kernel cache per QEMU process.

    A round attributes only as many guests as `sources.memory_limit` has room for their results, one at least. The
    others are deferred, and come first in the next round.
    """

    def __init__(self, config: SourcesConfig) -> None:
        self._config = config
        self._kernel_caches: dict[GuestId, GuestKernelCache] = {}
        # Bytes of each guest's result: of the deferred guests, and of the deferred guests that this round has still to
        # visit.
        self._deferred_bytes: dict[GuestId, int] = {}
        self._reserved_bytes: dict[GuestId, int] = {}
        self._visited: set[GuestId] = set()
        self._result_bytes = 0

    def begin_round(self) -> None:
        """Begin a round, also after one that failed."""
        # Guests that did not reach `open_session` in the last round get no reservation: it would stay unused.
        self._reserved_bytes = {
            guest_id: size for guest_id, size in self._deferred_bytes.items() if guest_id in self._visited
        }
        self._visited.clear()
        self._result_bytes = 0

    def change(self, config: SourcesConfig) -> None:
        """Apply this configuration."""
        if not config.enabled or config.btf_directory != self._config.btf_directory:
            self._kernel_caches.clear()
        self._config = config

    def open_session(self, guest: Guest, scans: int, stop: Callable[[], bool]) -> AttributionSession | None:
        """Return the session for a guest's next scan, or None for a scan without attribution. `scans` counts its
        earlier scans.
        """
        config = self._config
        late = guest.guest_id in self._deferred_bytes
        self._reserved_bytes.pop(guest.guest_id, None)
        self._visited.add(guest.guest_id)
        if not config.enabled or (scans % config.every and not late):
            return None
        needed = guest.xml.memory // PAGE_SIZE * RESULT_BYTES_PER_PAGE
        committed = self._result_bytes + (0 if late else sum(self._reserved_bytes.values()))
        if committed and committed + needed > config.memory_limit:
            self._deferred_bytes[guest.guest_id] = needed
            return None
        self._deferred_bytes.pop(guest.guest_id, None)
        self._result_bytes += needed
        known = self._kernel_caches.get(guest.guest_id)
        if known is None or known.start_time != guest.process.start_time:
            known = self._kernel_caches[guest.guest_id] = GuestKernelCache(guest.process.start_time)
        boot = guest.xml.memory - sum(size for _, size in guest.xml.dimms)
        dimms = [RamRegion(start, size) for start, size in guest.xml.dimms]
        try:
            found = list(ram_maps(guest.xml.machine, boot, dimms))
        except ValueError:
            found = []
        located = found and all(start >= 0 for start, _ in guest.xml.dimms)
        session = AttributionSession(
            known, found if located else [RamMap((RamRegion(0, guest.xml.memory),))], config, stop
        )
        if not located:
            session.decline("the addresses of its memory devices are unknown")
        return session

    def forget(self, running: Collection[GuestId]) -> None:
        """Drop the state of all other guests."""
        for kept in (self._kernel_caches, self._deferred_bytes):
            for guest_id in kept.keys() - set(running):
                del kept[guest_id]


def attribution_reports(
    scanned: Mapping[GuestId, ScannedGuest], *, names: bool, beat: Callable[[], None] = lambda: None
) -> dict[GuestId, AttributionReport]:
    """Return the report of each guest with attributed pages. Its sharing is with the other guests of `scanned` in the
    same group. `beat` is called between two guests. A guest controls the size of its report: if the report exhausts the
    memory, it is left out.
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
            log.warning("out of memory during page attribution, keeping the previous result%s", details(domain=name))
    return found


def visible_attribution(
    sources: Mapping[GuestId, GuestAttribution], config: SourcesConfig
) -> Mapping[GuestId, GuestAttribution]:
    """The part of `sources`, found under another configuration, that this configuration allows."""
    if not config.enabled:
        return {}
    if config.names:
        return sources
    return {guest_id: replace(one, report=one.report.without_names()) for guest_id, one in sources.items()}
