"""Memory images in files: every page of RAM is counted once, in its state, and damaged files are refused."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.errors import TraceError
from samepaged.memory.hashing import Interrupted, PythonHasher, best_hasher
from samepaged.memory.images.image import hash_image, image_format, open_file, open_image
from samepaged.sharing import FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest
from tests.unit.memory.image_files import PAGE, Load, core, lime, page

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
GIB = 1 << 30
ZEROS = bytes(PAGE)
P, Q, R = (page(letter) for letter in "PQR")


def found(content: bytes, *, memory: int | None = None, sizes: tuple[int, ...] = ()) -> list[PageDigest]:
    """The digest of an image, and its digests in other page sizes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        path.write_bytes(content)
        return of_file(path, memory=memory, sizes=sizes)


def of_file(path: Path, *, memory: int | None = None, sizes: tuple[int, ...] = ()) -> list[PageDigest]:
    with open_file(path) as (descriptor, size):
        form = image_format(path, os.pread(descriptor, 64, 0)) or "raw"
        digests = hash_image(open_image(path, descriptor, size, form, memory), best_hasher(), 7, sizes)
    return [digests.digest, *digests.others]


def states(digest: PageDigest) -> str:
    """The pages as a string: Z for zero, ? for unknown, and letters for contents in the order of their appearance."""
    names: dict[int, str] = {ZERO: "Z", SWAPPED: "?"}
    contents = iter("abcdefghijklmnopqrstuvwxy")
    return "".join(
        names[value] if value in names else names.setdefault(value, next(contents)) for value in digest.pages.tolist()
    )


def refused(content: bytes, *, memory: int | None = None) -> str:
    with pytest.raises(TraceError) as caught:
        found(content, memory=memory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_raw_image_is_its_pages() -> None:
    assert states(found(P + ZEROS + P + Q)[0]) == "aZab"


def test_image_hashes_equal_scan_hashes() -> None:
    expected = np.empty(2, dtype=np.uint64)
    PythonHasher().hash_buffer(P + Q, expected, PAGE, 7)
    for content in (P + Q, lime((0, P + Q)), core(Load(0, P + Q))):
        assert found(content)[0].pages.tolist() == expected.tolist()


def test_file_hole_is_zeros(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(3 * MIB + PAGE)
        file.write(P)
        file.truncate(8 * MIB)
    pages = of_file(path)[0].pages
    assert (len(pages), int((pages == ZERO).sum())) == (2048, 2047)
    assert pages[3 * 256 + 1] >= FIRST_HASH


def test_unaligned_segment_hole_is_zeros(tmp_path: Path) -> None:
    whole = core(Load(0, P + bytes(4 * MIB) + Q))
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for at in range(0, len(whole), PAGE):
            part = whole[at : at + PAGE]
            if any(part):
                file.seek(at)
                file.write(part)
        file.truncate(len(whole))
    assert path.stat().st_blocks * 512 < len(whole)
    assert of_file(path)[0].pages.tolist() == found(whole)[0].pages.tolist()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("many", [False, True])
def test_core_segment_gap_is_not_memory(bits: int, order: str, many: bool) -> None:  # noqa: FBT001
    content = core(Load(0, P + ZEROS), Load(0x100000, Q + P), bits=bits, order=order, many=many)
    assert states(found(content)[0]) == "aZba"


def test_segments_are_ordered_by_address() -> None:
    assert found(core(Load(0x100000, Q), Load(0, P)))[0].pages.tolist() == found(P + Q)[0].pages.tolist()


def test_memory_beyond_file_size_is_absent() -> None:
    assert states(found(core(Load(0, P, lacking=2 * PAGE), Load(0x10000, Q)))[0]) == "a??b"


def test_lime_ranges_are_inclusive() -> None:
    assert states(found(lime((0x1000, P + ZEROS), (0x100000, P + Q)))[0]) == "aZab"


def test_partial_pages_are_omitted(tmp_path: Path) -> None:
    path = tmp_path / "lime"
    path.write_bytes(lime((0x800, bytes(0x800) + P + b"x" * 0xC00), (0x100000, Q)))
    with open_file(path) as (descriptor, size):
        one = open_image(path, descriptor, size, "lime")
        assert (one.pages, one.partial) == (2, 0x800 + 0xC00)
        assert states(hash_image(one, best_hasher(), 7).digest) == "ab"


def test_page_split_over_two_segments() -> None:
    whole = P[:1000] + Q[:3096] + P
    assert (
        found(core(Load(0, whole[:1000]), Load(1000, whole[1000:])))[0].pages.tolist() == found(whole)[0].pages.tolist()
    )


PC = (Load(0, P * 0xA0), Load(0xC0000, Q * 0x40))
DEVICES = (Load(0xFD000000, R * 16), Load(0xFFFC0000, R * 4))


def test_device_memory_of_pc_is_omitted() -> None:
    expected = "a" * 0xA0 + "?" * 0x20 + "b" * 0x40  # the display adapter hides a window of RAM
    assert states(found(core(*PC, *DEVICES, qemu=True))[0]) == expected
    assert states(found(core(*PC, *DEVICES, qemu=True), memory=MIB)[0]) == expected


def test_pc_ram_continues_at_4_gib() -> None:
    loads = (Load(0, P * 4), Load(0xFFFC0000, R), Load(4 * GIB, Q * 2), Load(4 * GIB + 2 * PAGE, P), Load(512 * GIB, R))
    assert states(found(core(*loads, qemu=True))[0]) == "aaaabba"
    assert states(found(core(*loads, qemu=True), memory=7 * PAGE)[0]) == "aaaabba"
    # device memory may be adjacent to RAM: the size of the domain distinguishes them
    assert states(found(core(*loads, qemu=True), memory=6 * PAGE)[0]) == "aaaabb"


def test_foreign_core_is_all_ram() -> None:
    assert len(found(core(Load(0, P), *DEVICES))[0].pages) == 21
    assert len(found(core(Load(GIB, P), Load(2 * GIB, P), qemu=True, machine=183))[0].pages) == 2


@pytest.mark.parametrize("content", [core(*PC, *DEVICES, qemu=True), core(Load(0, P)), P * 2, lime((0, P))])
def test_domain_size_must_match_image(content: bytes) -> None:
    assert "--memory" in refused(content, memory=16 * PAGE)


OVERLAP = {
    "in memory": core(Load(0, P + Q), Load(PAGE, R)),
    "in memory, by what is not in the file": core(Load(0, P, lacking=2 * PAGE), Load(PAGE, R)),
    "in LiME": lime((0, P + Q), (PAGE, R)),
}


@pytest.mark.parametrize("content", OVERLAP.values(), ids=OVERLAP)
def test_overlapping_memory_is_refused(content: bytes) -> None:
    assert "has overlapping memory ranges at address 0x1000" in refused(content)


def test_overlapping_file_ranges_are_refused() -> None:
    content = bytearray(core(Load(0, P), Load(0x10000, Q)))
    first, second = (64 + 56 * number + 8 for number in (1, 2))
    content[second : second + 8] = content[first : first + 8]
    assert "overlap in the file" in refused(bytes(content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * 4097, "not a multiple of the page size"),
        (core(Load(0, P))[:-1], "ends early"),
        (core(Load(0, P))[:70], "ends early, before its headers"),
        (core(Load(0, P), many=True)[:-1], "ends early, before its headers"),
        (core(), "does not contain a page"),
        (core(Load(0, P))[:16] + b"\x02" + core(Load(0, P))[17:], "not a core"),
        (core(Load(0, P, lacking=1 << 60)), "contains only 4096 of 1152921504606851072 bytes"),
        (core(Load(0, P, virtual=0x400000), Load(0, Q, virtual=0x600000)), "core of a process"),
        (core(Load(PAGE, P), qemu=True), "lacks memory at address 0"),
        (lime((0, P))[:-1], "ends early, after 4127 of 4128 bytes"),
        (lime((0, P)) + b"EMiL", "in the range header"),
        (lime((0, P)) + bytes(32), "does not have a range header at byte 4128"),
        (lime((0, P))[:4] + b"\x02" + lime((0, P))[5:], "version 2"),
        (lime((0, P))[:8] + b"\xff\xff" + lime((0, P))[10:], "before its start"),
        (lime((0, b"x" * 100)), "does not contain a page"),
    ],
)
def test_damaged_image_is_refused(content: bytes, words: str) -> None:
    assert words in refused(content)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"LibvirtQemudSave", "virsh dump --memory-only"),
        (b"QEVM\0\0\0\3", "virsh dump --memory-only"),
        (b"KDUMP   \6\0\0\0", "--format elf"),
        (b"makedumpfile\0\0\0\0", "--format elf"),
        (b"\x1f\x8b\x08\0", "gunzip"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"AVML\2\0\0\0", "avml-convert"),
        (b"LiME\0\0\0\1", "padded"),
    ],
)
def test_unsupported_format_has_a_remedy(head: bytes, words: str) -> None:
    assert words in refused(head + bytes(PAGE - len(head)))


def test_too_many_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 15 << 40)
    with pytest.raises(TraceError, match="do not fit into this machine's memory"):
        of_file(path)


def test_image_must_be_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        ("fifo", "regular"),
        ("", "regular"),
        ("none", "cannot be opened"),
        ("a\0b", "cannot be opened"),
    ):
        with pytest.raises(TraceError, match=words), open_file(tmp_path / path):
            pass


def test_image_read_stops_on_request(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(P)
    with open_file(path) as (descriptor, size), pytest.raises(Interrupted):
        hash_image(open_image(path, descriptor, size, "raw"), best_hasher(), 7, stop=lambda: True)


def test_image_truncated_during_read(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(P * 4)
    with open_file(path) as (descriptor, size):
        one = open_image(path, descriptor, size, "raw")

        def stop() -> bool:
            os.truncate(path, PAGE)
            return False

        with pytest.raises(TraceError, match="was truncated while it was read"):
            hash_image(one, best_hasher(), 7, stop=stop)


def counts(digest: PageDigest) -> tuple[int, int, int]:
    contents = Contents.of(digest)
    return contents.zero_pages, contents.distinct_pages, contents.duplicate_pages


def counted(memory: list[bytes], size: int) -> tuple[int, int, int]:
    """The expected counts, from the bytes of each run of memory."""
    pages = Counter(run[at : at + size] for run in memory for at in range(0, len(run) - size + 1, size))
    zeros = pages.pop(bytes(size), 0)
    return zeros, len(pages), pages.total() - len(pages)


parts = st.sampled_from([b"\0", b"a", b"b"]).map(lambda octet: octet * 1024)
runs = st.lists(
    st.lists(parts, min_size=4, max_size=48).map(lambda run: b"".join(run[: len(run) // 4 * 4])), min_size=1, max_size=4
)


@settings(max_examples=60)
@given(runs, st.sampled_from(["raw", "elf", "lime"]))
def test_other_page_sizes_are_counted(memory: list[bytes], form: str) -> None:
    if form == "raw":
        memory = memory[:1]
        content = memory[0]
    elif form == "elf":
        content = core(*(Load(number << 20, run) for number, run in enumerate(memory)))
    else:
        content = lime(*((number << 20, run) for number, run in enumerate(memory)))
    sizes = (4096, 1024, 2048, 8192, 16384)
    digests = found(content, sizes=sizes[1:])
    assert [digest.page_size for digest in digests] == list(sizes)
    assert [counts(digest) for digest in digests] == [counted(memory, size) for size in sizes]


def test_large_pages_are_aligned() -> None:
    _, larger = found(lime((0x1000, P + Q + Q + Q + Q)), sizes=(8192,))
    assert states(larger) == "aa"  # no larger page contains the P at 0x1000


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([core(Load(0, P), Load(0x10000, Q)), lime((0, P), (0x10000, Q)), core(*PC, qemu=True, bits=32)]),
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=6),
    st.integers(0, 5000),
)
@example(core(Load(0, P)), [], 0)
def test_damaged_image_parses_or_raises(content: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(content[: len(content) - cut])
    for at, octet in changes:
        if at < len(damaged):
            damaged[at] = octet
    assert _pages(lambda: found(bytes(damaged)), len(damaged)) > 0 or changes or cut


@settings(max_examples=200)
@given(st.sampled_from([b"\x7fELF\2\1\1", b"\x7fELF\1\2\1", b"EMiL\1\0\0\0", b""]), st.binary(max_size=300))
@example(b"", lime((0, P)))
def test_any_image_parses_or_raises(magic: bytes, content: bytes) -> None:
    assert _pages(lambda: found(magic + content), len(magic + content)) > 0 or content != lime((0, P))


def _pages(import_: Callable[[], list[PageDigest]], size: int) -> int:
    """Number of pages with content in an image of `size` bytes; 0 if it is refused."""
    try:
        (digest,) = import_()
    except TraceError as error:
        assert str(error).isprintable()
        return 0
    pages = int((digest.pages != SWAPPED).sum())
    assert pages * PAGE <= size
    return pages
