"""Selection of scans with page attribution, and the state kept per guest for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samepaged.config import SourcesConfig
from samepaged.hypervisor.guest import DomainXml, Guest
from samepaged.hypervisor.qemu_process import QemuProcess
from samepaged.scan.attribution import AttributionSchedule
from tests.support.results import guest_id

GIB = 1 << 30
EVERY = SourcesConfig(enabled=True, every=3)
XML = DomainXml((4 * GIB,), encryption=None, vfio=False, machine="pc-q35-7.2")
GUEST = Guest("web", guest_id("web"), 1, False, QemuProcess(7, 100), XML)


def kept(attribution: AttributionSchedule, guest: Guest = GUEST) -> object:
    """The state kept for a guest with a due scan."""
    session = attribution.open_session(guest, 0, lambda: False)
    assert session is not None
    return session.cache


def test_every_nth_scan_has_attribution() -> None:
    attribution = AttributionSchedule(EVERY)
    due = [attribution.open_session(GUEST, scans, lambda: False) is not None for scans in range(7)]
    assert due == [True, False, False, True, False, False, True]


def test_attribution_is_off_by_default() -> None:
    assert AttributionSchedule(SourcesConfig()).open_session(GUEST, 0, lambda: False) is None


def test_kernel_cache_is_per_process() -> None:
    attribution = AttributionSchedule(EVERY)
    first = kept(attribution)
    assert kept(attribution) is first
    assert kept(attribution, replace(GUEST, guest_id=guest_id("db"), name="db")) is not first
    attribution.forget({guest_id("web")})
    assert kept(attribution) is first
    restarted = kept(attribution, replace(GUEST, process=QemuProcess(8, 101)))
    assert restarted is not first
    attribution.forget(())
    assert kept(attribution, replace(GUEST, process=QemuProcess(8, 101))) is not restarted


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({"every": 1}, True),
        ({"names": True}, True),
        ({"btf_directory": Path("/srv/types")}, False),  # values that depend on it are searched again
        ({"enabled": False}, False),
    ],
)
def test_another_configuration_is_taken_over(change: dict[str, object], stays: bool) -> None:  # noqa: FBT001
    attribution = AttributionSchedule(EVERY)
    first = kept(attribution)
    attribution.change(EVERY.model_copy(update=change))
    attribution.change(EVERY.model_copy(update={**change, "enabled": True}))
    assert (kept(attribution) is first) is stays


@pytest.mark.parametrize(
    ("blocks", "dimms"),
    [
        ((4 * GIB, GIB), ((-1, GIB),)),  # not told
        ((4 * GIB, GIB), ((5 * GIB, GIB),)),  # where other memory lies
    ],
)
def test_unknown_device_addresses_decline_attribution(
    blocks: tuple[int, ...], dimms: tuple[tuple[int, int], ...]
) -> None:
    session = AttributionSchedule(EVERY).open_session(
        replace(GUEST, xml=replace(XML, blocks=blocks, dimms=dimms)), 0, lambda: False
    )
    assert session is not None
    session.start_attribution()
    found = session.finish()
    assert found.note == "the addresses of its memory devices are unknown"
    assert len(found.kinds) == sum(blocks) // 4096
    assert not np.any(found.kinds)


def asked(attribution: AttributionSchedule, guests: list[Guest], scans: int = 0) -> list[str]:
    """Of a round, which of the guests are asked."""
    attribution.begin_round()
    found = [one.name for one in guests if attribution.open_session(one, scans, lambda: False) is not None]
    attribution.forget({one.guest_id for one in guests})
    return found


def guests(*gib: int) -> list[Guest]:
    return [
        replace(GUEST, name=str(at), guest_id=guest_id(str(at)), xml=replace(XML, blocks=(size * GIB,)))
        for at, size in enumerate(gib)
    ]


# The result for 4 GiB of a guest takes 32 MiB.
NARROW = SourcesConfig(enabled=True, every=1, memory_limit=64 << 20)


def test_deferred_guests_come_first_next_round() -> None:
    attribution, all_of = AttributionSchedule(NARROW), guests(4, 4, 4, 4)
    rounds = [asked(attribution, all_of) for _ in range(3)]
    assert rounds == [["0", "1"], ["2", "3"], ["0", "1"]]


def test_deferred_guest_ignores_scan_interval() -> None:
    attribution, all_of = AttributionSchedule(NARROW.model_copy(update={"every": 10})), guests(4, 4, 4)
    assert asked(attribution, all_of) == ["0", "1"]
    assert asked(attribution, all_of, scans=1) == ["2"]
    assert asked(attribution, all_of, scans=2) == []


def test_guest_over_limit_runs_alone() -> None:
    attribution, all_of = AttributionSchedule(NARROW), guests(16, 4)
    assert [asked(attribution, all_of) for _ in range(4)] == [["0"], ["1"], ["0"], ["1"]]


def test_failing_guest_reserves_no_memory() -> None:
    attribution, all_of = AttributionSchedule(NARROW), guests(4, 4, 4)
    assert asked(attribution, all_of) == ["0", "1"]
    running = {one.guest_id for one in all_of}
    for _ in range(3):
        attribution.begin_round()
        late = [attribution.open_session(one, 0, lambda: False) is not None for one in all_of[:2]]
        attribution.forget(running)
    assert late == [True, True]


def test_aborted_round_reserves_no_memory() -> None:
    attribution, all_of = AttributionSchedule(NARROW), guests(4, 4)
    attribution.begin_round()
    assert all(attribution.open_session(one, 0, lambda: False) is not None for one in all_of)
    assert asked(attribution, all_of) == ["0", "1"]
