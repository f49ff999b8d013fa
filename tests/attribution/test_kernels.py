"""Owners of all pages, in guests of each kernel and machine type, compared with the guests' own reports."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attribution import memory_image
from tests.support.attribution.guests import initramfs
from tests.support.attribution.kernels import SUITES, kernel
from tests.support.attribution.labels import BUSY_ONES, compared
from tests.support.attribution.memory_image import BUSY, IDLE
from tests.support.attribution.scan import owners
from tests.support.guests import Spec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged

FIVE_LEVELS = "<feature policy='require' name='la57'/>"
# Kernel, memory in MiB, and further differences. QEMU splits a guest's memory at 2 GiB (q35) or 3 GiB (pc).
MACHINES = {
    "5.10": Spec("owners-5-10", 256),
    "6.1": Spec("owners-6-1", 256),
    "6.12": Spec("owners-6-12", 256),
    "6.12 on two processors": Spec("owners-smp", 256, vcpus=2),
    "6.1 in little memory": Spec("owners-little", 112),
    "6.1 with page tables of five levels": Spec("owners-la57", 256, numa=FIVE_LEVELS),
    "6.12 in 4 GiB": Spec("owners-4g", 4096),
    "6.1 in 5 GiB of another machine": Spec("owners-5g", 5120, machine="pc"),
    "5.10 in a small one": Spec("owners-pc", 256, machine="pc"),
}


@pytest.mark.parametrize("which", MACHINES)
def test_page_owners_match_the_idle_guest(
    which: str, samepaged: Samepaged, connection: Any, root: Path, tmp_path: Path
) -> None:
    series = which.partition(" ")[0]
    spec = replace(MACHINES[which], kernel=kernel(series), image=memory_image.image("idle", IDLE))
    with initramfs(connection, root, spec) as (guest,):
        found = compared(samepaged, guest, (spec.machine, spec.memory << 20), tmp_path)
    print(which, found)
    assert found.wrong == 0, str(found)
    assert found.rows > 8000
    # The guest's kernel may merge small pages into huge pages at any time.
    assert found.explained < found.rows / 10, str(found)


@pytest.mark.parametrize("series", SUITES)
def test_page_owners_match_the_busy_guest(
    series: str, samepaged: Samepaged, connection: Any, root: Path, tmp_path: Path
) -> None:
    image = memory_image.image("busy", BUSY)
    spec = Spec(f"owners-busy-{series}", 256, kernel=kernel(series), image=image)
    with initramfs(connection, root, spec) as (guest,):
        for number in range(3):
            directory = tmp_path / str(number)
            directory.mkdir()
            found = compared(samepaged, guest, ("q35", 256 << 20), directory, BUSY_ONES)
            print(series, found)
            assert found.wrong == 0, str(found)
            assert found.rows > 8000
            assert found.explained < found.rows / 4, str(found)


def test_guest_without_linux_has_no_owners(samepaged: Samepaged, connection: Any, root: Path, tmp_path: Path) -> None:
    xml = Spec("owners-none", 256).xml(root / "none.serial")
    domain = connection.createXML(re.sub(r"<(kernel|initrd|cmdline)>.*?</\1>", "", xml))
    try:
        found, _ = owners(samepaged.config, tmp_path, "owners-none")["owners-none"]
    finally:
        domain.destroy()
    assert found.kernel is None
    assert found.note is not None
    assert set(found.kinds.tolist()) == {0}
    assert found.names == found.processes == ()
