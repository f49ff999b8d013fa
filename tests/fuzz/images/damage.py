"""Unspecific damage: changed bits, words and pages, most of it in memory that the analysis reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import PAGE_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.fuzz.images.scene import Read, Scene

    Random = np.random.Generator

__all__ = ["DAMAGE", "circle", "numbers", "some"]

# Boundary values that programs often handle wrongly.
ODD: Final = np.array(
    [
        *(0, 1, 2, 7, 8, 255, 4095, 4096, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47),
        *(1 << 62, (1 << 63) - 1, 1 << 63, 0xFFFF800000000000, 0xFFFFFFFF80000000, (1 << 64) - 4096, (1 << 64) - 8),
        *((1 << 64) - 1, 0xDEAD000000000100, 0x8000000000000067, 0x67, 0xE7, 0x20202020),
    ],
    dtype=np.uint64,
)


def some(random: Random, most: int) -> int:
    """Return a number from 1 to `most`; small numbers are as likely as large ones."""
    return int(min(most, np.exp(random.uniform(0, np.log(most + 1)))))


def numbers(random: Random, count: int) -> NDArray[np.uint64]:
    """Return a mix of boundary values and random numbers."""
    anything = random.integers(0, 1 << 64, count, dtype=np.uint64) >> random.integers(0, 64, count, dtype=np.uint64)
    return np.where(random.random(count) < 0.7, random.choice(ODD, count), anything)


def _flip(scene: Scene, random: Random, places: NDArray[np.int64]) -> None:
    bits = np.uint64(1) << random.integers(0, 64, len(places), dtype=np.uint64)
    places = np.unique(places)
    scene.image.put(places, scene.image.at(places) ^ bits[: len(places)])


def bits_anywhere(scene: Scene, random: Random) -> None:
    _flip(scene, random, random.integers(0, scene.image.pages * PAGE_WORDS, some(random, 3000)))


def bits_of_words(scene: Scene, random: Random) -> None:
    _flip(scene, random, random.choice(scene.words, some(random, 1000)))


def bits_of_pages(scene: Scene, random: Random) -> None:
    pages = random.choice(scene.warm, some(random, 50))
    _flip(scene, random, (random.choice(pages, 500) << 9) + random.integers(0, PAGE_WORDS, 500))


def bits_of_structs(scene: Scene, random: Random) -> None:
    places = _members(scene, random, _read(scene, random), some(random, 100))
    _flip(scene, random, places)


def bits_of_the_cold(scene: Scene, random: Random) -> None:
    pages = scene.cold[str(random.choice(sorted(scene.cold)))]
    count = some(random, 200)
    _flip(scene, random, (random.choice(pages, count) << 9) + random.integers(0, PAGE_WORDS, count))


def words(scene: Scene, random: Random) -> None:
    places = random.choice(scene.words, some(random, 500))
    scene.image.put(places, numbers(random, len(places)))


def members(scene: Scene, random: Random) -> None:
    places = _members(scene, random, _read(scene, random), some(random, 200))
    scene.image.put(places, numbers(random, len(places)))


def one_member_everywhere(scene: Scene, random: Random) -> None:
    read = _read(scene, random)
    at = np.uint64(8 * int(random.integers(0, max(read.size // 8, 1))))
    value = random.choice([numbers(random, 1)[0], random.choice(scene.image.at(scene.pointers))])
    scene.image.put(scene.place(read.addresses + at), np.array([value]))


def pointers_exchanged(scene: Scene, random: Random) -> None:
    places = random.choice(scene.pointers, some(random, 500))
    scene.image.put(places, scene.image.at(random.choice(scene.pointers, len(places))))


def pointers_to_themselves(scene: Scene, random: Random) -> None:
    places = random.choice(scene.pointers, some(random, 300))
    behind = random.choice(np.array([0, 0, 1, 2, 4, 8, 32]), len(places))
    scene.image.put(places, scene.address(places - behind))


def pointers_a_little_off(scene: Scene, random: Random) -> None:
    places = random.choice(scene.pointers, some(random, 300))
    by = random.choice(np.array([1, 2, 3, 4, 8, 16, 0x38, 64, 255, 256, 4096, -8, -4096]), len(places))
    scene.image.put(places, scene.image.at(places) + by.astype(np.int64).view(np.uint64))


def pointers_odd(scene: Scene, random: Random) -> None:
    places = random.choice(scene.pointers, some(random, 300))
    scene.image.put(places, numbers(random, len(places)))


def pages(scene: Scene, random: Random) -> None:
    for number in random.choice(scene.warm, some(random, 30)).tolist():
        _fill(scene, random, scene.image.page(number))


def all_of_a_kind(scene: Scene, random: Random) -> None:
    """Fill every page of one kind in the same way."""
    kind = int(random.choice(np.unique(scene.ownership.kinds[scene.warm])))
    which = int(random.integers(5))
    for number in scene.warm[scene.ownership.kinds[scene.warm] == kind].tolist():
        _fill(scene, random, scene.image.page(number), which)


def pages_exchanged(scene: Scene, random: Random) -> None:
    """Overwrite pages with other pages, as if the copies were taken at different times."""
    one = random.choice(scene.warm, some(random, 60))
    other = random.choice(scene.warm, len(one))
    copies = np.array(scene.image.words[other])
    for number, row in zip(one.tolist(), copies, strict=True):
        scene.image.page(number)[:] = row


def pages_shifted(scene: Scene, random: Random) -> None:
    for number in random.choice(scene.warm, some(random, 30)).tolist():
        row = scene.image.page(number)
        row[:] = np.roll(row, int(random.choice([1, 2, 8, -1, 256])))


def circles(scene: Scene, random: Random) -> None:
    """Make structs refer to each other: in lists, in trees, of tasks, areas, directories, of any structs that a module
    reads.
    """
    for _ in range(some(random, 4)):
        circle(scene, random, _read(scene, random))


def circle(scene: Scene, random: Random, read: Read) -> None:
    """Set one member of these structs to another struct's value, another struct's address, or their own address."""
    each = max(read.size // 8, 1)
    addresses = np.unique(random.choice(read.addresses, some(random, len(read.addresses))))
    at = np.uint64(8 * int(random.integers(0, each)))
    places = scene.place(addresses + at)
    match int(random.integers(6)):
        case 0:
            targets = scene.image.at(np.maximum(scene.place(random.choice(read.addresses, len(places)) + at), 0))
        case 1:
            targets = random.choice(read.addresses, len(places))
        case 2:
            targets = addresses
        case 3:
            targets = read.addresses[:1]
        case 4:
            targets = np.roll(addresses, 1)
        case _:  # node types and flags are in the lowest bits
            flags = random.integers(0, 256, len(places), dtype=np.uint64)
            targets = random.choice(read.addresses, len(places)) | flags
    scene.image.put(places, targets)


def _fill(scene: Scene, random: Random, row: NDArray[np.uint64], which: int | None = None) -> None:
    match int(random.integers(5)) if which is None else which:
        case 0:
            row[:] = 0
        case 1:
            row[:] = ~np.uint64(0)
        case 2:
            row[:] = random.integers(0, 1 << 64, PAGE_WORDS, dtype=np.uint64)
        case 3:
            row[:] = random.choice(scene.image.at(scene.pointers), PAGE_WORDS)
        case _:
            row[:] = numbers(random, PAGE_WORDS)


def _read(scene: Scene, random: Random) -> Read:
    reads = scene.reads[str(random.choice(sorted(scene.reads)))]
    return reads[int(random.integers(len(reads)))]


def _members(scene: Scene, random: Random, read: Read, count: int) -> NDArray[np.int64]:
    at = random.integers(0, max(read.size // 8, 1), count, dtype=np.uint64) * np.uint64(8)
    return scene.place(random.choice(read.addresses, count) + at)


# With the weight of each.
DAMAGE: Final[dict[Callable[[Scene, Random], None], float]] = {
    bits_anywhere: 1,
    bits_of_words: 2,
    bits_of_pages: 2,
    bits_of_structs: 3,
    bits_of_the_cold: 0.3,
    words: 2,
    members: 4,
    one_member_everywhere: 4,
    pointers_exchanged: 4,
    pointers_to_themselves: 3,
    pointers_a_little_off: 3,
    pointers_odd: 2,
    pages: 2,
    all_of_a_kind: 1,
    pages_exchanged: 2,
    pages_shifted: 1,
    circles: 5,
}
