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

# Ascending places at which areas begin and end, in turns; none is at 1, since a last index of 0 would be none.
PLACES = st.lists(st.integers(2, 1 << 40), unique=True, max_size=120).map(sorted)


@given(places=PLACES, wide=st.integers(2, 15))
@settings(deadline=None, max_examples=40)
def test_a_maple_tree_gives_each_of_its_entries_once(places: list[int], wide: int) -> None:
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
def test_a_red_black_tree_gives_each_of_its_nodes_once(count: int) -> None:
    guest = Inhabited(new=False)
    nodes = [guest.make("rb_node") for _ in range(count)]
    root = guest.balanced(nodes)
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, owners = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 1 << 10)
    assert sorted(found.tolist()) == nodes
    assert not np.any(owners)


def test_a_tree_of_one_entry_is_that_entry() -> None:
    found, _ = maple_entries(Inhabited().kernel(), np.array([DIRECT + 64], dtype=np.uint64), 8)
    assert found.tolist() == [DIRECT + 64]


@pytest.mark.parametrize("back", ["itself", "its root"])
def test_a_red_black_tree_that_comes_back_to_itself_ends(back: str) -> None:
    guest = Inhabited(new=False)
    nodes = [guest.make("rb_node") for _ in range(9)]
    root = guest.balanced(nodes)
    guest.set(nodes[0], "rb_node.rb_left", nodes[0] if back == "itself" else root)
    guest.set(nodes[0], "rb_node.rb_right", 0x1234567)
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, _ = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 1 << 10)
    assert sorted(found.tolist()) == nodes


def test_a_maple_tree_of_a_node_that_has_itself_in_all_slots_ends() -> None:
    guest = Inhabited()
    address = guest.take(256, 256)
    for number in range(10):
        guest.word(address + guest.offsets["maple_arange_64.slot"] + 8 * number, address | 3 << 3 | 4)
        guest.word(address + guest.offsets["maple_arange_64.pivot"] + 8 * min(number, 8), number + 1)
    found, _ = maple_entries(guest.kernel(), np.array([address | 3 << 3 | 2], dtype=np.uint64), 1 << 10)
    assert not len(found)


def test_no_more_is_taken_from_a_tree_than_is_wanted() -> None:
    guest = Inhabited(new=False)
    root = guest.balanced([guest.make("rb_node") for _ in range(50)])
    places = guest.offsets["rb_node.rb_left"], guest.offsets["rb_node.rb_right"]
    found, _ = rb_nodes(guest.kernel(), np.array([root], dtype=np.uint64), *places, 10)
    assert len(found) == 10


@pytest.mark.parametrize("to", [0, 1, 2])
def test_a_list_ends_where_it_comes_back_to_any_of_its_entries(to: int) -> None:
    guest = Inhabited()
    entries = [guest.take(16) for _ in range(4)]
    guest.list_head(entries[0], *entries[1:])
    guest.word(entries[3], entries[to])
    assert list_entries(guest.kernel(), entries[0], 100) == entries[1:]


def test_a_list_ends_where_it_leaves_memory() -> None:
    guest = Inhabited()
    first, second = guest.take(16), guest.take(16)
    guest.word(first, second)
    guest.word(second, 0xDEAD000000000100)
    assert list_entries(guest.kernel(), first, 100) == [second, 0xDEAD000000000100]


def test_an_xarray_gives_its_pointers_from_all_levels_and_nothing_else() -> None:
    guest = Inhabited()
    slots = guest.offsets["xa_node.slots"]
    top, below = guest.take(128), guest.take(128)
    # A node's number of slots is 8 here; besides pointers there are numbers, retry entries and siblings.
    for number, entry in enumerate((below | 2, DIRECT + 64, 15, 1026, 6)):
        guest.word(top + slots + 8 * number, entry)
    guest.word(below + slots + 8 * 7, DIRECT + 128)
    found = xarray_entries(guest.kernel(), np.array([top | 2, 0, DIRECT + 256], dtype=np.uint64), 100)
    assert found.tolist() == [DIRECT + 64, DIRECT + 128, DIRECT + 256]


def test_an_xarray_of_a_node_that_has_itself_in_all_slots_ends() -> None:
    guest = Inhabited()
    node = guest.take(128)
    for number in range(8):
        guest.word(node + guest.offsets["xa_node.slots"] + 8 * number, node | 2)
    assert not len(xarray_entries(guest.kernel(), np.array([node | 2], dtype=np.uint64), 100))
