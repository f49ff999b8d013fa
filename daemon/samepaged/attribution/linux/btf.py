"""BTF, the kernel's type information (Documentation/bpf/btf.rst): offsets, sizes and enumerators by name."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["MAX_BTF_BYTES", "Btf"]

MAGIC: Final = 0xEB9F
HEADER: Final = struct.Struct("<HBBIIIII")
# A distribution's kernel has 4 to 8 MiB, a fifth of it strings.
MAX_BTF_BYTES: Final = 16 << 20
MAX_STRING_BYTES: Final = 4 << 20
# Chains of types that refer to another one (typedefs, const, arrays), and nested structs.
MAX_DEPTH: Final = 32
# Limit of members visited in all queries; a few hundred for each is usual, so more indicates forged BTF.
MAX_MEMBERS: Final = 1 << 18
MAX_TYPE_BYTES: Final = 1 << 32
# Types of one name to try: several source files of a kernel may define a struct of the same name.
MAX_SAME_NAME_TYPES: Final = 64
POINTER_BYTES: Final = 8

INT, POINTER, ARRAY, STRUCT, UNION, ENUM, _FORWARD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNCTION_PROTOTYPE, VARIABLE, SECTION, FLOAT, DECLARATION_TAG, TYPE_TAG, ENUM64 = range(13, 20)
LAST_KIND: Final = ENUM64
# 4-byte words after the first three of every type: for the type itself, and for each of its members.
FIXED_WORDS: Final = {INT: 1, ARRAY: 3, VARIABLE: 1, DECLARATION_TAG: 1}
MEMBER_WORDS: Final = {STRUCT: 3, UNION: 3, ENUM: 2, FUNCTION_PROTOTYPE: 2, SECTION: 3, ENUM64: 3}
ALIASES: Final = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})
AGGREGATES: Final = frozenset({STRUCT, UNION})
SIZED: Final = frozenset({INT, STRUCT, UNION, ENUM, FLOAT, ENUM64})


@dataclass(frozen=True, slots=True)
class _Member:
    name: int
    type: int
    bits: int


class Btf:
    """The types in `raw`, the bytes between __start_BTF and __stop_BTF. The constructor raises Unreadable for invalid
    BTF, and all methods raise it for unknown names.
    """

    def __init__(self, raw: bytes) -> None:
        if not HEADER.size <= len(raw) <= MAX_BTF_BYTES:
            raise Unreadable(f"invalid BTF size: {len(raw)} bytes")
        magic, version, _, header, types, types_size, strings, strings_size = HEADER.unpack_from(raw)
        if magic != MAGIC or version != 1:
            raise Unreadable("not BTF, or of another version")
        end = header + max(types + types_size, strings + strings_size)
        if end > len(raw) or strings_size > MAX_STRING_BYTES:
            raise Unreadable("BTF sections exceed the data")
        self._strings = raw[header + strings : header + strings + strings_size]
        count = types_size // 4
        self._words = np.frombuffer(raw, dtype="<u4", count=count, offset=header + types) if count else _no_words()
        self._starts = _starts(self._words)
        first = self._words[self._starts] if len(self._starts) else _no_words()
        second = self._words[self._starts + 1] if len(self._starts) else _no_words()
        self._names = first
        self._kinds = (second >> 24 & 31).astype(np.uint8)
        self._counts = (second & 0xFFFF).astype(np.int64)
        self._left = MAX_MEMBERS
        self._known: dict[str, int] = {}

    def offset(self, path: str) -> int:
        """Return the offset in bytes of a path such as "mm_struct.mm_mt.ma_root": nested members, through unnamed
        structs and unions, typedefs, and first elements of arrays.
        """
        bits, _ = self._member(path)
        if bits % 8:
            raise Unreadable(f"{path} is a bit field")
        return bits // 8

    def size(self, path: str) -> int:
        """Return the size in bytes of a struct, union, enum or typedef ("page") or member ("per_cpu_pages.lists")."""
        if "." in path:
            return self._size(self._member(path)[1])
        for kinds in (AGGREGATES, {TYPEDEF, ENUM, ENUM64, INT, FLOAT}):
            for number in self._named(path, kinds):
                return self._size(number)
        raise Unreadable(f"no type {path}")

    def enumerator(self, name: str) -> int:
        """Return the value of an enumerator such as "PG_slab"."""
        # An enumerator's name is a word of the type data; `_value` checks whether the word is at such a position.
        for place in np.flatnonzero(self._words == self._string(name))[:MAX_SAME_NAME_TYPES].tolist():
            value = self._value(place)
            if value is not None:
                return value
        raise Unreadable(f"no enumerator {name}")

    def _value(self, place: int) -> int | None:
        """Return the value of the enumerator with its name at word `place`, None if there is not one."""
        number = int(np.searchsorted(self._starts, place, side="right"))
        if not number:
            return None
        start, kind, count = self._type(number)
        within = place - start - 3
        each = MEMBER_WORDS[kind] if kind in (ENUM, ENUM64) else 0
        if not each or within < 0 or within % each or within // each >= count:
            return None
        signed = bool(int(self._words[start + 1]) >> 31)
        value, width = int(self._words[place + 1]), 32
        if kind == ENUM64:
            value, width = value | int(self._words[place + 2]) << 32, 64
        return value - (1 << width) if signed and value >> (width - 1) else value

    def _member(self, path: str) -> tuple[int, int]:
        """Return the offset of a path in bits, and the member's type."""
        name, *members = path.split(".")
        if not members:
            raise Unreadable(f"{path} is not a member")
        problem = Unreadable(f"no struct {name}")
        for kinds in (AGGREGATES, {TYPEDEF}):
            for number in self._named(name, kinds):
                try:
                    return self._within(number, members)
                except Unreadable as error:
                    problem = error
        raise problem

    def _within(self, number: int, members: list[str]) -> tuple[int, int]:
        bits = 0
        for member in members:
            found = self._find(self._plain(number, through_arrays=True), self._string(member), MAX_DEPTH)
            if found is None:
                raise Unreadable(f"no member {member}")
            bits += found.bits
            number = found.type
        return bits, number

    def _find(self, number: int, name: int, deepest: int) -> _Member | None:
        """Return the member with this name (a string offset), in the struct or in an unnamed one within it."""
        unnamed = []
        for member in self._members(number):
            if member.name == name:
                return member
            if not self._is_named(member.name):
                unnamed.append(member)
        for member in unnamed if deepest else ():
            inner = self._plain(member.type)
            found = self._find(inner, name, deepest - 1)
            if found is not None:
                return _Member(found.name, found.type, member.bits + found.bits)
        return None

    def _members(self, number: int) -> Iterator[_Member]:
        start, kind, count = self._type(number)
        if kind not in AGGREGATES:
            return
        self._left -= count + 1
        if self._left < 0:
            raise Unreadable("BTF structs nested without an end")
        # If the top bit of the type's second word is set, the top byte of an offset is the width of a bit field.
        mask = 0xFF_FFFF if int(self._words[start + 1]) >> 31 else 0xFFFF_FFFF
        for name, type_, bits in self._words[start + 3 : start + 3 + 3 * count].reshape(-1, 3).tolist():
            yield _Member(name, type_, bits & mask)

    def _plain(self, number: int, *, through_arrays: bool = False) -> int:
        """Resolve typedefs, qualifiers and, on request, arrays."""
        for _ in range(MAX_DEPTH):
            start, kind, _ = self._type(number)
            if kind in ALIASES:
                number = int(self._words[start + 2])
            elif through_arrays and kind == ARRAY:
                number = int(self._words[start + 3])
            else:
                return number
        raise Unreadable("BTF types refer to each other in a cycle")

    def _size(self, number: int) -> int:
        times = 1
        for _ in range(MAX_DEPTH):
            number = self._plain(number)
            start, kind, _ = self._type(number)
            if kind == ARRAY:
                times *= int(self._words[start + 5])
                number = int(self._words[start + 3])
                continue
            size = POINTER_BYTES if kind == POINTER else int(self._words[start + 2]) if kind in SIZED else -1
            if 0 <= size * times < MAX_TYPE_BYTES:
                return size * times
            break
        raise Unreadable("BTF type without a valid size")

    def _type(self, number: int) -> tuple[int, int, int]:
        """Return the index of the type's first word, its kind, and the number of its members."""
        if not 0 < number <= len(self._starts):
            raise Unreadable(f"BTF without type {number}")
        return int(self._starts[number - 1]), int(self._kinds[number - 1]), int(self._counts[number - 1])

    def _named(self, name: str, kinds: frozenset[int] | set[int]) -> list[int]:
        """Return the types of this name and these kinds."""
        same = np.flatnonzero(self._names == self._string(name))[:MAX_SAME_NAME_TYPES].tolist()
        return [number + 1 for number in same if int(self._kinds[number]) in kinds]

    def _is_named(self, place: int) -> bool:
        return self._strings[place : place + 1] not in (b"\0", b"")

    def _string(self, text: str) -> int:
        """Return the offset of this string, which is in BTF once. Raises Unreadable."""
        if text not in self._known:
            self._known[text] = self._strings.find(b"\0" + text.encode() + b"\0") + 1
        if not text or not self._known[text]:
            raise Unreadable(f"BTF without {text}")
        return self._known[text]


def _no_words() -> NDArray[np.uint32]:
    return np.empty(0, dtype="<u4")


def _starts(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the index of each type's first word: int64 of shape (types,). Stop at the first unknown kind."""
    extra = [FIXED_WORDS.get(kind, 0) + 3 for kind in range(LAST_KIND + 1)]
    each = [MEMBER_WORDS.get(kind, 0) for kind in range(LAST_KIND + 1)]
    found = array("q")
    view = memoryview(words.tobytes()).cast("I")
    at, end = 0, len(words)
    while at + 3 <= end:
        info = view[at + 1]
        kind = info >> 24 & 31
        if not 0 < kind <= LAST_KIND:
            break
        size = extra[kind] + each[kind] * (info & 0xFFFF)
        if at + size > end:
            break
        found.append(at)
        at += size
    return np.frombuffer(found, dtype=np.int64) if found else np.empty(0, dtype=np.int64)
