from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.kallsyms.names import PackedNames, name_starts, tokens
from samepaged.attribution.linux.kallsyms.search import find_tables
from samepaged.attribution.linux.kallsyms.symbols import read_symbols
from samepaged.attribution.linux.paging import PageTableLeaves
from samepaged.attribution.linux.vmcoreinfo import IMAGE, VmCoreInfo
from tests.unit.attribution.builders import packed, symbol_tables

if TYPE_CHECKING:
    from samepaged.attribution.linux.kallsyms.symbols import Symbols

BASE = IMAGE + (16 << 20)
AT = BASE + 0x40000
CORE = {"_stext": BASE, "swapper_pg_dir": BASE + 0x3000, "init_uts_ns": BASE + 0x4000}
MANY = [
    *CORE.items(),
    ("copy_process.isra.0", BASE + 0x500),
    ("copy_process", BASE + 0x600),
    ("test_set", BASE + 0x600),
    *((f"symbol_{number}", BASE + 0x5000 + number) for number in range(1000)),
    ("last_test", BASE + 0x9000),
]


class Flat:
    """Kernel memory from BASE on."""

    def __init__(self, data: bytes) -> None:
        size = AT - BASE + len(data) + (1 << 15)
        self.data = (bytes(AT - BASE) + data).ljust(size + -size % PAGE_SIZE, b"\0")

    def read(self, address: int, size: int) -> bytes:
        if size < 0 or not BASE <= address <= address + size <= BASE + len(self.data):
            raise Unreadable(f"{size} bytes at {address:#x}")
        return self.data[address - BASE : address - BASE + size]


def told(where: dict[str, int]) -> VmCoreInfo:
    return VmCoreInfo("6.1.0", None, CORE | where, {}, {}, {"phys_base": 0}, {})


def mapping(size: int) -> PageTableLeaves:
    pages = np.arange(-(-size // PAGE_SIZE), dtype=np.int64)
    ones = np.ones(len(pages), dtype=np.int64)
    return PageTableLeaves(
        BASE - (1 << 64) + pages * PAGE_SIZE, pages * PAGE_SIZE, ones, ones.astype(np.uint64), np.zeros(1, np.int64)
    )


def table(listed: list[tuple[str, int]], encoding: str = "percpu", *, named: bool = True) -> Symbols:
    data, where = symbol_tables(listed, AT, encoding)
    memory = Flat(data)
    return read_symbols(memory, told(where if named else {}), mapping(len(memory.data)))


@pytest.mark.parametrize("encoding", ["percpu", "relative", "own place"])
def test_symbols_of_every_address_encoding(encoding: str) -> None:
    found = table(MANY, encoding)
    assert sorted(found.find({name.partition(".")[0] for name, _ in MANY})) == sorted(MANY)
    assert found.find({"nothing", "symbol"}) == []


def test_small_addresses_are_per_cpu_offsets() -> None:
    assert table([*MANY, ("pcpu_hot", 0x1C0)], "percpu").find({"pcpu_hot"}) == [("pcpu_hot", 0x1C0)]


def test_compiler_suffixes_are_ignored() -> None:
    assert sorted(table(MANY).find({"copy_process"})) == [
        ("copy_process", BASE + 0x600),
        ("copy_process.isra.0", BASE + 0x500),
    ]


def test_symbol_ends_at_next_symbol() -> None:
    starts = np.array([BASE, BASE + 0x500, BASE + 0x600, BASE + 0x9000], dtype=np.uint64)
    assert table(MANY).ends(starts).tolist() == [BASE + 0x500, BASE + 0x600, BASE + 0x3000, BASE + 0x9000]


def test_unnamed_tables_are_found_by_shape() -> None:
    data, where = symbol_tables(MANY, AT)
    del where["kallsyms_markers"]
    decoy = b"".join(b"%d\0" % digit for digit in range(10))
    memory = Flat(data)
    memory.data = decoy * 3 + memory.data[len(decoy) * 3 :]
    assert find_tables(memory, mapping(len(memory.data)), BASE) == where
    assert read_symbols(memory, told({}), mapping(len(memory.data))).find({"last_test"}) == [
        ("last_test", BASE + 0x9000)
    ]


def test_kernel_without_tables_is_unreadable() -> None:
    memory = Flat(bytes(1 << 16))
    with pytest.raises(Unreadable):
        read_symbols(memory, told({}), mapping(len(memory.data)))


def test_long_names_have_two_length_bytes() -> None:
    name = "_ZN4core3fmt" + "x" * 200
    assert table([*MANY, (name, BASE + 0x9999)]).find({name}) == [(name, BASE + 0x9999)]


def test_symbols_contradicting_vmcoreinfo_are_refused() -> None:
    data, where = symbol_tables(MANY, AT)
    info = told(where)
    with pytest.raises(Unreadable):
        read_symbols(Flat(data), replace(info, symbols=info.symbols | {"init_uts_ns": BASE + 0x4008}), mapping(1 << 20))


@pytest.mark.parametrize("count", [0, 5000, (1 << 32) - 1])
def test_impossible_symbol_count_is_unreadable(count: int) -> None:
    data, where = symbol_tables(MANY, AT)
    at = where["kallsyms_num_syms"] - AT
    with pytest.raises(Unreadable):
        read_symbols(Flat(data[:at] + count.to_bytes(4, "little") + data[at + 4 :]), told(where), mapping(1 << 20))


def test_unbounded_tokens_are_unreadable() -> None:
    with pytest.raises(Unreadable):
        tokens(b"abc", np.zeros(256, dtype=np.uint16))
    with pytest.raises(Unreadable):
        tokens(b"a\0", np.full(256, 9, dtype=np.uint16))
    raw = b"\x7f" * 128 * 200
    long = PackedNames(raw, name_starts(raw, 200), (b"x" * 500,) * 256)
    with pytest.raises(Unreadable):
        long.find({"x"})


@given(st.lists(st.text("Tabst_0123.", min_size=1, max_size=140), max_size=600))
def test_packed_names_round_trip(names: list[str]) -> None:
    names = ["t" + name for name in names] + ["Tend"]
    raw, markers, table, index = packed(names)
    starts = name_starts(raw, len(names))
    assert starts[:-1:256].tolist() == markers
    unpacked = PackedNames(raw, starts, tokens(table, np.frombuffer(index, dtype="<u2")))
    assert unpacked.find({name[1:].partition(".")[0] for name in names}) == [
        (n, name[1:]) for n, name in enumerate(names)
    ]


DATA, WHERE = symbol_tables(MANY, AT)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
@example([], True)
@example([], False)
def test_damaged_tables_are_parsed_or_unreadable(damage: list[tuple[int, int]], named: bool) -> None:  # noqa: FBT001 - drawn
    data = bytearray(DATA)
    for at, value in damage:
        data[at] = value
    memory = Flat(bytes(data))
    try:
        found = read_symbols(memory, told(WHERE if named else {}), mapping(len(memory.data)))
    except Unreadable:
        assert damage
        return
    assert len(found.addresses) == len(MANY)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=2000, max_size=4000), st.data())
def test_arbitrary_tables_are_parsed_or_unreadable(raw: bytes, data: st.DataObject) -> None:
    names = [name for name in WHERE if name != "kallsyms_markers"]
    where = {name: AT + data.draw(st.integers(0, len(raw) - 1)) for name in names}
    try:
        read_symbols(Flat(raw), told(where), mapping(1 << 20))
    except Unreadable as error:
        assert str(error)
