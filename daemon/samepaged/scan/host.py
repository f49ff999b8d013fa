"""One scan of all guests, and the analysis of their sharing."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, HypervisorError, Reason, excluded
from samepaged.log_line import details
from samepaged.memory.hashing import Interrupted
from samepaged.os_errors import exhausted, memory_error, no_resources
from samepaged.scan.results import HostScan, ScannedGuest, SkippedGuest
from samepaged.sharing import Member, PageSizeSharing, SharingReport, analyse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from samepaged.config import Config
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.protocol import Hypervisor
    from samepaged.scan.guest import GuestScanner

__all__ = ["HostRound", "analyse_host", "latest_scans", "scan_host"]

log = logging.getLogger(__name__)

# Failures that invalidate the guest's earlier scan.
DISCARDING_REASONS: Final = frozenset(
    {Reason.GONE, Reason.NOT_RUNNING, Reason.ENCRYPTED, Reason.CRASHED, Reason.EXCLUDED, Reason.OPTED_OUT}
)


@dataclass(slots=True)
class HostRound:
    """One scan of all guests in progress. `running_names` has the name of each domain that libvirt lists as running.
    `pauses` has the seconds of each pause, also of failed scans.
    """

    started: float
    running_names: dict[GuestId, str] = field(default_factory=dict)
    scanned: dict[GuestId, ScannedGuest] = field(default_factory=dict)
    pauses: dict[GuestId, list[float]] = field(default_factory=dict)
    skipped: list[SkippedGuest] = field(default_factory=list)

    @property
    def names(self) -> dict[GuestId, str]:
        """Names for display, each of one guest: the names that the scans found, which are newer than the list's."""
        scanned = {guest_id: one.scan.name for guest_id, one in self.scanned.items()}
        owners = {name: guest_id for guest_id, name in scanned.items()}
        return {
            guest_id: name
            for guest_id, name in (self.running_names | scanned).items()
            if owners.get(name, guest_id) == guest_id
        }


def latest_scans(known: Mapping[GuestId, ScannedGuest], round_: HostRound) -> dict[GuestId, ScannedGuest]:
    """Return the latest scan of each guest after a round: the scans of the round, and the earlier scan from `known` of
    running guests that the round failed to scan, under their current names.
    """
    failed = {skipped.guest_id for skipped in round_.skipped if skipped.reason not in DISCARDING_REASONS}
    kept = {
        guest_id: one.renamed(round_.running_names[guest_id])
        for guest_id, one in known.items()
        if guest_id in failed and guest_id in round_.running_names
    }
    return kept | {guest_id: one.lean() for guest_id, one in round_.scanned.items()}


def analyse_host(
    guests: Iterable[ScannedGuest], skipped: Sequence[SkippedGuest], started: float, duration: float
) -> HostScan:
    """Analyse the scans of these guests. `started` is in seconds of the Unix epoch, `duration` in seconds.

    Names are unique within the result: of two guests with one name in turn, the later scan counts.
    """
    scanned = {one.scan.name: one for one in sorted(guests, key=lambda one: one.scan.started)}
    members = [Member(name, one.scan.group, one.contents) for name, one in sorted(scanned.items())]
    whole = analyse(members, PAGE_SIZE)
    attainable, attended = _attainable_pages(scanned, whole)
    return HostScan(
        started=started,
        duration_seconds=duration,
        scans=tuple(scanned[member.name].scan for member in members),
        skipped=tuple(skipped),
        report=whole,
        stable=_stable_sharing(scanned),
        page_sizes=tuple(_sharing_by_page_size(scanned)),
        attainable_pages=attainable,
        attended_pages=attended,
    )


def _attainable_pages(scanned: Mapping[str, ScannedGuest], whole: SharingReport) -> tuple[int, int]:
    """Return the pages that KSM could save in guests with mergeable memory, and the number of pages that it would scan
    for that.
    """
    reachable = {name for name, one in scanned.items() if one.scan.merge_obstacle is None}
    guests = [guest for guest in whole.guests if guest.name in reachable]
    if len(guests) < len(whole.guests):
        members = [Member(name, "", scanned[name].contents) for name in sorted(reachable)]
        shared = analyse(members, PAGE_SIZE, pairs=False).total_sharing_pages
    else:
        shared = whole.total_sharing_pages
    backed = sum(guest.memory_pages - guest.absent_pages - guest.swapped_pages for guest in guests)
    zeros = sum(guest.zero_pages - scanned[guest.name].scan.unbacked_zero_pages for guest in guests)
    unbacked = sum(scanned[guest.name].scan.unbacked_zero_pages for guest in guests)
    return shared + zeros, backed - unbacked


def _stable_sharing(scanned: Mapping[str, ScannedGuest]) -> SharingReport | None:
    """Sharing of the pages that kept their content since the scan before, over the guests that had one."""
    lasting = [(name, one.scan.group, one.lasting) for name, one in sorted(scanned.items())]
    members = [Member(name, group, contents) for name, group, contents in lasting if contents is not None]
    return analyse(members, PAGE_SIZE, pairs=False) if members else None


def _sharing_by_page_size(scanned: Mapping[str, ScannedGuest]) -> Iterator[PageSizeSharing]:
    for size in sorted({size for one in scanned.values() for size in one.by_page_size}):
        members = [
            Member(name, one.scan.group, one.by_page_size[size])
            for name, one in sorted(scanned.items())
            if size in one.by_page_size
        ]
        yield PageSizeSharing.of(analyse(members, size, pairs=False))


def _skipped_guest(name: str, guest_id: GuestId | None, error: Exception) -> SkippedGuest:
    if isinstance(error, MemoryError):
        error = memory_error()
    elif isinstance(error, OSError) and exhausted(error):
        error = no_resources(str(error.filename or "a file"), error)
    if isinstance(error, GuestError):
        return SkippedGuest(name, error.reason, error.about(name), guest_id, error.remedy)
    log.error("unexpected error, please report it%s", details(domain=name), exc_info=error)
    text = f"domain {name!r}: {type(error).__name__}; please report it, with the log"
    return SkippedGuest(name, Reason.INTERNAL, text, guest_id)


def scan_host(
    hypervisor: Hypervisor,
    config: Config,
    scanner: GuestScanner,
    names: Sequence[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> HostRound:
    """Scan the named domains, or all that run and that the configuration selects. A failure belongs to its domain: it
    is in `skipped`, and the others are scanned. Raises HypervisorError if the connection to libvirt is lost, and
    Interrupted.
    """
    round_ = HostRound(time.time())
    scanner.begin_round()
    guests = _named_domains(hypervisor, names, round_) if names else _selected_domains(hypervisor, config, round_)
    for number, (guest_id, name) in enumerate(guests.items(), start=1):
        if progress is not None:
            progress(number, len(guests), name)
        pauses = round_.pauses.setdefault(guest_id, [])
        try:
            # Look the domain up again: the connection may have been replaced since the domains were listed.
            round_.scanned[guest_id] = scanner.scan(hypervisor.by_uuid(guest_id.uuid), pauses)
        except Interrupted:
            raise
        except HypervisorError as error:
            if not hypervisor.alive:
                raise
            round_.skipped.append(SkippedGuest(name, Reason.LIBVIRT, str(error), guest_id, error.remedy))
        except Exception as error:  # noqa: BLE001 - any error must stay with its guest
            round_.skipped.append(_skipped_guest(name, guest_id, error))
    return round_


def _named_domains(hypervisor: Hypervisor, names: Sequence[str], round_: HostRound) -> dict[GuestId, str]:
    """The named domains, each once, and their names."""
    found: dict[GuestId, str] = {}
    for name in names:
        try:
            domain = hypervisor.by_name(name)
        except GuestError as error:
            round_.skipped.append(_skipped_guest(name, None, error))
        else:
            found[domain.guest_id] = domain.name
    return found


def _selected_domains(hypervisor: Hypervisor, config: Config, round_: HostRound) -> dict[GuestId, str]:
    """The domains that run and that the configuration selects, and their names."""
    found: dict[GuestId, str] = {}
    for domain in hypervisor.running():
        name = domain.name
        round_.running_names[domain.guest_id] = name
        if config.selects(name):
            found[domain.guest_id] = name
        else:
            round_.skipped.append(SkippedGuest(name, Reason.EXCLUDED, str(excluded(name)), domain.guest_id))
    return found
