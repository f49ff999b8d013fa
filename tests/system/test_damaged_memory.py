"""The short version of `make fuzz-sources`: two hundred damages of a real guest's memory, the same in each run."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.images import runner
from tests.fuzz.images.bases import KERNELS, image

KERNEL = "6.1"
# A third of them are this kernel's.
NUMBERS = 600


def test_the_damaged_memory_of_a_real_guest_is_attributed_or_refused_in_its_time_and_room(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if os.geteuid() != 0:
        pytest.skip("to boot the guests takes root")
    image(KERNEL)
    summary = runner.run(range(NUMBERS), workers=1, kernels=(KERNEL,))
    assert not summary.found, capsys.readouterr().out
    assert summary.total == summary.images == NUMBERS // len(KERNELS)
    assert set(summary.kinds) == {"attributed", "partly", "refused"}  # the damage is neither too small nor too big
