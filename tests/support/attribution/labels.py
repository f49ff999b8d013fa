"""Comparison of a scan's page owners with the guest's own reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.attribution.ram_map import ram_maps
from tests.support.attribution.image import compare
from tests.support.attribution.scan import owners
from tests.support.attribution.truth import truth

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.attribution.guests import Teller
    from tests.support.attribution.image import Comparison
    from tests.support.command import Samepaged

__all__ = ["BUSY_ONES", "compared"]

# Processes that come and go in a busy guest (memory_image.BUSY).
BUSY_ONES = ("busy", "busy-even", "busy-odd")
# Limit of kernel pages that a busy guest allocates just before the pause, and that are therefore not copied.
NEW = 32


def compared(
    samepaged: Samepaged,
    guest: Teller,
    machine: tuple[str, int],
    directory: Path,
    restless: tuple[str, ...] = (),
) -> Comparison:
    """Get the report of the guest (machine type, bytes of memory), scan it, and get the report again. Assert the
    properties of all guests: the kernel release, and that 97% of the pages in use are labelled.
    """
    layout = next(ram_maps(*machine))
    before = truth(guest.tell(), layout)
    found, _ = owners(samepaged.config, directory, guest.name)[guest.name]
    after = truth(guest.tell(), layout)
    assert found.note is None
    assert found.missing <= (NEW if restless else 0)
    assert found.kernel == before.release
    assert found.labelled_ratio >= 0.97
    return compare(found, before, after, restless)
