"""Memory forged by an attacker with knowledge of the analysis: tables, struct pages, notes, symbols, types."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS
from tests.fuzz.images.damage import numbers, some

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.images.scene import Scene

    Random = np.random.Generator

__all__ = ["LIES", "profile"]

PRESENT_TABLE: Final = 0x67
LARGE: Final = 0xE7
FIELD: Final = re.compile(rb"(SYMBOL|OFFSET|SIZE|NUMBER|LENGTH)\(([^()]+)\)=(\S+)")
WORST_TEXTS: Final = (
    b"\x1b[2J\x07\n\r\t", b"\xff\xfe\xc0\x80\xed\xa0\x80", b"\xf0\x9f\x92", b"%s%n{}{0}", b"../../..//", b"a" * 200,
    "\u202e\u2028\u0085".encode(), b'"}],\\', b"(deleted)", b" ",
)  # fmt: skip
VALUES: Final = (
    b"0", b"-1", b"1", b"ffffffffffffffff", b"-9223372036854775808", b"18446744073709551615", b"9" * 20, b"8",
    b"4294967296", b"0x", b"65535", b"ffffffff81000000", b"-4096", b"4096", b"63", b"64", b"zzz", b"",
)  # fmt: skip


def tables(scene: Scene, random: Random) -> None:
    """Make page tables refer to themselves, to their root, or all to one table, up to four full levels of tables."""
    frames = np.flatnonzero(scene.ownership.kinds == 13)
    chosen = random.choice(frames, some(random, len(frames)))
    goal = int(random.choice(frames))
    flags = int(random.choice([PRESENT_TABLE, LARGE, 0x27, 0x100, 0x180, 0x1]))
    how = int(random.integers(6))
    for number in np.unique(chosen).tolist():
        row = scene.image.page(number)
        start = int(random.choice([0, 0, 256, 511, int(random.integers(PAGE_WORDS))]))
        if how == 0:
            row[start:] = number * PAGE_SIZE | flags
        elif how == 1:
            row[start:] = goal * PAGE_SIZE | flags
        elif how == 2:
            row[start:] = random.choice(frames, PAGE_WORDS - start).astype(np.uint64) * np.uint64(
                PAGE_SIZE
            ) | np.uint64(flags)
        elif how == 3:
            row[start:] = np.arange(start, PAGE_WORDS, dtype=np.uint64) * np.uint64(PAGE_SIZE) | np.uint64(flags)
        elif how == 4:
            some_rows = random.integers(0, PAGE_WORDS, 20)
            row[some_rows] = row[random.integers(0, PAGE_WORDS, 20)]
        else:
            row[random.integers(0, PAGE_WORDS)] = goal * PAGE_SIZE | flags


def explosion(scene: Scene, random: Random) -> None:
    """Give processes full page tables, shared by all of them: each level refers to as many tables as it can."""
    room = random.permutation(scene.room)
    count = some(random, 1500)
    levels = np.array_split(room[:count], 3)
    kinds = [PRESENT_TABLE, int(random.choice([PRESENT_TABLE, LARGE])), int(random.choice([PRESENT_TABLE, 0x25]))]
    for number, (level, flags) in enumerate(zip(levels, kinds, strict=True)):
        below = levels[number + 1] if number < 2 else np.arange(scene.image.pages)
        if not len(below):
            continue
        for page in level.tolist():
            entries = np.resize(np.roll(below, -int(random.integers(len(below)))), PAGE_WORDS)
            scene.image.page(page)[:] = entries.astype(np.uint64) * np.uint64(PAGE_SIZE) | np.uint64(flags)
    for root in scene.roots[scene.roots > 0].tolist():
        entries = np.resize(levels[0], PAGE_WORDS // 2).astype(np.uint64) * np.uint64(PAGE_SIZE) | np.uint64(
            PRESENT_TABLE
        )
        scene.image.page(root // PAGE_SIZE)[: PAGE_WORDS // 2] = entries
    if random.random() < 0.1:  # and the kernel's own
        physical = scene.kernel.info.physical(scene.kernel.info.symbol("swapper_pg_dir"))
        half = scene.image.page(physical // PAGE_SIZE)[PAGE_WORDS // 2 :]
        half[half == 0] = entries[: int(np.count_nonzero(half == 0))]


def struct_pages(scene: Scene, random: Random) -> None:
    """Forge one member of struct pages: compound heads in a circle or far away, blocks of every order, types, endless
    lists.
    """
    array, profile = scene.array, scene.kernel.profile
    members = ("page.flags", "page.compound_head", "page.mapping", "page.private", "page.lru", "page._mapcount",
               "page.index", "page._refcount", "slab.slab_cache", "page.page_type")  # fmt: skip
    known = [profile.offsets[name] for name in members if name in profile.offsets]
    for _ in range(some(random, 3)):
        at = int(random.choice(known))
        frames = random.integers(0, scene.image.pages, some(random, scene.image.pages))
        own = (array.base + frames * array.size).view(np.uint64)
        another = (array.base + random.choice(frames, len(frames)) * array.size).view(np.uint64)
        places = scene.place(own + np.uint64(at & ~7))
        values = (
            lambda own=own: own | np.uint64(1),
            lambda another=another: another + np.uint64(1),
            lambda another=another, at=at: another + np.uint64(at),
            lambda own=own, at=at: own + np.uint64(at),
            lambda another=another: another[:1] + np.uint64(1),
            lambda places=places: numbers(random, len(places)),
            lambda places=places: np.full(len(places), numbers(random, 1)[0]),
            lambda places=places: random.choice(scene.image.at(scene.pointers), len(places)),
            lambda places=places: random.integers(0, 1 << 12, len(places), dtype=np.uint64),
        )
        found = values[int(random.integers(len(values)))]()
        scene.image.put(places, found if len(found) == len(places) else np.resize(found, len(places)))


def note(scene: Scene, random: Random) -> None:
    """Change numbers in VMCOREINFO, remove or duplicate entries, or truncate it."""
    page = int(scene.notes[0])
    raw = bytes(scene.image.words[page].tobytes().partition(b"\0")[0])
    lines = raw.split(b"\n")
    for _ in range(some(random, 12)):
        place = int(random.integers(len(lines)))
        match int(random.integers(6)):
            case 0:
                lines[place] = FIELD.sub(rb"\1(\2)=" + VALUES[int(random.integers(len(VALUES)))], lines[place])
            case 1:
                value = int(numbers(random, 1)[0])
                text = b"%x" % value if lines[place].startswith(b"SYMBOL") else b"%d" % (value - (value >> 63 << 64))
                lines[place] = FIELD.sub(rb"\1(\2)=" + text, lines[place])
            case 2:
                del lines[place]
                lines = lines or [b"OSRELEASE="]
            case 3:
                lines.insert(place, lines[int(random.integers(len(lines)))])
            case 4:
                one, other = FIELD.match(lines[place]), FIELD.match(lines[int(random.integers(len(lines)))])
                if one and other:
                    lines[place] = b"%b(%b)=%b" % (one[1], one[2], other[3])
            case _:
                worst = WORST_TEXTS[int(random.integers(len(WORST_TEXTS)))]
                lines[place] = lines[place][: int(random.integers(len(lines[place]) + 1))] + worst
    text = b"\n".join(lines)[: PAGE_SIZE if random.random() < 0.9 else int(random.integers(PAGE_SIZE))]
    scene.image.page(page)[:] = np.frombuffer(text.ljust(PAGE_SIZE, b"\0"), dtype=np.uint64)


def many_notes(scene: Scene, random: Random) -> None:
    """Make hundreds of pages look like the VMCOREINFO note, some of them with a difference."""
    pages = random.choice(scene.room, some(random, 400), replace=False)
    row = np.array(scene.image.words[int(scene.notes[0])])
    for number in pages.tolist():
        scene.image.page(number)[:] = row
        if random.random() < 0.5:
            scene.image.page(number)[int(random.integers(3, 200))] ^= np.uint64(1)
    if random.random() < 0.5:
        scene.image.page(int(scene.notes[0]))[:] = 0


def variables(scene: Scene, random: Random) -> None:
    """Change the kernel's variables: numbers of CPUs and nodes, addresses of tables."""
    symbols = scene.kernel.profile.symbols
    names = random.choice(sorted(symbols), some(random, 6))
    addresses = np.array([symbols[str(name)] & ~7 for name in names], dtype=np.uint64)
    count = int(random.choice([1, 1, 2, 64, 512]))
    runs = (addresses[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(8)).reshape(-1)
    values = numbers(random, len(runs))
    if random.random() < 0.5:
        values = random.choice(scene.image.at(scene.pointers), len(runs))
    scene.image.put(scene.place(runs), values)


def cpus(scene: Scene, random: Random) -> None:
    """Maximise the counts of per-CPU, per-node and per-zone objects."""
    symbols, image = scene.kernel.profile.symbols, scene.image
    for name in ("nr_cpu_ids", "nr_node_ids", "nr_vmap_nodes", "pcpu_unit_size"):
        if name in symbols and random.random() < 0.8:
            value = int(random.choice([64, 512, 4096, 8192, 1 << 20, (1 << 32) - 1]))
            image.put(
                scene.place(np.array([symbols[name] & ~7], dtype=np.uint64)),
                np.array([value | value << 32], dtype=np.uint64),
            )
    for name in ("__per_cpu_offset", "node_data"):
        if name in symbols:
            there = scene.place(symbols[name] + np.arange(4096, dtype=np.uint64) * np.uint64(8))
            image.put(there, np.resize(image.at(there[: int(random.integers(1, 3))]), len(there)))


def texts(scene: Scene, random: Random) -> None:
    """Write unusual names of processes, files, caches and modules; some of them without an end."""
    places = np.unique(scene.place(random.choice(scene.strings, some(random, len(scene.strings)))))
    for place in places[places >= 0].tolist():
        worst = WORST_TEXTS[int(random.integers(len(WORST_TEXTS)))]
        text = (worst * int(random.choice([1, 1, 3, 50, 2000])))[: int(random.choice([8, 16, 256, PAGE_SIZE]))]
        raw = np.frombuffer(text.ljust((len(text) + 7) & ~7, b"x"), dtype=np.uint64)
        scene.image.put(place + np.arange(len(raw)), raw)


def symbol_table(scene: Scene, random: Random) -> None:
    """Change the number of symbols, the lengths of their names, and the tokens' texts."""
    pages = scene.cold["kallsyms"]
    symbols = scene.kernel.info.symbols
    named = [symbols[name] & ~7 for name in symbols if name.startswith("kallsyms_")]
    if named and random.random() < 0.7:
        at = scene.place(np.array([random.choice(np.array(named, dtype=np.uint64))], dtype=np.uint64))[0]
        scene.image.put(at + np.arange(some(random, 300)), numbers(random, 1))
        return
    for number in random.choice(pages, some(random, 10)).tolist():
        row = scene.image.page(number).view(np.uint8)
        start = int(random.integers(PAGE_SIZE))
        row[start : start + some(random, PAGE_SIZE)] = int(random.choice([0, 1, 127, 128, 255, 48]))


def types(scene: Scene, random: Random) -> None:
    """Forge the header of BTF, or make its types refer to each other, never end, or all have the same name."""
    pages = scene.cold["btf"]
    raw = scene.image.words[pages].reshape(-1).tobytes()
    start = raw.find(b"\x9f\xeb\x01\0")
    if start < 0:  # removed by another kind of damage
        return
    first = int(pages[0]) * PAGE_SIZE + start
    header = np.frombuffer(raw, dtype="<u4", count=6, offset=start)
    if random.random() < 0.3:
        place = first + 4 * int(random.integers(0, 6))
        _put32(scene, place, int(numbers(random, 1)[0]) & 0xFFFFFFFF)
        return
    words = int(header[3]) // 4
    at = int(random.integers(0, max(words, 1)))
    value = int(random.choice([0x84FFFFFF, 0x04FFFFFF, 1, 0, 0x03000000, 0x08000000, int(random.integers(1 << 32))]))
    for k in range(some(random, 3000)):
        _put32(scene, first + 24 + 4 * min(at + k * int(random.choice([1, 1, 3])), max(words - 1, 0)), value)


def profile(document: bytes, random: Random) -> bytes:
    """Return a kernel profile as from a guest with forged types: with any number that a profile may contain."""
    known: dict[str, Any] = json.loads(document)
    for _ in range(some(random, 8)):
        part = str(
            random.choice(["offsets", "sizes", "enumerators", "symbols", "callers"], p=[0.4, 0.3, 0.1, 0.15, 0.05])
        )
        if part == "callers":
            known[part] = known[part][: int(random.integers(len(known[part]) + 1))]
            continue
        names = sorted(known[part])
        if not names:
            continue
        name = str(random.choice(names))
        others = [known[part][other] for other in names]
        odd = [0, 1, 3, 4, 8, 12, 16, 64, 4088, 4096, 1 << 16, 1 << 20, (1 << 32) - 8, (1 << 32) - 1]
        if random.random() < 0.15:
            del known[part][name]
        elif random.random() < 0.5:
            known[part][name] = int(random.choice(np.array(others, dtype=object)))
        elif part == "symbols":
            known[part][name] += int(random.choice([-8, 4, 8, 4096, 1 << 20]))
        else:
            known[part][name] = int(random.choice(odd))
    return json.dumps(known, separators=(",", ":")).encode()


def _put32(scene: Scene, physical: int, value: int) -> None:
    if 0 <= physical < scene.image.pages * PAGE_SIZE:
        scene.image.page(physical // PAGE_SIZE).view("<u4")[physical % PAGE_SIZE // 4] = value


LIES: Final[dict[Callable[[Scene, Random], None], float]] = {
    tables: 4,
    explosion: 0.3,
    struct_pages: 6,
    note: 0.6,
    many_notes: 0.3,
    variables: 3,
    cpus: 0.3,
    texts: 3,
    symbol_table: 0.3,
    types: 0.3,
}
