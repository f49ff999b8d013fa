from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.attribution.guest_ram import GuestRam
from samepaged.attribution.linux.mem_map import find_mem_map
from samepaged.attribution.linux.struct_page import StructPages, slab_and_table_pages
from tests.unit.attribution.inhabited import ARRAY, ARRAY_PAGE, OBJECTS, PAGES, Inhabited

if TYPE_CHECKING:
    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.profile import Profile

BUDDY = "PAGE_BUDDY_MAPCOUNT_VALUE"
TAIL = 1


def with_numbers(kernel: Kernel, numbers: dict[str, int], **offsets: int) -> Kernel:
    """Return the kernel with other numbers in its note, further fields, and the layout since 5.11."""
    known = {name: offset for name, offset in kernel.profile.offsets.items() if name != "page.mem_cgroup"}
    profile: Profile = replace(kernel.profile, offsets=known | offsets)
    return replace(kernel, info=replace(kernel.info, numbers=numbers), profile=profile)


@pytest.mark.parametrize(
    ("buddy", "free", "table", "neither"),
    [
        pytest.param(-(16 << 24), 0xF0000000, 0xF2000000, 0xF4000000, id="from 6.12"),
        pytest.param(-1073741825, 0xBFFFFFFF, 0xEFFFFFFF, 0xDFFFFFFF, id="6.11"),
        pytest.param(-129, 0xFFFFFF7F, 0xFFFFFDFF, 0xFFFFFEFF, id="from 5.11"),
    ],
)
def test_page_types_of_every_kernel(buddy: int, free: int, table: int, neither: int) -> None:
    guest = Inhabited(new=False)
    for page, kind in ((400, free), (401, table), (402, neither), (403, 0xFFFFFFFF), (404, 3)):
        guest.frame(page, kind=kind)
    frames = StructPages.read(with_numbers(guest.kernel(), {BUDDY: buddy, "PG_slab": 9}))
    assert np.flatnonzero(frames.free).tolist() == [400]
    assert np.flatnonzero(frames.table).tolist() == [401]


def test_old_kmemcg_pages_are_not_tables() -> None:
    guest = Inhabited(new=False)
    guest.frame(400, kind=0xFFFFFDFF)
    guest.frame(401, kind=0xFFFFFBFF)
    assert np.flatnonzero(StructPages.read(guest.kernel()).table).tolist() == [401]


@pytest.mark.parametrize("masks", [False, True])
def test_compound_heads_by_pointer_or_mask(masks: bool) -> None:  # noqa: FBT001
    guest = Inhabited()
    for page in range(401, 408):
        guest.frame(page, head=(-64 * 8 % (1 << 64) if masks else ARRAY + 400 * 64) + TAIL)
    kernel = guest.kernel()
    if masks:
        further = {"page.compound_info": 8, "zone.vmemmap_tails": 0}
        kernel = with_numbers(kernel, kernel.info.numbers, **further)
    frames = StructPages.read(kernel)
    assert frames.head[400:410].tolist() == [400] * 8 + [408, 409]


def test_impossible_compound_head_is_ignored() -> None:
    guest = Inhabited()
    for page, head in ((400, 1), (401, 0xFFFFFFFFFFFFFFFF), (402, ARRAY + 63), (403, ARRAY + PAGES * 64 + 1)):
        guest.frame(page, head=head)
    assert StructPages.read(guest.kernel()).head[400:404].tolist() == [400, 401, 402, 403]


@pytest.mark.parametrize("new", [True, False])
def test_slab_and_table_pages_are_selected(new: bool) -> None:  # noqa: FBT001
    guest = Inhabited(new=new)
    guest.slab(400)
    guest.frame(401, head=ARRAY + 400 * 64 + TAIL)
    guest.frame(500, kind=0xF2000000 if new else 0xFFFFFBFF)
    guest.free(600, 0)
    kernel = guest.kernel()
    array = find_mem_map(kernel).pages
    assert array.tolist() == list(range(ARRAY_PAGE, ARRAY_PAGE + PAGES * 64 // 4096))
    # And the page with the address of the array.
    where = kernel.ram.layout.page_of(kernel.translate(np.array([guest.symbols["vmemmap_base"]], dtype=np.uint64)))
    slots = np.full(PAGES, -1, dtype=np.int64)
    slots[array] = array
    slots[where] = where
    held = replace(kernel, ram=GuestRam(kernel.ram.words, kernel.ram.layout, slots))
    assert slab_and_table_pages(held).tolist() == [*range(OBJECTS, OBJECTS + 64), 400, 401, 500]
    assert not np.any(held.ram.missing)


def test_pages_without_struct_are_unknown() -> None:
    kernel = Inhabited().kernel()
    slots = np.arange(PAGES)
    slots[ARRAY_PAGE + 1] = -1
    frames = StructPages.read(replace(kernel, ram=GuestRam(kernel.ram.words, kernel.ram.layout, slots)))
    assert np.flatnonzero(~frames.readable).tolist() == list(range(64, 128))
    assert not np.any(frames.slab & ~frames.readable)
