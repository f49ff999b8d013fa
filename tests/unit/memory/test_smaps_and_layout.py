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


def test_smaps_of_a_running_process_has_its_stack() -> None:
    assert any(one.path == "[stack]" for one in ram_location.read_smaps(os.getpid()))


def test_the_name_of_a_mapped_file_cannot_look_like_a_mapping(tmp_path: Path) -> None:
    named = tmp_path / "a\r0-1000 rw-p 00000000 00:00 0\nb"
    named.write_bytes(bytes(mmap.PAGESIZE))
    with named.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        (mapping,) = [one for one in ram_location.read_smaps(os.getpid()) if one.path.startswith(str(tmp_path))]
    assert mapping.path == str(named).replace("\n", "\\012")


def test_smaps_of_no_process_says_that_it_ended() -> None:
    with pytest.raises(GuestError, match="has ended") as caught:
        ram_location.read_smaps(2**22 + 1)
    assert caught.value.reason is Reason.GONE


@given(st.text())
@example(TEXT)
def test_smaps_of_any_text_is_mappings_or_an_error_of_one_line(text: str) -> None:
    try:
        vmas = ram_location.parse_smaps(text)
    except GuestError as error:
        assert "\n" not in str(error)
        assert text != TEXT
    else:
        assert all(a.end <= b.start for a, b in pairwise(vmas))


@given(st.text(alphabet="0123456789abcdef-rwxps :/[]()\n", max_size=200))
@example("")
def test_smaps_of_text_that_looks_like_it(text: str) -> None:
    try:
        ram_location.parse_smaps(text)
    except GuestError as error:
        assert error.reason is Reason.LAYOUT
        assert text


def test_ram_is_the_mapping_of_its_size_and_not_the_translators_buffer() -> None:
    (ram,) = locate_ram(
        ram_location.parse_smaps(TEXT.replace("7fbca9e00000-7fbcafe00000", "7fbcb0000000-7fbcb0100000")), [96 * MIB]
    )
    assert ram.path.startswith("/memfd:")
    assert ram.shared


def test_a_mapping_that_the_kernel_split_is_one_block() -> None:
    parts = [vma(0, MIB), vma(MIB, 3 * MIB, flags=RAM | {"nh"}), vma(8 * MIB, MIB)]
    (ram,) = locate_ram(parts, [4 * MIB])
    assert (ram.start, ram.size) == (0, 4 * MIB)


def test_parts_of_a_file_belong_together_only_where_their_offsets_go_on() -> None:
    file = {"inode": 7, "device": (8, 1), "path": "/ram"}
    together = [vma(0, MIB, **file), vma(MIB, MIB, offset=MIB, **file)]
    assert locate_ram(together, [2 * MIB])[0].size == 2 * MIB
    apart = [vma(0, MIB, **file), vma(MIB, MIB, offset=5 * MIB, **file)]
    with pytest.raises(GuestError) as caught:
        locate_ram(apart, [2 * MIB])
    assert caught.value.reason is Reason.LAYOUT


def test_ram_that_touches_another_mapping_is_still_found() -> None:
    (ram,) = locate_ram([vma(0, MIB, flags=frozenset()), vma(MIB, 64 * MIB)], [64 * MIB])
    assert ram.start == MIB


def test_what_qemu_would_not_fork_is_ram_rather_than_what_it_would() -> None:
    plain = vma(0, 64 * MIB, flags=PLAIN)
    assert locate_ram([plain, vma(100 * MIB, 64 * MIB)], [64 * MIB])[0].start == 100 * MIB


def test_ram_is_found_by_its_size_alone_where_there_are_no_flags() -> None:
    unflagged = [vma(0, MIB, flags=frozenset()), vma(8 * MIB, 64 * MIB, flags=frozenset())]
    assert locate_ram(unflagged, [64 * MIB])[0].start == 8 * MIB


def test_blocks_of_one_size_of_which_one_has_the_name_of_ram_are_told_apart() -> None:
    named = vma(0, MIB, inode=7, path="/memfd:pc.ram (deleted)")
    assert locate_ram([named, vma(8 * MIB, MIB)], [MIB])[0].inode == 7


def test_ram_of_which_a_part_may_be_merged_is_mergeable() -> None:
    parts = [vma(0, MIB, flags=RAM - {"mg"}), vma(MIB, MIB)]
    assert locate_ram(parts, [2 * MIB])[0].mergeable
    assert not locate_ram(parts[:1], [MIB])[0].mergeable


def test_two_cells_of_one_size_are_both_found_the_first_at_the_higher_address() -> None:
    cells = locate_ram([vma(0, 64 * MIB), vma(100 * MIB, 64 * MIB)], [64 * MIB, 64 * MIB])
    assert [cell.start for cell in cells] == [100 * MIB, 0]


def test_blocks_keep_their_order_whatever_their_sizes() -> None:
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
def test_ram_that_cannot_be_told_is_refused_with_the_remedy(vmas: list[Vma], blocks: list[int], words: str) -> None:
    with pytest.raises(GuestError, match=words) as caught:
        locate_ram(vmas, blocks)
    assert caught.value.reason is Reason.LAYOUT
    assert "--reader dump" in str(caught.value)


def test_a_mapping_in_thousands_of_parts_takes_little_memory_to_search() -> None:
    parts = [vma(index * 4096, 4096) for index in range(4000)]
    tracemalloc.start()
    with pytest.raises(GuestError, match="look alike"):
        locate_ram(parts, [2000 * 4096])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_located_blocks_have_the_sizes_asked_for_and_do_not_overlap(gaps: list[int], data: st.DataObject) -> None:
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
