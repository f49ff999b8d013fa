"""Packed names of kallsyms: a length and that many bytes, each of them the number of a token (scripts/kallsyms.c)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

__all__ = ["MAX_SYMBOLS", "TOKENS", "PackedNames", "name_starts", "tokens"]

TOKENS: Final = 256
# A large kernel has 200,000 symbols, with names of at most 512 bytes (KSYM_NAME_LEN), in three million bytes.
MAX_SYMBOLS: Final = 1 << 19
MAX_NAME_CHARS: Final = 512
# Packed bytes to unpack at once, and limit of the result.
CHUNK_SYMBOLS: Final = 1 << 18
MAX_UNPACKED_CHARS: Final = 1 << 23
# Marks a length of two bytes, in the first one (since 6.1, commit 73bbb94466fd).
TWO_BYTES: Final = 0x80
END, NOTHING = TOKENS, TOKENS + 1


@dataclass(frozen=True, slots=True)
class PackedNames:
    """`raw`: the packed bytes. `starts` (int64, (n + 1,)): offset of each name's length, and the end of the last name.
    `tokens`: TOKENS strings.
    """

    raw: bytes
    starts: NDArray[np.int64]
    tokens: tuple[bytes, ...]

    def find(self, stems: Collection[str]) -> list[tuple[int, str]]:
        """Return number and name of every symbol with one of these names before its first dot: compilers add suffixes
        (`copy_process.isra.0`). Raises Unreadable for invalid names.
        """
        wanted = {stem.encode() for stem in stems}
        found = []
        number = 0
        for text in self._unpacked():
            for name in text:
                # The first character is the symbol's type.
                if name[1:].partition(b".")[0] in wanted:
                    found.append((number, name[1:].decode("ascii", "replace")))
                number += 1
        return found

    def _unpacked(self) -> Iterator[list[bytes]]:
        lengths = np.array([len(token) for token in self.tokens] + [1, 0], dtype=np.int64)
        texts = [*self.tokens, b"\0", b""]
        first = 0
        while first < len(self.starts) - 1:
            begin = int(self.starts[first])
            last = max(first + 1, int(np.searchsorted(self.starts, begin + CHUNK_SYMBOLS, side="right")) - 1)
            end = int(self.starts[last])
            codes = np.frombuffer(self.raw, dtype=np.uint8, count=end - begin, offset=begin).astype(np.uint16)
            heads = self.starts[first:last] - begin
            codes[heads[codes[heads] >= TWO_BYTES] + 1] = NOTHING
            codes[heads] = END
            if int(lengths[codes].sum()) > MAX_UNPACKED_CHARS:
                raise Unreadable("unpacked symbol names exceed the limit")
            yield b"".join(map(texts.__getitem__, codes.tolist())).split(b"\0")[1:]
            first = last


def name_starts(raw: bytes, count: int) -> NDArray[np.int64]:
    """Return the start of each of `count` names, and the end of the last one. Raises Unreadable if they do not fit."""
    if not 0 < count <= MAX_SYMBOLS:
        raise Unreadable(f"invalid number of symbols: {count}")
    starts = array("q", bytes(8 * (count + 1)))
    at = 0
    try:
        for number in range(count):
            starts[number] = at
            length = raw[at]
            if length & TWO_BYTES:
                at += 1
                length = length & (TWO_BYTES - 1) | raw[at] << 7
                if length > MAX_NAME_CHARS:
                    raise Unreadable("symbol name too long")
            at += 1 + length
    except IndexError:
        raise Unreadable("truncated symbol names") from None
    if at > len(raw):
        raise Unreadable("truncated symbol names")
    starts[count] = at
    return np.frombuffer(starts, dtype=np.int64)


def tokens(table: bytes, index: NDArray[np.uint16]) -> tuple[bytes, ...]:
    """Return the strings at these offsets (TOKENS of them) of the token table. Raises Unreadable."""
    found = []
    for start in index.tolist():
        end = table.find(b"\0", start, start + MAX_NAME_CHARS)
        if end < 0:
            raise Unreadable("unterminated token of the symbol names")
        found.append(table[start:end])
    return tuple(found)
