"""Scans made by hand, for what shows them."""

from __future__ import annotations

from samepaged.errors import Reason
from samepaged.export.snapshot import ConfigStatus, GuestScan, Histogram, HostScan, Skipped, Snapshot
from samepaged.sharing import GroupSharing, GuestSharing, PairSharing, SharingReport

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


def guest_sharing(name: str, group: str = "tenant", *, pages: int = 1000) -> GuestSharing:
    """A guest of `pages` pages: a tenth absent, 1% swapped, a fifth zero, 9% duplicate, the rest distinct."""
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
    )


def guest_scan(name: str, group: str = "tenant", *, fallback_reason: str | None = None) -> GuestScan:
    return GuestScan(
        name=name,
        uuid="8d6f2a0e-0000-4000-8000-000000000001",
        group=group,
        mode="snapshot",
        reader="process",
        started=STARTED,
        duration_seconds=1.5,
        pauses=2,
        pause_seconds=0.05,
        longest_pause_seconds=0.03125,
        bytes_read=4096 * 700,
        fallback_reason=fallback_reason,
    )


def host_scan(
    *names: str,
    pairs: tuple[PairSharing, ...] = (),
    groups: tuple[GroupSharing, ...] = (GroupSharing("tenant", 90, 40),),
    skipped: tuple[Skipped, ...] = (),
    pages: int = 1000,
) -> HostScan:
    """A scan of guests of these names, of `pages` pages of 4 KiB each."""
    guests = tuple(guest_sharing(name, pages=pages) for name in names)
    return HostScan(
        started=STARTED,
        duration_seconds=2.5,
        scans=tuple(guest_scan(name) for name in names),
        skipped=skipped,
        report=SharingReport(
            page_size=4096,
            guests=guests,
            groups=groups,
            pairs=pairs,
            self_sharing_pages=sum(guest.duplicate_pages for guest in guests),
            inter_sharing_pages=40,
        ),
    )


def snapshot(scan: HostScan | None = None, *, domains: tuple[str, ...] = ()) -> Snapshot:
    """A snapshot in which everything is known of `domains`: pauses, failures, success."""
    return Snapshot(
        config=ConfigStatus(successful=True, loaded=STARTED - 100),
        libvirt_up=True,
        latest=scan,
        scan_durations=Histogram((0.5, 1.0, 5.0)).add(0.25).add(2.5),
        pauses={name: Histogram((0.01, 0.1)).add(0.03125) for name in domains},
        failures={(name, Reason.READ): 3 for name in domains},
        last_success=dict.fromkeys(domains, STARTED + 2),
    )


def full_snapshot() -> Snapshot:
    """A snapshot with at least one series of every metric."""
    scan = host_scan(
        "web-1",
        "web-2",
        pairs=(PairSharing(("web-1", "web-2"), 40),),
        skipped=(Skipped("db", Reason.ENCRYPTED, "memory of domain db is encrypted"),),
    )
    return snapshot(scan, domains=("web-1", "web-2"))
