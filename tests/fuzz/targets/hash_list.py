"""A list of page hashes from another tool: text or binary. An input's first octet selects format and options."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import TraceError
from samepaged.sharing.digest import FIRST_HASH, ZERO, Contents
from samepaged.traces.hash_list import list_format, listed_hash, read_binary, read_text, to_digest
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from random import Random

HEADER: Final = b"OS: Linux 2.6.18\nPID CMD\n1 init\n"
HASHES: Final = struct.pack("<8I", *(0x80FF00FF + 0x01010101 * (at % 5) for at in range(8)))

# Bits of the first octet:
TEXT: Final = 0x01
WIDE: Final = 0x02  # 64 bits
BIG_ENDIAN: Final = 0x04
GIVEN: Final = 0x08  # with options: the bits of a text, the start and length of a binary list


def check(data: bytes) -> None:
    chosen, content = (data[0] if data else 0), data[1:]
    list_format(content)
    bits = 64 if chosen & WIDE else 32
    descriptor = os.memfd_create("list")
    try:
        os.write(descriptor, content)
        path = Path(f"/proc/self/fd/{descriptor}")
        if chosen & TEXT:
            found = read_text(path, bits if chosen & GIVEN else None)
            assert len(found.hashes) <= content.count(b"\n") + 1
        else:
            given = {"skip": len(content) // 2, "count": len(content) // 20} if chosen & GIVEN else {}
            found = read_binary(path, bits, big_endian=bool(chosen & BIG_ENDIAN), **given)
            assert len(found.hashes) * bits // 8 + found.header_bytes <= len(content)
    finally:
        os.close(descriptor)
    assert len(found.hashes) > 0
    assert not any(value >> found.bits for value in found.hashes.tolist())
    zero = int(found.hashes[0])
    pages = to_digest(found, 4096, zero)
    for page, value in zip(pages.pages.tolist(), found.hashes.tolist(), strict=True):
        # 64-bit hashes equal to a reserved value are moved; this affects three of 2**64 values.
        assert (page == ZERO) == (value == zero)
        assert page == ZERO or page >= FIRST_HASH
        assert page == ZERO or listed_hash(page) == value or page < 2 * FIRST_HASH
    counted = Contents.of(pages)
    assert counted.absent_pages == counted.swapped_pages == 0


def grow(random: Random) -> bytes:
    """Return a list with repeated hashes."""
    contents = [random.getrandbits(random.choice((8, 32, 63, 64))) for _ in range(4)]
    chosen = random.randrange(16)
    values = random.choices(contents, k=random.randint(1, 30))
    if chosen & TEXT:
        form = random.choice(("{:x}", "0x{:X}", "{:08x}", "{:016x}", "{}", "-{}"))
        return bytes([chosen]) + "".join(f"{form.format(value)}\n" for value in values).encode()
    header = random.choice((b"", HEADER, b"text\n"))
    wide = chosen & WIDE
    words = (struct.pack("<Q" if wide else "<I", value % (1 << 64 if wide else 1 << 32)) for value in values)
    return bytes([chosen]) + header + b"".join(words)


TARGET = Target(
    check,
    seeds=(
        b"\x01# pages\nhash\n0000ffff\n12345678\n0000ffff\n",
        b"\x01-5\n18\n-5\n4294967\n",
        b"\x03deadbeefdeadbeef\n0x1\n",
        b"\x0b18446744073709551615\n0\n",
        b"\x00" + HEADER + HASHES,
        b"\x02" + HASHES,
        b"\x06" + HASHES,
        b"\x08" + HEADER + HASHES,
    ),
    words=(
        b"\n",
        b"#",
        b"0x",
        b"-",
        b"ff",
        b"00000000",
        b"18446744073709551616",
        b"4294967296",
        b"\r\n",
        b"\0",
        b"hash",
    ),
    refusals=(TraceError,),
    longest=1024,
    grow=grow,
)
