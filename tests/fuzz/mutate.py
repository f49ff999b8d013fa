"""Mutated inputs: parts of a text moved, repeated and replaced, numbers in a structure made large or small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from tests.fuzz.target import Target

__all__ = ["mutated", "mutations"]

PART: Final = re.compile(rb"[A-Za-z_]+|[0-9]+|[ \t]+|\r?\n|.", re.DOTALL)
NUMBERS: Final = tuple(
    b"%d" % number
    for bits in (0, 7, 8, 12, 15, 16, 20, 21, 31, 32, 52, 53, 63, 64, 128)
    for number in (2**bits - 1, 2**bits, -(2**bits))
)
ODD: Final = (
    *(b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b"\x1b", b"\x7f", b"\x80", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(text.encode() for text in ("\x85", "\u2028", "\u202e", "\ufffe", "\U0010ffff", "é", "٣", "Ⅷ", "\u212a", "İ")),
    *(b"nan", b".nan", b"inf", b"-inf", b"1e999", b"-0", b"0.0", b"0x10", b"00", b"+1", b"1_0", b"9" * 5000),
)
CHANGES: Final = (1, 1, 1, 2, 3, 8)
REPEATS: Final = (2, 3, 17, 200)
MOVED: Final = 0.1
GROWN: Final = 0.4
NEARBY: Final = (-4096, -56, -1, 0, 1, 2, 56, 4096)


def mutated(data: bytes, other: bytes, target: Target, random: Random) -> bytes:
    """Return `data` with a few changed parts, some of them taken from `other`; or a grown input instead."""
    if target.grow is not None and random.random() < GROWN:
        data = target.grow(random)
        if random.getrandbits(1):
            return data[: target.longest]
    made = _with_fields(data, random) if target.binary else _with_parts(data, other, target.words or ODD, random)
    return made[: target.longest]


def _with_fields(data: bytes, random: Random) -> bytes:
    """Overwrite numbers of 1 to 8 octets at the offsets where formats have them; sometimes move or cut off a part."""
    made = bytearray(data)
    for _ in range(random.choice(CHANGES)):
        width = random.choice((1, 2, 4, 8))
        at = random.randrange(len(made) + 1) & ~(min(width, 4) - 1)
        if random.random() < MOVED:
            part = bytes(made[at : at + random.choice((1, 8, 56))])
            made[at : at + random.choice((0, len(part)))] = part * random.choice((0, 1, 2))
            continue
        old = int.from_bytes(made[at : at + width], "little")
        near = random.choice((0, old, old, 1 << random.randrange(8 * width)))
        made[at : at + width] = ((near + random.choice(NEARBY)) % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(made)


def _with_parts(data: bytes, other: bytes, words: tuple[bytes, ...], random: Random) -> bytes:
    parts, others = PART.findall(data), PART.findall(other)
    for _ in range(random.choice(CHANGES)):
        _change(parts, others, words, random)
    return b"".join(parts)


def _change(parts: list[bytes], others: list[bytes], words: tuple[bytes, ...], random: Random) -> None:
    at = random.randrange(len(parts) + 1)
    to = min(len(parts), at + random.randint(1, random.choice((1, 4, 30))))
    match random.randrange(7):
        case 0:
            del parts[at:to]
        case 1:
            parts[at:to] = [random.choice(words)]
        case 2:
            parts.insert(at, random.choice(words))
        case 3:
            parts[at:to] = [random.choice(random.choice((NUMBERS, NUMBERS, ODD)))]
        case 4:
            parts[at:at] = parts[at:to] * random.choice(REPEATS)
        case 5:
            moved = parts[at:to]
            del parts[at:to]
            where = random.randrange(len(parts) + 1)
            parts[where:where] = moved
        case _:
            begin = random.randrange(len(others) + 1)
            parts[at:to] = others[begin : begin + random.choice((1, 4, 30))]


def mutations(target: Target, random: Random, count: int) -> Iterator[bytes]:
    """Yield the seeds, then random mutations of them, without coverage feedback."""
    yield from target.seeds[:count]
    for _ in range(count - len(target.seeds)):
        data, other = random.choice(target.seeds), random.choice(target.seeds)
        yield mutated(data, other, target, random)
