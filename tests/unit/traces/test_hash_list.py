"""Lists of hashes: each line or word is a page, equal hashes are equal contents, and other text is not a hash."""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.errors import TraceError
from samepaged.sharing import FIRST_HASH, ZERO, Contents
from samepaged.traces import sample_threshold
from samepaged.traces.hash_list import HashList, list_format, listed_hash, read_binary, read_text, to_digest

HEADER = b"Darwin host 9.4.0\nPID COMMAND\n1 launchd\n10 kextd\n"


def text(content: bytes, bits: int | None = None) -> HashList:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_text(Path(file.name), bits)


def binary(content: bytes, bits: int = 32, **options: Any) -> HashList:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_binary(Path(file.name), bits, **options)


hashes = {bits: st.lists(st.integers(0, 2**bits - 1) | st.integers(0, 9), min_size=1, max_size=40) for bits in (32, 64)}


@pytest.mark.parametrize("bits", [32, 64])
@given(st.data())
def test_hexadecimal_lines_are_hashes(bits: int, data: st.DataObject) -> None:
    written = data.draw(hashes[bits])
    form = data.draw(st.sampled_from(["0x{:x}", "0X{:X}", f"{{:0{bits // 4}x}}", f"{{:0{bits // 4}X}}"]))
    end = data.draw(st.sampled_from(["\n", "\r\n", " \n", "\n\n", "\n# a comment\n"]))
    found = text(end.join(form.format(value) for value in written).encode(), bits)
    assert (found.hashes.tolist(), found.bits, found.base) == (written, bits, 16)


@given(st.lists(st.integers(2**40, 2**64 - 1) | st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_decimal_lines_are_hashes(written: list[int]) -> None:
    written.append(2**64 - 1)  # longer than a hexadecimal hash, and of a different length
    written.append(0)
    found = text("\n".join(map(str, written)).encode())
    assert (found.hashes.tolist(), found.bits, found.base) == (written, 64, 10)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40))
def test_negative_lines_are_hashes_as_c_prints_them(written: list[int]) -> None:
    found = text("\n".join(map(str, [-1, *written])).encode())
    assert found.hashes.tolist() == [value % 2**32 for value in [-1, *written]]


def test_one_letter_makes_all_lines_hexadecimal() -> None:
    assert text(b"10\n20\nff\n").hashes.tolist() == [16, 32, 255]
    assert text(b"10\n20\n").hashes.tolist() == [10, 20]
    assert text(b"00000010\n00000020\n").hashes.tolist() == [16, 32]


def test_text_before_first_hash_is_header() -> None:
    found = text(b"host kvm-1\n\n# pages\nhash,\nff\n10\n")
    assert (found.hashes.tolist(), found.header_bytes) == ([255, 16], 4)


@pytest.mark.parametrize(
    ("content", "bits", "words"),
    [
        (b"ff\n10\nxyz\n", None, "line 3"),
        (b"ff\n1 ff\n", None, "line 2"),
        (b"ff\n\x00\xff\n", None, "line 2"),
        (b"ff\n-1\n", None, "line 2"),
        (b"ff\n12345678901234567890\n", None, "line 2"),
        (b"100000000000000000000\n", None, "contains no hashes"),
        (b"99999999999999999999\n", None, "do not fit 64 bits"),
        (b"-1\n18446744073709551615\n", None, "do not fit 64 bits"),
        (b"0x1ffffffff\n", 32, "do not fit 32 bits"),
        (b"", None, "contains no hashes"),
        (b"a header\n", None, "contains no hashes"),
        (b"1" * 5000, None, "overlong line"),
    ],
)
def test_invalid_text_is_refused_with_line(content: bytes, bits: int | None, words: str) -> None:
    with pytest.raises(TraceError, match=words) as caught:
        text(content, bits)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("big_endian", [False, True])
@given(st.data())
def test_binary_words_are_hashes(bits: int, big_endian: bool, data: st.DataObject) -> None:  # noqa: FBT001
    written = data.draw(hashes[bits])
    packed = struct.pack(f"{'>' if big_endian else '<'}{len(written)}{'I' if bits == 32 else 'Q'}", *written)
    found = binary(b"skipped" + packed + b"rest", bits, big_endian=big_endian, skip=7, count=len(written))
    assert (found.hashes.tolist(), found.bits) == (written, bits)


def words(count: int = 200) -> list[int]:
    """Generate the words of pages with many repetitions; none begins like text."""
    random = Random(count)
    contents = [random.getrandbits(31) | 0x80000080 for _ in range(count // 2)]
    return [0x90909090, *contents, *random.sample(contents, count // 2)]


def test_hashes_after_text_header_are_found() -> None:
    written = words()
    found = binary(HEADER + struct.pack(f"<{len(written)}I", *written))
    assert (found.hashes.tolist(), found.header_bytes) == (written, len(HEADER))


def test_headerless_list_loses_no_hash() -> None:
    written = [int.from_bytes(b"ab\ncd"[at : at + 4], "little") for at in (0, 1)] + words()
    found = binary(struct.pack(f"<{len(written)}I", *written))
    assert (found.hashes.tolist(), found.header_bytes) == (written, 0)


def test_misaligned_hashes_are_refused() -> None:
    written = words()
    content = HEADER + b"\0\1" + struct.pack(f"<{len(written)}I", *written) + b"\0\0"
    with pytest.raises(TraceError, match=f"--skip {len(HEADER) + 2}"):
        binary(content)
    assert binary(content, skip=len(HEADER) + 2, count=len(written)).hashes.tolist() == written


@pytest.mark.parametrize(
    ("content", "options", "words_"),
    [
        (b"\xff" * 7, {}, "not a multiple of 32-bit hashes"),
        (b"\xff" * 12, {"bits": 64}, "not a multiple of 64-bit hashes"),
        (HEADER + b"\xff" * 9, {}, "--skip"),
        (b"\xff" * 8, {"count": 3}, "--count"),
        (b"\xff" * 8, {"count": 2**62}, "more than a trace can hold"),
        (b"\xff" * 8, {"skip": 8}, "--skip"),
        (b"\xff" * 8, {"skip": 2**63, "count": 1}, "--skip"),
        (b"", {}, "--skip"),
    ],
)
def test_non_list_is_refused_in_one_line(content: bytes, options: dict[str, Any], words_: str) -> None:
    with pytest.raises(TraceError, match=words_) as caught:
        binary(content, **options)
    assert str(caught.value).isprintable()


# A list in text, and four hashes of 32 bits.
ANCHOR = b"00000000000000ff"


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(alphabet="0123456789abcdefx-# \n", max_size=100).map(str.encode))
@example(ANCHOR)
def test_arbitrary_bytes_are_list_or_error(content: bytes) -> None:
    list_format(content)
    for read in (text, binary):
        try:
            found = read(content)
        except TraceError as error:
            assert str(error).isprintable()
            assert content != ANCHOR
        else:
            assert 0 < len(found.hashes) <= len(content)


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (b"0000ffff\n12345678\n", "hashes-text"),
        (b"# a list\n12345678901\n", "hashes-text"),
        (HEADER + b"\xff\xfe", "hashes-binary"),
        (b"P" * 8192, None),
        (b"P" * 4096 + bytes(4096), None),
        (b"a text\nof words\n", None),
        (b"\xff" * 100, None),
        (b"", None),
    ],
)
def test_list_format_by_first_bytes(head: bytes, form: str | None) -> None:
    assert list_format(head) == form


@pytest.mark.parametrize("bits", [32, 64])
@given(st.data())
def test_hash_mapping_is_injective(bits: int, data: st.DataObject) -> None:
    written = data.draw(hashes[bits])
    zero = data.draw(st.none() | st.sampled_from(written))
    pages = to_digest(HashList(np.array(written, dtype=np.uint64), bits, 0), 4096, zero).pages
    contents = Counter(written)
    zeros = 0 if zero is None else contents.pop(zero)
    found = Contents.of(to_digest(HashList(np.array(written, dtype=np.uint64), bits, 0), 4096, zero))
    assert (found.zero_pages, found.absent_pages, found.swapped_pages) == (zeros, 0, 0)
    assert (found.distinct_pages, found.duplicate_pages) == (len(contents), contents.total() - len(contents))
    assert [listed_hash(int(page)) for page in pages if page != ZERO] == [value for value in written if value != zero]


def test_hashes_of_32_bits_avoid_reserved_values() -> None:
    assert all(listed_hash(reserved) >= 2**32 for reserved in range(FIRST_HASH))


@pytest.mark.parametrize("taken", ["at random", "one after the other", "the upper half of them"])
def test_sample_of_an_imported_list(taken: str) -> None:
    values = {
        "at random": np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint64),
        "one after the other": np.arange(100_000, dtype=np.uint64),
        "the upper half of them": np.arange(100_000, dtype=np.uint64) << np.uint64(14),
    }[taken]
    signed = to_digest(HashList(values, 32, 0), 4096).pages.view(np.int64)
    for sample in (2, 16, 256):
        most = sample_threshold(sample)
        assert most is not None
        assert np.count_nonzero(signed < most) == pytest.approx(100_000 / sample, rel=0.2)
