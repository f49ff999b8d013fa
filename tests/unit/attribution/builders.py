"""Builders of small guests: RAM, page tables, symbols, types and notes in the formats of a Linux kernel."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import GuestRam
from samepaged.attribution.linux.vmcoreinfo import IMAGE
from samepaged.attribution.ram_map import RamMap, RamRegion

PRESENT, WRITE, USER, LARGE, NO_RIGHTS = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 8
SHIFTS = {PAGE_SIZE: 12, 2 << 20: 21, 1 << 30: 30}


class Machine:
    """RAM under construction. Page tables and other pages are allocated from the top downwards."""

    def __init__(self, pages: int = 1024, layout: RamMap | None = None) -> None:
        self.layout = layout or RamMap((RamRegion(0, pages * PAGE_SIZE),))
        self.bytes = bytearray(self.layout.pages * PAGE_SIZE)
        self._next = self.layout.pages

    def page(self) -> int:
        """Allocate a page and return its guest-physical address."""
        self._next -= 1
        return self.layout.address_of(self._next)

    @property
    def taken(self) -> range:
        """The allocated RAM pages."""
        return range(self._next, self.layout.pages)

    def put(self, physical: int, data: bytes) -> int:
        """Write bytes at a guest-physical address, within one region."""
        at = int(self.layout.page_of(np.array([physical]))[0]) * PAGE_SIZE + physical % PAGE_SIZE
        assert 0 <= at <= len(self.bytes) - len(data)
        self.bytes[at : at + len(data)] = data
        return physical

    def word(self, physical: int, value: int | None = None) -> int:
        """Write `value`, if given, and return the 8 bytes at the address."""
        if value is not None:
            self.put(physical, struct.pack("<Q", value))
        at = int(self.layout.page_of(np.array([physical]))[0]) * PAGE_SIZE + physical % PAGE_SIZE
        return int.from_bytes(self.bytes[at : at + 8], "little")

    def map(
        self,
        root: int,
        virtual: int,
        physical: int,
        size: int = PAGE_SIZE,
        flags: int = PRESENT | WRITE,
        levels: int = 4,
    ) -> None:
        """Map one leaf of `size` (4 KiB, 2 MiB, 1 GiB) under the table at `root`, with the tables on the path."""
        table = root
        for shift in range(12 + 9 * (levels - 1), SHIFTS[size], -9):
            entry = table + 8 * (virtual >> shift & 511)
            if not self.word(entry):
                self.word(entry, self.page() | PRESENT | WRITE | USER)
            table = self.word(entry) & ~0xFFF
        entry = table + 8 * (virtual >> SHIFTS[size] & 511)
        self.word(entry, physical | flags | (LARGE if size > PAGE_SIZE else 0))

    def ram(self) -> GuestRam:
        return GuestRam(np.frombuffer(bytes(self.bytes), dtype=np.uint64).reshape(-1, PAGE_SIZE // 8), self.layout)


@dataclass
class Types:
    """BTF under construction: each method adds a type and returns its number."""

    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    words: list[int] = field(default_factory=list)
    count: int = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        known = self.strings.find(b"\0" + text.encode() + b"\0")
        if known < 0:
            known = len(self.strings) - 1
            self.strings += text.encode() + b"\0"
        return known + 1

    def add(self, kind: int, name: str, third: int, rest: list[int], members: int = 0, flag: int = 0) -> int:
        self.words += [self.name(name), flag << 31 | kind << 24 | members, third, *rest]
        self.count += 1
        return self.count

    def integer(self, name: str, size: int) -> int:
        return self.add(1, name, size, [size * 8])

    def pointer(self, to: int) -> int:
        return self.add(2, "", to, [])

    def array(self, of: int, count: int) -> int:
        return self.add(3, "", 0, [of, of, count])

    def struct(
        self, name: str, size: int, *members: tuple[str, int, int], union: bool = False, bits: bool = False
    ) -> int:
        """Members are name, type and offset in bytes, or in bits with `bits` (structs with bit fields)."""
        rest = [word for text, type_, at in members for word in (self.name(text), type_, at if bits else 8 * at)]
        return self.add(5 if union else 4, name, size, rest, len(members), flag=int(bits))

    def enum(self, name: str, **values: int) -> int:
        rest = [word for text, value in values.items() for word in (self.name(text), value & 0xFFFFFFFF)]
        return self.add(6, name, 4, rest, len(values), flag=1)

    def enum64(self, name: str, **values: int) -> int:
        rest = [
            word
            for text, value in values.items()
            for word in (self.name(text), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        ]
        return self.add(19, name, 8, rest, len(values), flag=1)

    def typedef(self, name: str, of: int) -> int:
        return self.add(8, name, of, [])

    def const(self, of: int) -> int:
        return self.add(10, "", of, [])

    def raw(self) -> bytes:
        types = struct.pack(f"<{len(self.words)}I", *self.words)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.strings))
        return header + types + bytes(self.strings)


def packed(names: list[str], pairs: tuple[str, ...] = ("te", "st", "_s")) -> tuple[bytes, list[int], bytes, bytes]:
    """Pack names (with their type character) like kallsyms: names, offset of every 256th name, tokens and token index.
    Tokens are the characters of the names, and some pairs of them under unused character codes.
    """
    used = set("".join(names)) | set("0123456789")
    texts = [chr(code) if chr(code) in used else "" for code in range(256)]
    for code, pair in enumerate(pairs, start=128):
        texts[code] = pair
    raw, starts = bytearray(), []
    for name in names:
        starts.append(len(raw))
        text = name
        for code, pair in enumerate(pairs, start=128):
            text = text.replace(pair, chr(code))
        length = len(text)
        raw += bytes([length] if length < 128 else [length & 127 | 128, length >> 7]) + text.encode("latin-1")
    table = b"".join(text.encode() + b"\0" for text in texts)
    places = np.cumsum([0] + [len(text) + 1 for text in texts[:-1]])
    return bytes(raw), starts[::256], table, struct.pack("<256H", *places.tolist())


def aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def symbol_tables(symbols: list[tuple[str, int]], at: int, encoding: str = "percpu") -> tuple[bytes, dict[str, int]]:
    """Return kallsyms at the address `at`, in the order of 4.20 to 6.3, and the addresses of its tables. The encodings
    are "percpu", "relative" and "own place" (since 7.0, without a relative base).
    """
    base = min(address for _, address in symbols if address >> 63)
    raw, markers, table, index = packed(["T" + name for name, _ in symbols])
    offsets = [
        {
            "percpu": base - 1 - address if address >> 63 else address,
            "relative": address - base if address >> 63 else 0,
            "own place": address - at - 4 * number if address >> 63 else 0,
        }[encoding]
        for number, (_, address) in enumerate(symbols)
    ]
    parts = {
        "kallsyms_offsets": struct.pack(f"<{len(offsets)}i", *offsets),
        "kallsyms_relative_base": struct.pack("<Q", base),
        "kallsyms_num_syms": struct.pack("<Q", len(symbols)),
        "kallsyms_names": raw,
        "kallsyms_markers": struct.pack(f"<{len(markers)}I", *markers),
        "kallsyms_token_table": table,
        "kallsyms_token_index": index,
    }
    where, data = {}, b""
    for name, part in parts.items():
        where[name] = at + len(data)
        data += aligned(part)
    if encoding == "own place":
        del where["kallsyms_relative_base"]
    return data, where


def note(release: str, symbols: dict[str, int], phys_base: int, *more: str) -> bytes:
    """Return a VMCOREINFO note."""
    lines = [f"OSRELEASE={release}", "BUILD-ID=" + "ab" * 20, "PAGESIZE=4096"]
    lines += [f"SYMBOL({name})={address:x}" for name, address in symbols.items()]
    return "\n".join([*lines, f"NUMBER(phys_base)={phys_base}", *more, ""]).encode()


def types() -> Types:
    """Return BTF of struct page and struct task_struct."""
    made = Types()
    number, long_ = made.integer("int", 4), made.integer("long unsigned int", 8)
    letter = made.integer("char", 1)
    list_head = made.struct("list_head", 16, ("next", made.pointer(0), 0), ("prev", made.pointer(0), 8))
    inner = made.struct("", 16, ("mapping", long_, 0), ("index", long_, 8))
    union = made.struct("", 16, ("lru", list_head, 0), ("", inner, 0), union=True)
    made.struct(
        "page", 64, ("flags", made.typedef("flags_t", made.const(long_)), 0), ("", union, 8), ("_refcount", number, 52)
    )
    made.struct("task_struct", 128, ("comm", made.array(letter, 16), 64), ("tasks", list_head, 16))
    made.enum("pageflags", PG_locked=0, PG_slab=9, PG_last=-1)
    return made


@dataclass(frozen=True)
class Linux:
    """A guest with a minimal readable kernel: its RAM, the page of its note, its symbols, and its root table."""

    machine: Machine
    note_page: int
    symbols: dict[str, int]
    root: int


def linux(
    release: str = "6.1.0-test", *, slide: int = 0, levels: int = 4, encoding: str = "percpu", named: bool = True
) -> Linux:
    """Build a guest with a kernel image of 1 MiB at 4 MiB, mapped `slide` above the default address."""
    machine = Machine(pages=4096)
    physical, image = 4 << 20, IMAGE + (16 << 20) + slide
    root = physical + 0x1000
    symbols = {
        "_stext": image,
        "copy_process": image + 0x100,
        "copy_process.cold": image + 0x180,
        "vmap": image + 0x200,
        "after_vmap": image + 0x240,
        "swapper_pg_dir": image + 0x1000,
        "init_uts_ns": image + 0x2000,
        "init_task": image + 0x3000,
        "__start_BTF": image + 0x10000,
        "__per_cpu_start": 0,
        **{f"filler_{number}": image + 0x4000 + number for number in range(600)},
    }
    btf = types().raw()
    symbols["__stop_BTF"] = symbols["__start_BTF"] + len(btf)
    tables, where = symbol_tables(list(symbols.items()), image + 0x20000, encoding)
    machine.put(
        physical + 0x2000 + 4, b"Linux\0".ljust(65, b"\0") + b"node\0".ljust(65, b"\0") + release.encode() + b"\0"
    )
    machine.put(physical + 0x3000 + 64, b"swapper/0\0")
    machine.put(physical + 0x10000, btf)
    machine.put(physical + 0x20000, tables)
    for offset in range(0, 1 << 20, PAGE_SIZE):
        machine.map(root, image + offset, physical + offset, levels=levels)
    known = {name: symbols[name] for name in ("_stext", "swapper_pg_dir", "init_uts_ns")}
    if named:
        known |= {name: address for name, address in where.items() if name != "kallsyms_markers"}
    page = machine.page()
    more = ["SIZE(page)=64", "OFFSET(page.flags)=0", f"NUMBER(pgtable_l5_enabled)={int(levels == 5)}"]
    machine.put(page, note(release, known, physical - (image - IMAGE), *more))
    return Linux(machine, page // PAGE_SIZE, symbols, root)
