from __future__ import annotations

import mmap
import os
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.errors import GuestError, Reason
from samepaged.memory import ram_location
from samepaged.memory.ram_location import Vma, locate_ram

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
RAM = frozenset({"rd", "wr", "mr", "mw", "me", "dc", "ac", "dd", "hg", "mg"})
PLAIN = frozenset({"rd", "wr"})
TEXT = """\
55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
VmFlags: rd wr mr mw me ac
7fba68000000-7fbaa8000000 rwxp 00000000 00:00 0
Size:            1048576 kB
VmFlags: rd wr ex mr mw me dc ac
7fbca9e00000-7fbcafe00000 rw-p 00000000 00:00 0
Size:              98304 kB
THPeligible:           1
VmFlags: rd wr mr mw me dc ac dd hg mg
7fbcc0000000-7fbcc6000000 rw-s 00200000 00:01 1035                       /memfd:memory-backend-memfd (deleted)
VmFlags: rd wr sh mr mw me ms dc ac dd
"""


def vma(start: int, size: int, **more: object) -> Vma:
    fields: dict[str, object] = {"perms": "rw-p", "offset": 0, "device": (0, 0), "inode": 0, "path": "", "flags": RAM}
    return Vma(start=start, end=start + size, **{**fields, **more})  # type: ignore[arg-type]


def test_smaps_gives_addresses_files_and_flags() -> None:
    heap, code, ram, memfd = ram_location.parse_smaps(TEXT)
    assert heap.path == "[heap]"
    assert code.perms == "rwxp"
    assert (ram.start, ram.size) == (0x7FBCA9E00000, 96 * MIB)
    assert {"mg", "dd", "dc"} <= ram.flags
    assert memfd.shared
    assert (memfd.offset, memfd.device, memfd.inode) == (0x200000, (0, 1), 1035)
    assert memfd.path == "/memfd:memory-backend-memfd (deleted)"


def test_smaps_has_the_stack() -> None:
    assert any(one.path == "[stack]" for one in ram_location.read_smaps(os.getpid()))


def test_file_names_cannot_forge_mappings(tmp_path: Path) -> None:
    named = tmp_path / "a\r0-1000 rw-p 00000000 00:00 0\nb"
    named.write_bytes(bytes(mmap.PAGESIZE))
    with named.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        (mapping,) = [one for one in ram_location.read_smaps(os.getpid()) if one.path.startswith(str(tmp_path))]
    assert mapping.path == str(named).replace("\n", "\\012")


def test_smaps_of_ended_process() -> None:
    with pytest.raises(GuestError, match="has ended") as caught:
        ram_location.read_smaps(2**22 + 1)
    assert caught.value.reason is Reason.GONE


@given(st.text())
@example(TEXT)
def test_any_smaps_parses_or_raises(text: str) -> None:
    try:
        vmas = ram_location.parse_smaps(text)
    except GuestError as error:
        assert "\n" not in str(error)
        assert text != TEXT
    else:
        assert all(a.end <= b.start for a, b in pairwise(vmas))


@given(st.text(alphabet="0123456789abcdef-rwxps :/[]()\n", max_size=200))
@example("")
def test_smaps_like_text_parses_or_raises(text: str) -> None:
    try:
        ram_location.parse_smaps(text)
    except GuestError as error:
        assert error.reason is Reason.LAYOUT
        assert text


def test_ram_is_not_the_tcg_buffer() -> None:
    (ram,) = locate_ram(
        ram_location.parse_smaps(TEXT.replace("7fbca9e00000-7fbcafe00000", "7fbcb0000000-7fbcb0100000")), [96 * MIB]
    )
    assert ram.path.startswith("/memfd:")
    assert ram.shared


def test_split_mapping_is_one_block() -> None:
    parts = [vma(0, MIB), vma(MIB, 3 * MIB, flags=RAM | {"nh"}), vma(8 * MIB, MIB)]
    (ram,) = locate_ram(parts, [4 * MIB])
    assert (ram.start, ram.size) == (0, 4 * MIB)


def test_file_parts_need_contiguous_offsets() -> None:
    file = {"inode": 7, "device": (8, 1), "path": "/ram"}
    together = [vma(0, MIB, **file), vma(MIB, MIB, offset=MIB, **file)]
    assert locate_ram(together, [2 * MIB])[0].size == 2 * MIB
    apart = [vma(0, MIB, **file), vma(MIB, MIB, offset=5 * MIB, **file)]
    with pytest.raises(GuestError) as caught:
        locate_ram(apart, [2 * MIB])
    assert caught.value.reason is Reason.LAYOUT


def test_adjacent_mapping_does_not_hide_ram() -> None:
    (ram,) = locate_ram([vma(0, MIB, flags=frozenset()), vma(MIB, 64 * MIB)], [64 * MIB])
    assert ram.start == MIB


def test_dontfork_mapping_is_preferred() -> None:
    plain = vma(0, 64 * MIB, flags=PLAIN)
    assert locate_ram([plain, vma(100 * MIB, 64 * MIB)], [64 * MIB])[0].start == 100 * MIB


def test_ram_without_flags_is_found_by_size() -> None:
    unflagged = [vma(0, MIB, flags=frozenset()), vma(8 * MIB, 64 * MIB, flags=frozenset())]
    assert locate_ram(unflagged, [64 * MIB])[0].start == 8 * MIB


def test_ram_name_resolves_equal_sizes() -> None:
    named = vma(0, MIB, inode=7, path="/memfd:pc.ram (deleted)")
    assert locate_ram([named, vma(8 * MIB, MIB)], [MIB])[0].inode == 7


def test_partly_mergeable_ram_is_mergeable() -> None:
    parts = [vma(0, MIB, flags=RAM - {"mg"}), vma(MIB, MIB)]
    assert locate_ram(parts, [2 * MIB])[0].mergeable
    assert not locate_ram(parts[:1], [MIB])[0].mergeable


def test_first_equal_cell_has_higher_address() -> None:
    cells = locate_ram([vma(0, 64 * MIB), vma(100 * MIB, 64 * MIB)], [64 * MIB, 64 * MIB])
    assert [cell.start for cell in cells] == [100 * MIB, 0]


def test_blocks_keep_their_order() -> None:
    sizes = [64 * MIB, 96 * MIB, 64 * MIB]
    mappings = locate_ram([vma(0, 64 * MIB), vma(100 * MIB, 96 * MIB), vma(200 * MIB, 64 * MIB)], sizes)
    assert [mapping.size for mapping in mappings] == sizes


@pytest.mark.parametrize(
    ("vmas", "blocks", "words"),
    [
        ([], [64 * MIB], "0 mappings of 64.0 MiB"),
        ([vma(0, 64 * MIB)], [64 * MIB, 64 * MIB], "1 mappings of 64.0 MiB"),
        ([vma(0, 64 * MIB), vma(100 * MIB, 64 * MIB)], [64 * MIB], "look alike"),
        ([vma(0, 64 * MIB, perms="r--p")], [64 * MIB], "0 mappings"),
        ([vma(0, 64 * MIB, path="[heap]")], [64 * MIB], "0 mappings"),
        ([vma(0, 8 * MIB), vma(8 * MIB, 8 * MIB, flags=RAM | {"nh"})], [8 * MIB, 16 * MIB], "look alike"),
        ([vma(0, 8 * MIB), vma(8 * MIB, 8 * MIB, flags=frozenset())], [8 * MIB, 16 * MIB], "0 mappings of 16.0 MiB"),
        ([vma(0, MIB), vma(MIB, MIB)], [0], "0 mappings of 0 KiB"),
        ([vma(0, 8 * MIB, flags=frozenset()), vma(8 * MIB, MIB, flags=PLAIN)], [8 * MIB], "0 mappings of 8.00 MiB"),
    ],
)
def test_ambiguous_ram_has_a_remedy(vmas: list[Vma], blocks: list[int], words: str) -> None:
    with pytest.raises(GuestError, match=words) as caught:
        locate_ram(vmas, blocks)
    assert caught.value.reason is Reason.LAYOUT
    assert "--reader dump" in str(caught.value)


def test_fragmented_mapping_search_is_cheap() -> None:
    parts = [vma(index * 4096, 4096) for index in range(4000)]
    tracemalloc.start()
    with pytest.raises(GuestError, match="look alike"):
        locate_ram(parts, [2000 * 4096])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_located_blocks_match_and_are_disjoint(gaps: list[int], data: st.DataObject) -> None:
    at, vmas = 0, []
    for gap in gaps:
        size = data.draw(st.integers(1, 3)) * MIB
        vmas.append(vma(at, size, flags=data.draw(st.sampled_from([RAM, frozenset({"rd"})]))))
        at += size + gap % 2 * MIB
    blocks = data.draw(st.lists(st.integers(1, 4).map(lambda n: n * MIB), min_size=1, max_size=3))
    try:
        mappings = locate_ram(vmas, blocks)
    except GuestError:
        return
    assert [mapping.size for mapping in mappings] == blocks
    ordered = sorted(mappings, key=lambda mapping: mapping.start)
    assert all(a.start + a.size <= b.start for a, b in pairwise(ordered))
