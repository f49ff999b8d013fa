"""Lists of page hashes that other tools made: one a page, as text or in binary, of 32 or 64 bits.

Their hashes are not ours, nor those of another tool. Each gets one place in our hash space, spread over it, so that a
sample by hash (`threshold`) is one of them, too, whatever the tool's function left unused.
"""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.errors import TraceError
from samepaged.sharing.digest import FIRST_HASH, ZERO, PageDigest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HEAD_BYTES", "HashList", "list_format", "listed_hash", "read_binary", "read_text", "to_digest"]

# How much of a file's beginning is looked at.
HEAD_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 4096
# Fewer printable octets than these before a line's end happen by chance in binary hashes.
MIN_HEADER_BYTES: Final = 16
TEXT: Final = re.compile(rb"[\t\n\r\f\x20-\x7e]*")
HEX: Final = re.compile(rb"(?:0[xX])?[0-9A-Fa-f]{1,16}")
DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}")
COMMENT: Final = b"#"
# The digits of hexadecimal hashes with their zeros; decimal ones would not be all of one length.
WIDTHS: Final = ({8}, {16})
# Multiplying by an odd number permutes the 64-bit numbers; this one, 2**64 divided by the golden ratio, spreads those
# that are near each other (Knuth, TAOCP 3, 6.4). What is added keeps all of 32 bits off the reserved values.
FACTOR: Final = 0x9E3779B97F4A7C15
OFFSET: Final = 0xD1B54A32D192ED03
ALL: Final = 2**64 - 1
ALIGNMENT_SAMPLE_HASHES: Final = 1 << 18
# What a trace can count: its `pages` are int32.
MAX_PAGES: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class HashList:
    """The hashes as they stand in the file (uint64, in its order), of `bits` bits. `header_bytes` is what was not taken
    for hashes at its beginning: so many lines of a text, or bytes of a binary file. `base` is that of a text's numbers.
    """

    hashes: NDArray[np.uint64] = field(repr=False)
    bits: int
    header_bytes: int
    base: int | None = None


def list_format(head: bytes) -> str | None:
    """What a file may be that begins with `head`, its first HEAD bytes: "hashes-text", "hashes-binary" behind a header
    of text, or None. A binary list without a header looks like anything.
    """
    found = TEXT.match(head)
    if found is not None and found.end() == len(head):
        lines = (line.strip() for line in head.splitlines())
        return "hashes-text" if any(HEX.fullmatch(line) or DECIMAL.fullmatch(line) for line in lines) else None
    return "hashes-binary" if _header(head) else None


def read_text(path: Path, bits: int | None = None) -> HashList:
    """A hash a line, hexadecimal or decimal. Empty lines do not count, nor those that begin with #, nor what is before
    the first hash. `bits` None: 32 where all hashes are so small. Raises TraceError, with the number of the line.

    The numbers are hexadecimal where one has a letter of those, or all have 8, or all 16 digits. Decimal ones may be
    negative, as C prints them.
    """
    numbering = _Numbering()
    for number, line in _lines(path):
        numbering.add(path, number, line)
    values, base = array("Q"), numbering.base
    lowest = highest = 0
    for number, line in _lines(path):
        if number > numbering.header:
            value = _value(path, number, line, base)
            lowest, highest = min(lowest, value), max(highest, value)
            values.append(value & ALL)
    if not values:
        raise TraceError(path, "has no hashes", "write one hash per line, hexadecimal or decimal")
    fits = [width for width in (32, 64) if _fits(lowest, highest, width) and numbering.digits <= width // 4]
    if bits is None and fits:
        bits = fits[0]
    if bits is None or not _fits(lowest, highest, bits):
        raise TraceError(path, f"has hashes that do not fit {bits or 64} bits", "set --bits to their width, 32 or 64")
    return HashList(np.frombuffer(values, dtype=np.uint64) & np.uint64(ALL >> 64 - bits), bits, numbering.header, base)


class _Numbering:
    """What all lines together say of how numbers are written in them."""

    def __init__(self) -> None:
        self.header = 0
        self._lengths: set[int] = set()
        self._letters = False
        self._hashes = False

    def add(self, path: Path, number: int, line: bytes) -> None:
        if HEX.fullmatch(line):
            digits = line[2:] if line[:2].lower() == b"0x" else line
            self._letters = self._letters or not line.isdigit()
            self._lengths.add(len(digits))
        elif not DECIMAL.fullmatch(line):
            if self._hashes:
                raise _not_a_hash(path, number)
            self.header = number
            return
        else:
            self._lengths.add(0)
        self._hashes = True

    @property
    def base(self) -> int:
        return 16 if self._letters or self._lengths in WIDTHS else 10

    @property
    def digits(self) -> int:
        """The most digits of a hexadecimal number, which say how many bits a hash has where small ones begin with 0."""
        return max(self._lengths, default=0) if self.base == 16 else 0  # noqa: PLR2004


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that say something, with their numbers."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    raise TraceError(path, f"has an overlong line {number}", "write one hash per line")
                line = line.strip()
                if line and not line.startswith(COMMENT):
                    yield number, line
    except OSError as error:
        raise TraceError(path, f"cannot be read ({error.strerror})", "copy it again from an intact source") from error


def _value(path: Path, number: int, line: bytes, base: int) -> int:
    if (HEX if base == 16 else DECIMAL).fullmatch(line) is None:  # noqa: PLR2004
        raise _not_a_hash(path, number)
    return int(line, base)


def _not_a_hash(path: Path, number: int) -> TraceError:
    return TraceError(path, f"has no hash in line {number}", "write one hash per line; # begins a comment")


def _fits(lowest: int, highest: int, bits: int) -> bool:
    return -1 << bits - 1 <= lowest and highest < 1 << (bits - 1 if lowest < 0 else bits)


def read_binary(
    path: Path, bits: int = 32, *, big_endian: bool = False, skip: int | None = None, count: int | None = None
) -> HashList:
    """Hashes of `bits` bits one after the other. They begin behind `skip` bytes (None: behind a header of text, if
    there is one), and are `count` (None: up to the end). Raises TraceError.
    """
    width = bits // 8
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
            start = _header(head) if skip is None else skip
            rest = size - start
            if count is None and rest % width:
                raise TraceError(
                    path,
                    f"has {rest} bytes from byte {start} on, not a multiple of {bits}-bit hashes",
                    "set their offset and number: --skip BYTES, --count N",
                )
            wanted = rest // width if count is None else count
            if wanted > MAX_PAGES:
                raise TraceError(
                    path, f"has {wanted} hashes, more than a trace can hold", "check that the file is a list of hashes"
                )
            if not 0 < wanted * width <= rest:
                raise TraceError(
                    path, f"has fewer than {max(wanted, 1)} hashes after byte {start}", "correct --skip, --count"
                )
            file.seek(start)
            found = np.fromfile(file, dtype=f"{'>' if big_endian else '<'}u{width}", count=wanted)
    except (OSError, OverflowError) as error:
        raise TraceError(
            path, f"cannot be read ({error})", "correct --skip, or copy it again from an intact source"
        ) from error
    if len(found) < wanted:
        raise TraceError(path, "was truncated during reading", "copy it again from an intact source")
    if start and skip is None:
        _check_alignment(path, found, start, width)
    return HashList(found.astype(np.uint64), bits, start)


def _header(head: bytes) -> int:
    """The length of the lines of text that `head` begins with, if something else follows; else 0."""
    found = TEXT.match(head)
    if found is None or found.end() == len(head):
        return 0
    length = head.rfind(b"\n", 0, found.end()) + 1
    return length if length >= MIN_HEADER_BYTES else 0


def _check_alignment(path: Path, found: NDArray[np.generic], start: int, width: int) -> None:
    """Refuse hashes that repeat more when they are read from some bytes later on: then they begin there, and the header
    did not end where its last line did.
    """
    octets = found[:ALIGNMENT_SAMPLE_HASHES].tobytes()
    whole = len(octets) - width

    def repeats(shift: int) -> int:
        values = np.sort(np.frombuffer(octets[shift : shift + whole], dtype=f"u{width}"))
        return int(np.count_nonzero(values[1:] == values[:-1]))

    shift = max(range(width), key=repeats)
    if repeats(shift) > repeats(0):
        raise TraceError(
            path,
            f"has hashes that seem to begin at byte {start + shift}, not at {start} after the text",
            f"set --skip {start + shift} or --skip {start}",
        )


def to_digest(hash_list: HashList, page_size: int, zero_hash: int | None = None) -> PageDigest:
    """The list's pages, in its order; those with `zero_hash` are zero. Without it, zero pages cannot be told: they
    count as copies of one content.
    """
    pages = hash_list.hashes * np.uint64(FACTOR) + np.uint64(OFFSET)
    pages[pages < FIRST_HASH] += np.uint64(FIRST_HASH)
    if zero_hash is not None:
        pages[hash_list.hashes == np.uint64(zero_hash)] = ZERO
    return PageDigest(pages, page_size)


def listed_hash(hash_: int) -> int:
    """The hash in the list of which `to_digest` made this one."""
    return (hash_ - OFFSET) * pow(FACTOR, -1, 2**64) % 2**64
