from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.attribution.ram_map import RamMap, RamRegion, ram_maps

MIB, GIB = 1 << 20, 1 << 30


def first(machine: str | None, memory: int) -> list[tuple[int, int]]:
    return [(region.start, region.size) for region in next(ram_maps(machine, memory)).regions]


@pytest.mark.parametrize("machine", ["q35", "pc-q35-7.2", None])
def test_q35_split_at_2_gib(machine: str | None) -> None:
    assert first(machine, 2815 * MIB) == [(0, 2815 * MIB)]
    assert first(machine, 2816 * MIB) == [(0, 2 * GIB), (4 * GIB, 768 * MIB)]


def test_i440fx_split_at_3_gib() -> None:
    assert first("pc-i440fx-7.2", 3583 * MIB) == [(0, 3583 * MIB)]
    assert first("pc-i440fx-7.2", 5 * GIB) == [(0, 3 * GIB), (4 * GIB, 2 * GIB)]


def test_fallback_layouts_are_distinct() -> None:
    assert len(list(ram_maps("q35", GIB))) == 1
    offered = list(ram_maps("q35", 8 * GIB))
    assert len({layout.regions for layout in offered}) == len(offered) == 3
    assert {layout.pages for layout in offered} == {8 * GIB // 4096}


def test_dimm_pages_come_last() -> None:
    layout = next(ram_maps("q35", GIB, [RamRegion(8 * GIB, 4 * MIB)]))
    assert layout.page_of(np.array([8 * GIB + 4096])).tolist() == [GIB // 4096 + 1]


def test_addresses_outside_ram_have_no_page() -> None:
    layout = next(ram_maps("q35", 4 * GIB))
    assert layout.page_of(np.array([-1, 2 * GIB, 4 * GIB - 1, 6 * GIB, 1 << 62])).tolist() == [-1] * 5
    assert layout.address_of(-1) == layout.address_of(layout.pages) == -1


def test_overlapping_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        RamMap((RamRegion(0, 8192), RamRegion(4096, 4096)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_addresses_pages_and_frames_round_trip(sizes: list[int], data: st.DataObject) -> None:
    starts, at = [], 0
    for size in sizes:
        at += data.draw(st.integers(0, 3))
        starts.append(at)
        at += size
    layout = RamMap(tuple(RamRegion(start * 4096, size * 4096) for start, size in zip(starts, sizes, strict=True)))
    addresses = np.array([layout.address_of(page) for page in range(layout.pages)])
    assert (addresses >> 12).tolist() == layout.frames().tolist()
    assert layout.page_of(addresses + 4095).tolist() == list(range(layout.pages))
