"""Lists of page hashes of other tools: one per page, as text or binary, of 32 or 64 bits.

Hashes of different tools are not comparable. Each imported hash maps to one place in our hash space, spread over it, so
that sampling by hash (`sample_threshold`) works regardless of the tool's hash function.
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

# Bytes at the start of a file that format detection reads.
HEAD_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 4096
# Binary hashes have fewer printable octets than this before a line end by chance.
MIN_HEADER_BYTES: Final = 16
TEXT: Final = re.compile(rb"[\t\n\r\f\x20-\x7e]*")
HEX: Final = re.compile(rb"(?:0[xX])?[0-9A-Fa-f]{1,16}")
DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}")
COMMENT: Final = b"#"
# Digits of hexadecimal hashes with leading zeros; decimal hashes do not all have the same length.
WIDTHS: Final = ({8}, {16})
# Multiplication by an odd number permutes the 64-bit numbers. This one, 2**64 divided by the golden ratio, spreads
# neighbouring values (Knuth, TAOCP 3, 6.4). The summand keeps all 32-bit hashes off the reserved values.
FACTOR: Final = 0x9E3779B97F4A7C15
OFFSET: Final = 0xD1B54A32D192ED03
ALL: Final = 2**64 - 1
ALIGNMENT_SAMPLE_HASHES: Final = 1 << 18
# Limit of a trace's counts: `pages` are int32.
MAX_PAGES: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class HashList:
    """The hashes of the file (uint64, in its order), of `bits` bits.

    `header_bytes` is the length of the skipped header: lines of a text, or bytes of a binary file. `base` is the base
    of a text's numbers.
    """

    hashes: NDArray[np.uint64] = field(repr=False)
    bits: int
    header_bytes: int
    base: int | None = None


def list_format(head: bytes) -> str | None:
    """Detect the format of a file by `head`, its first HEAD bytes: "hashes-text", "hashes-binary" after a text header,
    or None. A binary list without a header cannot be detected.
    """
    found = TEXT.match(head)
    if found is not None and found.end() == len(head):
        lines = (line.strip() for line in head.splitlines())
        return "hashes-text" if any(HEX.fullmatch(line) or DECIMAL.fullmatch(line) for line in lines) else None
    return "hashes-binary" if _header(head) else None


def read_text(path: Path, bits: int | None = None) -> HashList:
    """Read one hash per line, hexadecimal or decimal. Raises TraceError with the number of the line.

    Empty lines, lines that begin with #, and lines before the first hash are ignored. With `bits` None, hashes have 32
    bits if all fit.

    The numbers are hexadecimal if one has a letter of those, or if all have 8, or all 16 digits. Decimal numbers may be
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
        raise TraceError(path, "contains no hashes", "write one hash per line, hexadecimal or decimal")
    fits = [width for width in (32, 64) if _fits(lowest, highest, width) and numbering.digits <= width // 4]
    if bits is None and fits:
        bits = fits[0]
    if bits is None or not _fits(lowest, highest, bits):
        raise TraceError(path, f"has hashes that do not fit {bits or 64} bits", "set --bits to their width, 32 or 64")
    return HashList(np.frombuffer(values, dtype=np.uint64) & np.uint64(ALL >> 64 - bits), bits, numbering.header, base)


class _Numbering:
    """Number format of a text, accumulated over all lines."""

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
        """Maximum number of hexadecimal digits, which gives the hash width if small hashes have leading zeros."""
        return max(self._lengths, default=0) if self.base == 16 else 0  # noqa: PLR2004


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with content, with their numbers."""
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
    return TraceError(path, f"contains no hash in line {number}", "write one hash per line; # begins a comment")


def _fits(lowest: int, highest: int, bits: int) -> bool:
    return -1 << bits - 1 <= lowest and highest < 1 << (bits - 1 if lowest < 0 else bits)


def read_binary(
    path: Path, bits: int = 32, *, big_endian: bool = False, skip: int | None = None, count: int | None = None
) -> HashList:
    """Read consecutive hashes of `bits` bits. Raises TraceError.

    They begin after `skip` bytes (None: after the text header, if there is one), and are `count` in number (None: up to
    the end).
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
                    path, f"has fewer hashes than {max(wanted, 1)} after byte {start}", "correct --skip, --count"
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
    """Return the length of the text lines at the start of `head` if other data follow; otherwise 0."""
    found = TEXT.match(head)
    if found is None or found.end() == len(head):
        return 0
    length = head.rfind(b"\n", 0, found.end()) + 1
    return length if length >= MIN_HEADER_BYTES else 0


def _check_alignment(path: Path, found: NDArray[np.generic], start: int, width: int) -> None:
    """Refuse hashes that repeat more when they are read some bytes later: then the hashes begin there, and the header
    did not end with its last line.
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
    """Return the list's pages in its order; pages with `zero_hash` are zero pages. Without `zero_hash`, zero pages
    cannot be identified and count as copies of one content.
    """
    pages = hash_list.hashes * np.uint64(FACTOR) + np.uint64(OFFSET)
    pages[pages < FIRST_HASH] += np.uint64(FIRST_HASH)
    if zero_hash is not None:
        pages[hash_list.hashes == np.uint64(zero_hash)] = ZERO
    return PageDigest(pages, page_size)


def listed_hash(hash_: int) -> int:
    """Return the original hash of a hash that `to_digest` converted."""
    return (hash_ - OFFSET) * pow(FACTOR, -1, 2**64) % 2**64
