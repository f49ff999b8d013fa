"""Hosts as an operator has them, small and large, for pages and figures that are inspected visually. All numbers are
synthetic and deterministic.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from samepaged.config import ScanConfig
from samepaged.errors import Reason
from samepaged.ksm import HostMerging, Merging, ProcessMerging
from samepaged.scan.results import GuestScan, HostScan, SkippedGuest
from samepaged.scan.snapshot import ConfigStatus, HistoryPoint, Snapshot
from samepaged.sharing import GroupSharing, GuestSharing, PairSharing, SharingReport
from tests.support.results import guest_id

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 1_772_630_000.0
STARTED = NOW - 252
MIB = 256  # pages
KINDS = ("web", "db", "cache", "build", "mail", "proxy", "queue", "shop")


def guest(name: str, group: str, mib: int, at: int) -> GuestSharing:
    """Return a guest of `mib` MiB. `at` determines the states of its memory."""
    memory = mib * MIB
    absent = memory * (at * 7 % 30) // 100
    swapped = memory * 3 // 100 if at % 9 == 4 else 0
    zero = memory * (8 + at * 5 % 17) // 100
    duplicate = memory * (4 + at * 3 % 11) // 100
    distinct = memory - absent - swapped - zero - duplicate
    shared = distinct * (25 + at * 13 % 50) // 100
    return GuestSharing(name, group, memory, absent, swapped, zero, distinct, duplicate, shared, duplicate * 2 + shared)


def scanned(guest: GuestSharing, at: int, *, many: bool) -> GuestScan:
    """Return the scan of this guest. With `many`, some guests use a fallback mode and some scans are older than the
    others.
    """
    fell_back = many and at % 11 == 3
    return GuestScan(
        name=guest.name,
        guest_id=guest_id(guest.name),
        group=guest.group,
        mode="sliced" if fell_back else "precopy",
        reader="process",
        started=STARTED - 1800 if many and at % 23 == 7 else STARTED + at / 10,
        duration_seconds=0.4,
        pauses=40 if fell_back else 1,
        pause_seconds=0.03,
        longest_pause_seconds=0.312 if many and at == 12 else 0.004 + (at * 37 % 90) / 1000,
        bytes_read=guest.memory_pages * 4096,
        fallback_code="hugetlb" if fell_back else None,
        fallback_reason="its memory is in huge pages of hugetlbfs, which keep no soft-dirty bits"
        if fell_back
        else None,
        merge_obstacle="hugetlb" if fell_back else None,
    )


def scan(guests: Sequence[GuestSharing]) -> HostScan:
    """Return a scan of `guests`: guests of the same kind share more."""
    pairs = []
    for at, a in enumerate(guests):
        for b in guests[at + 1 :]:
            alike = 0.62 if a.name.split("-")[0] == b.name.split("-")[0] else 0.16
            amount = int(alike * min(a.shared_with_others_pages, b.shared_with_others_pages))
            pairs.append(PairSharing((a.name, b.name), amount))
    pairs.sort(key=lambda pair: -pair.inter_sharing_pages)
    names = sorted({one.group for one in guests})
    inter = sum(one.shared_with_others_pages for one in guests) * 6 // 10
    own = sum(one.duplicate_pages for one in guests)
    report = SharingReport(
        page_size=4096,
        guests=tuple(guests),
        groups=tuple(GroupSharing(name, own // len(names), inter * 8 // 10 // len(names)) for name in names),
        pairs=tuple(pairs),
        self_sharing_pages=own,
        inter_sharing_pages=inter,
    )
    stable = replace(report, self_sharing_pages=own * 8 // 10, inter_sharing_pages=inter * 9 // 10, pairs=())
    many = len(guests) > len(KINDS)
    zero = sum(one.zero_pages for one in guests)
    return HostScan(
        started=STARTED,
        duration_seconds=11.4,
        scans=tuple(scanned(one, at, many=many) for at, one in enumerate(guests)),
        skipped=(),
        report=report,
        stable=stable,
        attainable_pages=(own + inter + zero) * (9 if many else 10) // 10,
        attended_pages=sum(one.memory_pages - one.absent_pages for one in guests),
    )


def history(of: HostScan, scans: int = 96, every: float = 900.0, part_merged: float = 0.62) -> tuple[HistoryPoint, ...]:
    """Return the last day's history: an update at night removes a third of the sharing, and one hour lacks scans."""
    report, page = of.report, of.report.page_size
    moments = []
    for at in range(scans):
        ended = NOW - 240 - (scans - 1 - at) * every
        day = at / (scans - 1)
        if 0.7 < day < 0.75:
            continue
        part = 1 - 0.35 * math.exp(-(((day - 0.4) / 0.07) ** 2)) - 0.03 * math.sin((1 - day) * 40)
        own, inter = (int(pages * page * part) for pages in (report.self_sharing_pages, report.inter_sharing_pages))
        zero = int(of.zero_pages * page * (0.8 + 0.2 * day))
        memory = sum(guest.memory_pages for guest in report.guests) * page
        moments.append(HistoryPoint(ended, memory, own, inter, zero, int((own + inter + zero) * part_merged * day)))
    return tuple(moments)


def merging(of: HostScan, *, run: int = 1, part: float = 0.62) -> Merging:
    """Return KSM's state after it has merged the fraction `part` of the mergeable pages."""
    merged = int(of.potential_pages * part)
    host = HostMerging(
        run, merged // 9, merged * 8 // 10, merged // 3, merged // 50, merged - merged * 8 // 10, 42, 100, 20
    )
    reached = {one.name for one in of.scans if one.merge_obstacle is None}
    return Merging(
        host,
        {
            guest_id(guest.name): ProcessMerging(
                int(guest.recurring_pages * part), int(guest.zero_pages * part), guest.memory_pages
            )
            if guest.name in reached
            else ProcessMerging(0, 0, 0)
            for guest in of.report.guests
        },
    )


def snapshot(of: HostScan | None, merged: Merging | None = None) -> Snapshot:
    """Return the snapshot of a host that has `of` as its last scan."""
    return Snapshot(
        config=ConfigStatus(last_load_successful=True, loaded_at=NOW - 86000),
        scan_config=ScanConfig(max_pause=0.25, interval=900.0, max_drift=1),
        merging=merged,
        history=() if of is None else history(of),
        next_scan=NOW + 652,
        libvirt_up=True,
        latest=of,
        names={} if of is None else {one.guest_id: one.name for one in of.scans},
    )


def small() -> Snapshot:
    """Return a host with three guests, and one that was skipped."""
    guests = (guest("web-1", "tenant", 4096, 5), guest("web-2", "tenant", 4096, 6), guest("db", "tenant", 16384, 3))
    of = replace(
        scan(guests),
        skipped=(SkippedGuest("vault", Reason.OPTED_OUT, "domain vault is opted out by its owner's metadata"),),
    )
    return snapshot(of, merging(of))


def large(count: int = 200) -> Snapshot:
    """Return a host with many guests of three tenants and with every kind of failure."""
    guests = [
        guest(
            f"{KINDS[at % len(KINDS)]}-{at // len(KINDS) + 1:02d}.tenant-{at % 3}.example",
            f"tenant-{at % 3}",
            2048 << at % 4,
            at,
        )
        for at in range(count)
    ]
    of = replace(
        scan(guests),
        skipped=(
            SkippedGuest("vault", Reason.OPTED_OUT, "domain vault is opted out by its owner's metadata"),
            SkippedGuest(
                "moving",
                Reason.IN_JOB,
                "domain moving is in a job (migration out); it is scanned when that is done",
                guest_id("moving"),
            ),
            SkippedGuest("enclave", Reason.ENCRYPTED, "memory of domain enclave is encrypted; exclude it"),
        ),
    )
    return replace(snapshot(of, merging(of, part=0.31)), failures={(guest_id("moving"), Reason.IN_JOB): 4})
