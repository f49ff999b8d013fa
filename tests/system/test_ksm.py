"""Right to the page: against the kernel's own merging."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.guests import held
from tests.support.images import kernel
from tests.support.ksm import KSM, ksm, ksm_runs_to_completion, mergeable_by_others
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from tests.support.command import Samepaged
    from tests.support.guests import Writer


def other_workers_have_guests(*own: Writer) -> bool:
    return any(str(kernel()) in command for command in mergeable_by_others(*own).values())


@pytest.mark.alone
@pytest.mark.skipif(not KSM.exists(), reason="this kernel has no KSM")
def test_ksm_merges_what_the_scan_counts(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, b = pair
    # This test is the last: the other workers end as soon as their tests have.
    wait_for(lambda: not other_workers_have_guests(a, b), 200, "the other workers have ended", every=0.5)
    if others := mergeable_by_others(a, b):
        pytest.skip(f"KSM is not this test's alone: processes {sorted(others)} offer memory to it, too")
    a.fill(0, 2000, 21, 100)
    b.fill(0, 1500, 21, 150)
    with held(a, b):
        scan = samepaged.scan("--reader", "process")
        with ksm_runs_to_completion():
            merged = ksm("pages_sharing")
    assert scan["total_sharing_pages"] > 3000
    assert merged == pytest.approx(scan["total_sharing_pages"], rel=0.01)
