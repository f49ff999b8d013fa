"""A scan's word on whose a guest's pages are, against the guest's own."""

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

# The processes that come and go in a guest that is busy (owners_image.BUSY).
BUSY_ONES = ("busy", "busy-even", "busy-odd")
# Pages that the kernel of a busy guest needs at the pause and did not have just before.
NEW = 32


def compared(
    samepaged: Samepaged,
    guest: Teller,
    machine: tuple[str, int],
    directory: Path,
    restless: tuple[str, ...] = (),
) -> Comparison:
    """Ask the guest (of this type of machine, with so many bytes of memory), scan it, and ask it again. What goes for
    every guest is asserted: which kernel it has, and that 97% of the pages that are not free are labelled.
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
