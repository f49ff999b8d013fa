from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.attribution.linux.mapletree import maple_entries
from samepaged.attribution.linux.rbtree import rb_nodes
from samepaged.attribution.linux.struct_reader import list_entries
from samepaged.attribution.linux.xarray import xarray_entries
from tests.unit.attribution.inhabited import DIRECT, Inhabited

# Ascending starts and ends of areas, alternating; none is at 1, because a last index of 0 is not valid.
PLACES = st.lists(st.integers(2, 1 << 40), unique=True, max_size=120).map(sorted)


@given(places=PLACES, wide=st.integers(2, 15))
@settings(deadline=None, max_examples=40)
def test_maple_tree_entries_are_distinct(places: list[int], wide: int) -> None:
    guest = Inhabited()
    starts, ends = places[::2][: len(places) // 2], places[1::2]
    entries = [(last, DIRECT + 8 * number) for number, last in enumerate(ends)]
    root = guest.maple(entries, starts, wide)
    found, owners = maple_entries(guest.kernel(), np.array([root, 0, root], dtype=np.uint64), 1 << 10)
    expected = sorted(entry for _, entry in entries)
    for owner in (0, 2):
        assert sorted(found[owners == owner].tolist()) == expected
    assert not np.any(owners == 1)


@given(count=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_red_black_tree_nodes_are_distinct(count: int) -> None:
    guest = Inhabited(new=False)
    nodes = [guest.make("rb_node") for _ in range(count)]
    root = guest.balanced(nodes)
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, owners = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 1 << 10)
    assert sorted(found.tolist()) == nodes
    assert not np.any(owners)


def test_tree_of_one_entry() -> None:
    found, _ = maple_entries(Inhabited().kernel(), np.array([DIRECT + 64], dtype=np.uint64), 8)
    assert found.tolist() == [DIRECT + 64]


@pytest.mark.parametrize("back", ["itself", "its root"])
def test_circular_red_black_tree_terminates(back: str) -> None:
    guest = Inhabited(new=False)
    nodes = [guest.make("rb_node") for _ in range(9)]
    root = guest.balanced(nodes)
    guest.set(nodes[0], "rb_node.rb_left", nodes[0] if back == "itself" else root)
    guest.set(nodes[0], "rb_node.rb_right", 0x1234567)
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, _ = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 1 << 10)
    assert sorted(found.tolist()) == nodes


def test_circular_maple_tree_terminates() -> None:
    guest = Inhabited()
    address = guest.take(256, 256)
    for number in range(10):
        guest.word(address + guest.offsets["maple_arange_64.slot"] + 8 * number, address | 3 << 3 | 4)
        guest.word(address + guest.offsets["maple_arange_64.pivot"] + 8 * min(number, 8), number + 1)
    found, _ = maple_entries(guest.kernel(), np.array([address | 3 << 3 | 2], dtype=np.uint64), 1 << 10)
    assert not len(found)


def test_tree_entries_are_bounded() -> None:
    guest = Inhabited(new=False)
    root = guest.balanced([guest.make("rb_node") for _ in range(50)])
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, _ = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 10)
    assert len(found) == 10


@pytest.mark.parametrize("to", [0, 1, 2])
def test_circular_list_terminates(to: int) -> None:
    guest = Inhabited()
    entries = [guest.take(16) for _ in range(4)]
    guest.list_head(entries[0], *entries[1:])
    guest.word(entries[3], entries[to])
    assert list_entries(guest.kernel(), entries[0], 100) == entries[1:]


def test_list_ends_outside_memory() -> None:
    guest = Inhabited()
    first, second = guest.take(16), guest.take(16)
    guest.word(first, second)
    guest.word(second, 0xDEAD000000000100)
    assert list_entries(guest.kernel(), first, 100) == [second, 0xDEAD000000000100]


def test_xarray_entries_of_all_levels() -> None:
    guest = Inhabited()
    slots = guest.offsets["xa_node.slots"]
    top, below = guest.take(128), guest.take(128)
    # A node has 8 slots here; besides pointers, they contain numbers, retry entries and siblings.
    for number, entry in enumerate((below | 2, DIRECT + 64, 15, 1026, 6)):
        guest.word(top + slots + 8 * number, entry)
    guest.word(below + slots + 8 * 7, DIRECT + 128)
    found = xarray_entries(guest.kernel(), np.array([top | 2, 0, DIRECT + 256], dtype=np.uint64), 100)
    assert found.tolist() == [DIRECT + 64, DIRECT + 128, DIRECT + 256]


def test_circular_xarray_terminates() -> None:
    guest = Inhabited()
    node = guest.take(128)
    for number in range(8):
        guest.word(node + guest.offsets["xa_node.slots"] + 8 * number, node | 2)
    assert not len(xarray_entries(guest.kernel(), np.array([node | 2], dtype=np.uint64), 100))
