"""A renamed domain keeps its state, and a new domain with the name of an earlier one inherits nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from samepaged.config import Config
from samepaged.errors import GuestError, Reason
from samepaged.guest_id import GuestId
from samepaged.ksm import HostMerging, Merging, ProcessMerging
from samepaged.memory.scan_state import ScanState
from samepaged.metrics.exposition import families
from samepaged.scan.guest import GuestScanner
from samepaged.scan.host import HostRound, analyse_host, latest_scans, scan_host
from samepaged.scan.results import ScannedGuest
from samepaged.scan.snapshot import ConfigStatus, Snapshot
from samepaged.service.history import with_counts
from samepaged.sharing import Contents, PageDigest
from tests.support.hypervisor import URI, FakeDomain, FakeHypervisor
from tests.support.results import STARTED, guest_scan

if TYPE_CHECKING:
    from samepaged.hypervisor.protocol import Domain

OLD, NEW = GuestId(URI, "uuid-1"), GuestId(URI, "uuid-2")
PAGES = np.arange(70, 80, dtype=np.uint64)
HOST_MERGING = HostMerging(1, 10, 90, 300, 5, 20, 7, 100, 20)


@dataclass
class Scanner:
    """In the place of a GuestScanner: each scan pauses the guest for 20 ms, and fails if `failure` says so."""

    failure: GuestError | None = None
    started: float = STARTED
    asked: list[GuestId] = field(default_factory=list)

    def begin_round(self) -> None:
        self.started += 900

    def scan(self, domain: Domain, pauses: list[float]) -> ScannedGuest:
        self.asked.append(domain.guest_id)
        pauses.append(0.02)
        if self.failure is not None:
            raise self.failure
        scan = replace(guest_scan(domain.name), guest_id=domain.guest_id, started=self.started)
        return ScannedGuest(scan, cast("Any", SimpleNamespace(pid=1)), Contents.of(PageDigest(PAGES, 4096)), None, {})


@dataclass
class Host:
    """A daemon's state from round to round: a snapshot, and the latest scan of each guest."""

    domains: list[FakeDomain]
    scanner: Scanner = field(default_factory=Scanner)
    known: dict[GuestId, ScannedGuest] = field(default_factory=dict)
    snapshot: Snapshot = field(
        default_factory=lambda: Snapshot(ConfigStatus(last_load_successful=True, loaded_at=STARTED))
    )

    def round(self) -> HostRound:
        round_ = scan_host(FakeHypervisor(self.domains), Config(), cast("GuestScanner", self.scanner))
        self.known = latest_scans(self.known, round_)
        latest = analyse_host(self.known.values(), round_.skipped, round_.started, 1.0)
        merging = Merging(HOST_MERGING, {guest_id: ProcessMerging(7, 0, 9) for guest_id in self.known})
        self.snapshot = replace(with_counts(self.snapshot, round_, self.known, 1.0), latest=latest, merging=merging)
        return round_

    def series(self, name: str) -> dict[str, float]:
        """The values of a metric by the label `domain`; of a histogram the numbers of observations."""
        suffixes = {name, f"{name}_total", f"{name}_count"}
        return {
            sample.labels["domain"]: sample.value
            for family in families(self.snapshot)
            for sample in family.samples
            if sample.name in suffixes
        }


def test_renamed_domain_keeps_counters() -> None:
    host = Host([FakeDomain(name="web", uuid=OLD.uuid)])
    host.round()
    host.domains[0].name = "shop"
    host.round()
    assert host.series("samepage_pause_duration_seconds") == {"shop": 2}
    assert set(host.series("samepage_domain_ksm_merged_bytes")) == {"shop"}
    assert set(host.series("samepage_domain_self_sharing_bytes")) == {"shop"}


def test_renamed_domain_keeps_results() -> None:
    host = Host([FakeDomain(name="web", uuid=OLD.uuid)])
    host.round()
    host.domains[0].name = "shop"
    host.scanner.failure = GuestError(Reason.IN_JOB, "domain 'shop' is being migrated")
    host.round()
    assert host.snapshot.latest is not None
    assert [(one.name, one.guest_id) for one in host.snapshot.latest.scans] == [("shop", OLD)]
    assert host.series("samepage_scan_failures") == {"shop": 1}
    assert set(host.series("samepage_domain_last_scan_success_timestamp_seconds")) == {"shop"}


def test_reused_name_inherits_nothing() -> None:
    host = Host([FakeDomain(name="web", uuid=OLD.uuid)])
    host.scanner.failure = GuestError(Reason.READ, "domain 'web' cannot be read")
    for _ in range(3):
        host.round()
    assert host.series("samepage_scan_failures") == {"web": 3}
    host.scanner.failure = None
    host.round()
    host.domains[0] = FakeDomain(name="web", uuid=NEW.uuid)
    host.scanner.failure = GuestError(Reason.IN_JOB, "domain 'web' is being migrated")
    host.round()
    assert host.snapshot.latest is not None
    assert host.snapshot.latest.scans == ()
    assert host.series("samepage_scan_failures") == {"web": 1}
    assert host.series("samepage_pause_duration_seconds") == {"web": 1}
    assert host.series("samepage_domain_last_scan_success_timestamp_seconds") == {}
    assert host.series("samepage_domain_ksm_merged_bytes") == {}


def test_late_stop_event_keeps_new_domain() -> None:
    host = Host([FakeDomain(name="web", uuid=NEW.uuid)])
    host.round()
    assert host.snapshot.without(OLD) == host.snapshot  # its event comes late
    left = host.snapshot.without(NEW)
    assert left.latest is not None
    assert (left.latest.scans, left.names, left.pauses, left.merging) == ((), {}, {}, Merging(HOST_MERGING))


def test_moved_name_is_shown_once() -> None:
    """During one round, "db" ends, and "web" is shut off, renamed to "db" and started again."""
    host = Host([FakeDomain(name="web", uuid=OLD.uuid), FakeDomain(name="db", uuid=NEW.uuid)])
    host.round()

    class Renaming(Scanner):
        def scan(self, domain: Domain, pauses: list[float]) -> ScannedGuest:
            if domain.guest_id == NEW:
                host.domains[0].name = "db"
                raise GuestError(Reason.LEFT_ALONE, "domain 'db' is left alone")
            return super().scan(domain, pauses)

    host.scanner = Renaming(started=STARTED + 900)
    host.round()
    assert host.snapshot.latest is not None
    assert [(one.name, one.guest_id) for one in host.snapshot.latest.scans] == [("db", OLD)]
    assert host.snapshot.names == {OLD: "db"}
    assert host.series("samepage_pause_duration_seconds") == {"db": 2}


def test_scan_state_is_per_domain() -> None:
    state = ScanState(1)
    kept = {OLD: state}
    scanner = GuestScanner(
        cast("Any", None), cast("Any", None), Config(), cast("Any", None), kept, attribution=None, clocks=None
    )
    scanner.prune([NEW])
    assert kept == {}
