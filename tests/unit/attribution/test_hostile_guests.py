"""Hostile guest memory: the analysis must terminate, and only the attribution of that guest may suffer."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.page_owners import KIND, KINDS, PageOwners
from tests.unit.attribution.inhabited import ARRAY, ARRAY_PAGE, DIRECT, OBJECTS, PAGES, TEXT_PAGE, Inhabited

if TYPE_CHECKING:
    from samepaged.attribution.linux.kernel import Kernel

CODE, PLAIN = 0x400000, 0x600000
POINTERS = st.integers(OBJECTS * PAGE_SIZE // 8, (OBJECTS + 4) * PAGE_SIZE // 8).map(lambda word: DIRECT + 8 * word)
VALUES = st.one_of(
    POINTERS,
    st.sampled_from(
        [0, 1, (1 << 64) - 1, 1 << 63, DIRECT, ARRAY, ARRAY + 1, DIRECT + PAGES * PAGE_SIZE - 8, 0x8000, PAGE_SIZE]
    ),
    st.integers(0, (1 << 64) - 1),
)


def peopled(*, new: bool) -> Inhabited:
    return copy.deepcopy(_peopled(new=new))


@cache
def _peopled(*, new: bool) -> Inhabited:
    guest = Inhabited(new=new)
    program, mapping = guest.file("usr", "bin", "program")
    guest.frame(400, mapping=mapping)
    guest.frame(401, mapping=DIRECT | 1)
    for name in ("first", "second", "third"):
        guest.process(
            name,
            [(CODE, CODE + 2 * PAGE_SIZE, 5, program, 0), (PLAIN, PLAIN + PAGE_SIZE, 3, 0, 0)],
            {CODE: 400, PLAIN: 401},
        )
    guest.at_hand(600, 601, 602)
    return guest


def check(owned: PageOwners) -> None:
    """Check that these are well-formed PageOwners."""
    assert all(len(column) == PAGES for column in (owned.kinds, owned.labels, owned.offsets, owned.modes))
    assert owned.kinds.max() < len(KINDS)
    assert -1 <= owned.labels.min() <= owned.labels.max() < len(owned.names)
    assert owned.offsets.min() >= -1
    pairs = owned.used_pages.astype(np.int64) * max(len(owned.processes), 1) + owned.used_by
    assert np.all(np.diff(pairs) > 0)
    if len(pairs):
        assert 0 <= owned.used_pages.min() <= owned.used_pages.max() < PAGES
        assert 0 <= owned.used_by.min() <= owned.used_by.max() < len(owned.processes)


def damaged_kernel(damage: list[tuple[int, int]], start: int, *, new: bool) -> Kernel:
    """Return the kernel of a guest with changed words, counted from the address `start`."""
    guest = peopled(new=new)
    for word, value in damage:
        guest.machine.word(start + 8 * word, value)
    return guest.kernel()


@pytest.mark.parametrize("new", [True, False])
@given(damage=st.lists(st.tuples(st.integers(0, PAGE_SIZE * 6 // 8 - 1), VALUES), min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_hostile_kernel_objects_end_in_page_owners(
    new: bool,  # noqa: FBT001
    damage: list[tuple[int, int]],
) -> None:
    check(label_pages(damaged_kernel(damage, OBJECTS * PAGE_SIZE, new=new)))


@pytest.mark.parametrize("new", [True, False])
@given(
    damage=st.lists(
        st.tuples(
            st.one_of(
                st.integers(ARRAY_PAGE * PAGE_SIZE // 8, (ARRAY_PAGE + 16) * PAGE_SIZE // 8 - 1),
                st.integers((TEXT_PAGE + 4) * PAGE_SIZE // 8, (TEXT_PAGE + 13) * PAGE_SIZE // 8 - 1),
                st.integers((PAGES - 16) * PAGE_SIZE // 8, PAGES * PAGE_SIZE // 8 - 1),
            ),
            VALUES,
        ),
        min_size=1,
        max_size=30,
    )
)
@example(damage=[])
@settings(deadline=None, max_examples=50)
def test_hostile_struct_pages_are_labelled_or_unreadable(
    new: bool,  # noqa: FBT001
    damage: list[tuple[int, int]],
) -> None:
    try:
        check(label_pages(damaged_kernel(damage, 0, new=new)))
    except Unreadable:
        assert damage


PROFILE = peopled(new=True).kernel().profile


@pytest.mark.parametrize("new", [True, False])
@given(
    sizes=st.dictionaries(st.sampled_from(sorted(PROFILE.sizes)), st.integers(0, 1 << 32), max_size=3),
    offsets=st.dictionaries(st.sampled_from(sorted(PROFILE.offsets)), st.integers(0, 1 << 32), max_size=3),
)
@example(sizes={}, offsets={})
@settings(deadline=None, max_examples=40)
def test_hostile_btf_is_labelled_or_unreadable(
    new: bool,  # noqa: FBT001
    sizes: dict[str, int],
    offsets: dict[str, int],
) -> None:
    guest = peopled(new=new)
    kernel = guest.kernel()
    object.__setattr__(kernel.profile, "sizes", kernel.profile.sizes | sizes)
    object.__setattr__(kernel.profile, "offsets", kernel.profile.offsets | offsets)
    try:
        check(label_pages(kernel))
    except Unreadable:
        assert sizes or offsets


def kinds_of_the_kernel(owned: PageOwners) -> set[str]:
    return {KINDS[kind] for kind in owned.kinds.tolist()} & {"kernel_text", "slab", "kernel_stack", "page_array"}


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("where", ["tasks", "threads", "areas", "free", "vmalloc", "mounts", "modules"])
def test_circular_structure_loses_only_its_pages(where: str, new: bool) -> None:  # noqa: FBT001
    guest = peopled(new=new)
    task = guest._tasks[1]
    mm = guest.get(task, "task_struct.mm")
    if where == "tasks":
        link = task + guest.offsets["task_struct.tasks"]
        guest.word(link, link)
    elif where == "threads":
        guest.set(task, "task_struct.mm", 0)
        node = task + guest.offsets["task_struct.thread_node"]
        guest.word(node, node)
    elif where == "areas" and new:
        root = guest.get(mm, "mm_struct.mm_mt.ma_root")
        node = root & ~0xFF
        for number in range(10):
            guest.word(node + guest.offsets["maple_arange_64.slot"] + 8 * number, node | 3 << 3)
        guest.set(mm, "mm_struct.mm_mt.ma_root", node | 3 << 3 | 2)
    elif where == "areas":
        node = guest.get(mm, "mm_struct.mm_rb.rb_node")
        guest.set(node, "rb_node.rb_left", node)
        guest.set(node, "rb_node.rb_right", node)
    elif where == "free":
        guest.frame(601, references=0, link=ARRAY + 601 * 64 + 8)
    elif where == "vmalloc":
        guest.set(guest.area, "rb_node.rb_left", guest.area)
    elif where == "mounts":
        head = guest.super + guest.offsets["super_block.s_mounts"]
        guest.word(head, guest.mount)
        guest.word(guest.mount, guest.mount)
    else:
        guest.word(guest.symbols["modules"], guest.symbols["modules"] + 8)
        guest.word(guest.symbols["modules"] + 8, guest.symbols["modules"] + 8)
    owned = label_pages(guest.kernel())
    check(owned)
    assert kinds_of_the_kernel(owned) == {"kernel_text", "slab", "kernel_stack", "page_array"}
    if where != "tasks":
        assert {"second", "third"} <= set(owned.processes)
        assert KINDS[owned.kinds[400]] == "executable"


@pytest.mark.parametrize("new", [True, False])
def test_overlapping_areas_are_resolved(new: bool) -> None:  # noqa: FBT001
    guest = peopled(new=new)
    guest.frame(402, mapping=DIRECT | 1)
    guest.process(
        "liar",
        [(PLAIN, PLAIN + 8 * PAGE_SIZE, 1, 0, 0), (PLAIN + PAGE_SIZE, PLAIN + 2 * PAGE_SIZE, 2, 0, 0)],
        {PLAIN: 402},
    )
    owned = label_pages(guest.kernel())
    check(owned)
    assert KINDS[owned.kinds[402]] == "anonymous"


def test_process_cannot_claim_foreign_areas() -> None:
    guest = peopled(new=True)
    honest, liar = (guest.get(task, "task_struct.mm") for task in guest._tasks[1:3])
    guest.set(liar, "mm_struct.mm_mt.ma_root", guest.get(honest, "mm_struct.mm_mt.ma_root"))
    owned = label_pages(guest.kernel())
    liar_number = owned.processes.index("second")
    of_liar = owned.used_pages[owned.used_by == liar_number]
    assert set(owned.kinds[of_liar].tolist()) == {KIND["page_table"]}
