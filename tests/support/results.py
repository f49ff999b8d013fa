"""Hand-made scan results, for tests of their presentation."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from samepaged.attribution.report import AttributionReport, CopiedPage, Owner
from samepaged.config import ScanConfig
from samepaged.drift.ledger import PausedTime
from samepaged.errors import Reason
from samepaged.guest_id import GuestId
from samepaged.ksm import HostMerging, Merging, ProcessMerging
from samepaged.scan.results import GuestScan, HostScan, SkippedGuest
from samepaged.scan.snapshot import (
    ConfigStatus,
    GuestAttribution,
    Histogram,
    HistoryPoint,
    OpenJournalEntry,
    Snapshot,
    TraceStats,
)
from samepaged.sharing import GroupSharing, GuestSharing, PageSizeSharing, PairSharing, SharingReport

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTED = 1_700_000_000.25

AWKWARD_NAMES = (
    'quotes"and\\backslashes\\',
    "new\nline",
    "tab\tand\rreturn",
    "Gäste-客-🐧",
    "lone\udcffsurrogate",
    "comma,brace}equals=",
    " spaces ",
    "",
)


def guest_id(name: str) -> GuestId:
    """Return the identity of the test guest with this name."""
    number = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    return GuestId("qemu:///system", f"8d6f2a0e-0000-4000-8000-{number:012x}")


def guest_sharing(name: str, group: str = "tenant", *, pages: int = 1000) -> GuestSharing:
    """Return a guest of `pages` pages: a tenth absent, 1% swapped, a fifth zero, 9% duplicate, the rest distinct."""
    absent, swapped, zero, duplicate = pages // 10, pages // 100, pages // 5, pages * 9 // 100
    return GuestSharing(
        name=name,
        group=group,
        memory_pages=pages,
        absent_pages=absent,
        swapped_pages=swapped,
        zero_pages=zero,
        distinct_pages=pages - absent - swapped - zero - duplicate,
        duplicate_pages=duplicate,
        shared_with_others_pages=pages // 20,
        recurring_pages=pages // 4,
    )


def guest_scan(
    name: str,
    group: str = "tenant",
    *,
    fallback: tuple[str, str] | None = None,
    obstacle: str | None = None,
    device: bool = False,
) -> GuestScan:
    """Return the scan of a guest. `fallback` is the code and the message, `obstacle` the reason code for KSM, `device`
    whether a passed-through device may have written during the scan.
    """
    code, reason = fallback or (None, None)
    return GuestScan(
        name=name,
        guest_id=guest_id(name),
        group=group,
        mode="snapshot",
        reader="process",
        started=STARTED,
        duration_seconds=1.5,
        pauses=2,
        pause_seconds=0.05,
        longest_pause_seconds=0.03125,
        bytes_read=4096 * 700,
        fallback_reason=reason,
        fallback_code=code,
        merge_obstacle=obstacle,
        device_writes=device,
    )


def host_scan(
    *names: str,
    pairs: tuple[PairSharing, ...] = (),
    groups: tuple[GroupSharing, ...] = (GroupSharing("tenant", 90, 40),),
    skipped: tuple[SkippedGuest, ...] = (),
    pages: int = 1000,
    stable: SharingReport | None = None,
    page_sizes: tuple[PageSizeSharing, ...] = (),
    fallbacks: Mapping[str, tuple[str, str]] | None = None,
    obstacles: Mapping[str, str] | None = None,
    devices: frozenset[str] = frozenset(),
) -> HostScan:
    """Return a scan of guests with these names, of `pages` pages of 4 KiB each. `fallbacks` and `obstacles` are by
    name; `devices` names the guests with a passed-through device.
    """
    guests = tuple(guest_sharing(name, pages=pages) for name in names)
    fell_back = fallbacks or {}
    kept_away = obstacles or {}
    return HostScan(
        started=STARTED,
        duration_seconds=2.5,
        scans=tuple(
            guest_scan(name, fallback=fell_back.get(name), obstacle=kept_away.get(name), device=name in devices)
            for name in names
        ),
        skipped=skipped,
        report=SharingReport(
            page_size=4096,
            guests=guests,
            groups=groups,
            pairs=pairs,
            self_sharing_pages=sum(guest.duplicate_pages for guest in guests),
            inter_sharing_pages=40,
        ),
        stable=stable,
        page_sizes=page_sizes,
        attainable_pages=sum(guest.duplicate_pages for guest in guests if guest.name not in kept_away),
        attended_pages=sum(guest.memory_pages for guest in guests if guest.name not in kept_away),
    )


def stable_report(*names: str, pages: int = 500, inter: int = 7) -> SharingReport:
    """Return the stable sharing of guests with these names; `pages` pages of each kept their content."""
    guests = tuple(guest_sharing(name, pages=pages) for name in names)
    own = sum(guest.duplicate_pages for guest in guests)
    return SharingReport(
        page_size=4096,
        guests=guests,
        groups=(GroupSharing("tenant", own, inter),),
        pairs=(),
        self_sharing_pages=own,
        inter_sharing_pages=inter,
    )


def snapshot(scan: HostScan | None = None, *, domains: tuple[str, ...] = ()) -> Snapshot:
    """Return a snapshot with complete information on `domains`: pauses, failures, successes."""
    return Snapshot(
        config=ConfigStatus(last_load_successful=True, loaded_at=STARTED - 100),
        libvirt_up=True,
        latest=scan,
        scan_durations=Histogram((0.5, 1.0, 5.0)).add(0.25).add(2.5),
        names={guest_id(name): name for name in domains},
        pauses={guest_id(name): Histogram((0.01, 0.1)).add(0.03125) for name in domains},
        failures={(guest_id(name), Reason.READ): 3 for name in domains},
        last_success={guest_id(name): STARTED + 2 for name in domains},
    )


def full_snapshot() -> Snapshot:
    """Return a snapshot with at least one series of every metric."""
    scan = host_scan(
        "web-1",
        "web-2",
        pairs=(PairSharing(("web-1", "web-2"), 40),),
        skipped=(SkippedGuest("db", Reason.ENCRYPTED, "memory of domain db is encrypted"),),
        stable=stable_report("web-1"),
        page_sizes=(PageSizeSharing(8192, 1000, 150, 60, 10),),
        fallbacks={"web-2": ("kernel", "this kernel does not support soft-dirty bits")},
        obstacles={"web-2": "nosharepages"},
    )
    return replace(
        snapshot(scan, domains=("web-1", "web-2")),
        scan_config=ScanConfig(max_pause=0.25, interval=900.0, max_drift=0.0005),
        paused={guest_id("web-1"): PausedTime(1.5, 0.0004), guest_id("web-2"): PausedTime(0.25, 0.00002)},
        merging=merging("web-1", "web-2"),
        history=(HistoryPoint(STARTED - 900, 8 << 20, 1 << 20, 2 << 20, 1 << 19, 1 << 20),),
        next_scan=STARTED + 900,
        trace_stats=TraceStats(written=7, lost=1, stored_bytes=1 << 20),
        open_entries=(OpenJournalEntry("hung", 1.0, "the monitor is busy"),),
        attributions={guest_id(name): GuestAttribution(answers(name), STARTED - 900) for name in ("web-1", "web-2")},
    )


def answers(domain: str, *, names: bool = True, kinds: int = 3) -> AttributionReport:
    """Return the attribution of a guest of 1,000 pages that shares 110, most of them in its heap, the rest in its
    libraries.
    """
    owners = [Owner("heap", 300, 50, 20, 60.0), Owner("library", 200, 30, 20, 45.5), Owner("slab", 100, 10, 0, 4.5)]
    return AttributionReport(
        domain=domain,
        kernel="6.1.0-56-cloud-amd64",
        memory_pages=1000,
        in_use_pages=800,
        labelled_ratio=0.98,
        self_sharing_pages=80,
        inter_sharing_pages=30,
        kinds=(*owners[:kinds], Owner("free", 200, 0, 0, 0.0)),
        processes=(Owner("apache2", 150, 40, 20, 50.0), Owner("sshd", 20, 5, 0, 2.5)) if names else None,
        files=(Owner("/usr/lib/libc.so.6", 90, 20, 10, 15.0),) if names else None,
        most_copied=(
            CopiedPage(12, shared_with_others=True, owners=("[libc.so.6 000b6000 r-xp]: apache2 sshd",), more_owners=1),
        )
        if names
        else (CopiedPage(12, shared_with_others=True, owners=("[library]",)),),
        combined_kinds=(Owner("heap+anonymous", 300, 50, 20, 60.0),),
        in_use_self_sharing_pages=40,
    )


def merging(*names: str, merged: int = 45) -> Merging:
    """Return the state of a running KSM that has merged `merged` pages of each guest."""
    host = HostMerging(
        run=1,
        shared=10,
        sharing=merged * len(names),
        unshared=300,
        volatile=5,
        zero=20,
        full_scans=7,
        pages_to_scan=100,
        sleep_milliseconds=20,
    )
    return Merging(host, {guest_id(name): ProcessMerging(merged, 10, 500) for name in names})
