from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.arch.x86_64 import PTE_NO_EXECUTE
from samepaged.attribution.linux.paging import LeavesByRoot, PageTableLeaves, walk, walk_many, walk_pieces
from tests.unit.attribution.builders import NO_RIGHTS, PRESENT, USER, WRITE, Machine

MASK = 0x000F_FFFF_FFFF_F000
MIB2, GIB = 2 << 20, 1 << 30


def signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address


def kernel(machine: Machine, root: int, levels: int = 4, mask: int = MASK) -> PageTableLeaves:
    return walk(machine.ram(), root, levels, upper=True, mask=mask)


def user(machine: Machine, root: int) -> PageTableLeaves:
    return walk(machine.ram(), root, 4, upper=False, mask=MASK)


@pytest.mark.parametrize(("levels", "lowest"), [(4, -(1 << 47)), (5, -(1 << 56))])
def test_leaves_ascend_by_address(levels: int, lowest: int) -> None:
    machine = Machine()
    root = machine.page()
    places = [
        (lowest, 0x5000, PAGE_SIZE),
        (-(1 << 40), GIB, GIB),
        (-(1 << 38) + MIB2, 8 * MIB2, MIB2),
        (-PAGE_SIZE, 0x7000, PAGE_SIZE),
    ]
    for virtual, physical, size in reversed(places):
        machine.map(root, virtual % (1 << 64), physical, size, levels=levels)
    mapped = kernel(machine, root, levels)
    assert list(zip(mapped.addresses, mapped.physical, mapped.pages * PAGE_SIZE, strict=True)) == places
    assert mapped.tables.tolist() == [machine.layout.address_of(page) for page in machine.taken]
    inside = np.array([lowest, lowest + 4095, -(1 << 40) + 0x12345678, -(1 << 38) + MIB2 + 5, -1])
    assert mapped.translate(inside).tolist() == [0x5000, 0x5FFF, GIB + 0x12345678, 8 * MIB2 + 5, 0x7FFF]
    outside = np.array([lowest - 1, lowest + 4096, -(1 << 38), -(1 << 40) + GIB, 0, 4096, 1 << 62, -(1 << 63)])
    assert mapped.translate(outside).tolist() == [-1] * len(outside)
    for address in (*inside.tolist(), *outside.tolist()):
        assert mapped.translate_one(address) == mapped.translate(np.array([address]))[0]


def test_kernel_and_user_halves_are_separate() -> None:
    machine = Machine()
    root = machine.page()
    machine.map(root, 0x400000, 0x1000, flags=PRESENT | USER)
    machine.map(root, 0xFFFF_8880_0000_0000, 0x2000)
    assert user(machine, root).addresses.tolist() == [0x400000]
    assert kernel(machine, root).addresses.tolist() == [signed(0xFFFF_8880_0000_0000)]
    assert len(user(machine, root).tables) == len(kernel(machine, root).tables) == 4


def test_entry_flags_and_encryption_bit() -> None:
    machine = Machine()
    root = machine.page()
    entry = 0x3000 | PRESENT | WRITE | PTE_NO_EXECUTE | 1 << 47
    machine.map(root, 0xFFFF_8880_0000_0000, 0x3000, flags=entry & ~0x3000)
    mapped = kernel(machine, root, mask=MASK & ~(1 << 47))
    assert (mapped.entries.tolist(), mapped.physical.tolist()) == ([entry], [0x3000])


def test_large_page_address_is_aligned() -> None:
    machine = Machine()
    root = machine.page()
    machine.map(root, 0xFFFF_8880_0000_0000, MIB2, MIB2, flags=PRESENT | 1 << 12)  # bit 12 is its memory type
    assert kernel(machine, root).physical.tolist() == [MIB2]


def test_inverted_prot_none_entry_is_mapped() -> None:
    machine = Machine()
    root = machine.page()
    machine.map(root, 0x400000, ~0x5000 & MASK, flags=NO_RIGHTS)
    machine.map(root, 0x401000, 0x6000, flags=0)  # such as a page that is swapped out
    assert user(machine, root).physical.tolist() == [0x5000]


def test_missing_tables_map_nothing() -> None:
    machine = Machine()
    root = machine.page()
    machine.word(root, 1 << 40 | PRESENT)
    machine.word(root + 8, 0x5000 | WRITE)
    assert len(user(machine, root).addresses) == 0
    assert user(machine, root).translate_one(0x400000) == -1
    assert len(walk(machine.ram(), -1, 4, upper=False, mask=MASK).tables) == 0
    assert len(walk(machine.ram(), 0x1008, 4, upper=False, mask=MASK).tables) == 0


def test_recursive_table_terminates() -> None:
    machine = Machine()
    root = machine.page()
    machine.put(root, (root | PRESENT | WRITE | USER).to_bytes(8, "little") * 512)
    mapped = user(machine, root)
    assert mapped.addresses.tolist() == [number << 12 for number in range(512)]
    assert mapped.tables.tolist() == [root]


def test_shared_tables_count_for_each_root() -> None:
    machine = Machine()
    one, other, none = machine.page(), machine.page(), machine.page()
    machine.map(one, 0x400000, 0x1000)
    machine.map(one, MIB2 * 3, MIB2, MIB2)
    machine.word(other, machine.word(one))  # the same tables
    machine.map(other, 1 << 40, 0x2000)
    found = walk_many(machine.ram(), np.array([other, -1, none, one]), 4, upper=False, mask=MASK)
    leaves = list(zip(found.roots.tolist(), found.addresses.tolist(), found.physical.tolist(), strict=True))
    shared = [(0x400000, 0x1000), (3 * MIB2, MIB2)]
    assert leaves == [*((0, *leaf) for leaf in shared), (0, 1 << 40, 0x2000), *((3, *leaf) for leaf in shared)]
    each = np.bincount(found.table_roots, minlength=4).tolist()
    assert each == [1 + 3 + 3, 0, 1, 1 + 3]
    assert found.complete


def shared_by(machine: Machine, processes: int) -> LeavesByRoot:
    """Walk that many roots with a common tree of tables that maps 512 pages."""
    pages, directory, pointers = machine.page(), machine.page(), machine.page()
    machine.put(pages, (0x5000 | PRESENT).to_bytes(8, "little") * 512)
    machine.word(directory, pages | PRESENT)
    machine.word(pointers, directory | PRESENT)
    roots = np.array([machine.page() for _ in range(processes)])
    for root in roots.tolist():
        machine.word(root, pointers | PRESENT)
    return walk_many(machine.ram(), roots, 4, upper=False, mask=MASK)


def test_leaves_are_bounded_by_ram() -> None:
    usual, tables, leaves = (shared_by(Machine(4096), processes) for processes in (20, 2000, 1000))
    assert (len(usual.addresses), usual.complete) == (20 * 512, True)
    assert not tables.complete
    assert len(tables.tables) <= 4096 + 2000
    assert not leaves.complete
    assert 100_000 < len(leaves.addresses) <= 1 << 18


places = st.tuples(st.integers(0, 2**35 - 1), st.integers(0, 2**35 - 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(places, max_size=20, unique_by=lambda place: place[0]), st.sampled_from([4, 5]))
def test_mapped_pages_are_found(pages: list[tuple[int, int]], levels: int) -> None:
    machine = Machine()
    root = machine.page()
    for virtual, physical in pages:
        machine.map(root, virtual << 12, physical << 12, levels=levels)
    mapped = walk(machine.ram(), root, levels, upper=False, mask=MASK)
    assert list(zip(mapped.addresses >> 12, mapped.physical >> 12, strict=True)) == sorted(pages)
    inside = np.array([virtual << 12 | 0x123 for virtual, _ in pages], dtype=np.int64)
    assert mapped.translate(inside).tolist() == [physical << 12 | 0x123 for _, physical in pages]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4, 5]), st.sampled_from(["upper", "lower"]))
def test_arbitrary_tables_stay_within_bounds(seed: int, levels: int, half: str) -> None:
    draw = np.random.default_rng(seed).integers
    words = draw(64, size=64 * 512) << 12 | draw(1 << 12, size=64 * 512) | draw(2, size=64 * 512) << 40
    machine = Machine(64)
    machine.put(0, words.tobytes())
    roots = np.array([0, 0x3000, 0x3000])
    pieces = list(walk_pieces(machine.ram(), roots, levels, upper=half == "upper", mask=MASK))
    assert 3 <= sum(len(piece.tables) for piece in pieces) <= 64 + 3
    for piece in pieces:
        assert ((piece.addresses < 0) == (half == "upper")).all()
        assert ((piece.physical >= 0) & (piece.physical < 1 << 52)).all()
