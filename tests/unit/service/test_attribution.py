"""Which scans ask whose a guest's pages are, and what is kept of a guest for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samepaged.config import SourcesConfig
from samepaged.hypervisor.guests import Guest
from samepaged.hypervisor.process import QemuProcess
from samepaged.service.attribution import Attribution

GIB = 1 << 30
EVERY = SourcesConfig(enabled=True, every=3)
GUEST = Guest("web", "uuid-1", 1, False, QemuProcess(7, 100), (4 * GIB,), False, machine="pc-q35-7.2")


def kept(attribution: Attribution, guest: Guest = GUEST) -> object:
    """What is kept of a guest, whose next scan is due."""
    attendant = attribution.attend(guest, 0, lambda: False)
    assert attendant is not None
    return attendant.known


def test_every_nth_scan_of_a_guest_asks_its_first_among_them() -> None:
    attribution = Attribution(EVERY)
    due = [attribution.attend(GUEST, scans, lambda: False) is not None for scans in range(7)]
    assert due == [True, False, False, True, False, False, True]


def test_nobody_asks_unless_it_is_wanted() -> None:
    assert Attribution(SourcesConfig()).attend(GUEST, 0, lambda: False) is None


def test_what_is_kept_is_of_one_process_of_one_guest_and_goes_with_it() -> None:
    attribution = Attribution(EVERY)
    first = kept(attribution)
    assert kept(attribution) is first
    assert kept(attribution, replace(GUEST, uuid="uuid-2", name="db")) is not first
    attribution.forget({"uuid-1"})
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
        ({"btf_directory": Path("/srv/types")}, False),  # what could not be known without it is looked for anew
        ({"enabled": False}, False),
    ],
)
def test_another_configuration_is_taken_over(change: dict[str, object], stays: bool) -> None:  # noqa: FBT001
    attribution = Attribution(EVERY)
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
def test_of_a_guest_whose_memory_devices_lie_nobody_knows_where_nothing_is_known(
    blocks: tuple[int, ...], dimms: tuple[tuple[int, int], ...]
) -> None:
    attendant = Attribution(EVERY).attend(replace(GUEST, blocks=blocks, dimms=dimms), 0, lambda: False)
    assert attendant is not None
    attendant.think()
    found = attendant.conclude()
    assert found.note == "where its memory devices lie is not told"
    assert len(found.kinds) == sum(blocks) // 4096
    assert not np.any(found.kinds)
