from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.btf import Btf
from tests.unit.attribution.builders import Types, types

RAW = types().raw()
# Size of the types, and offset of the strings after them (struct btf_header).
WHOLE_SIZES = struct.unpack_from("<II", RAW, 12)


def test_members_of_unnamed_structs_are_found() -> None:
    btf = Btf(RAW)
    assert [btf.offset(f"page.{name}") for name in ("flags", "lru", "lru.prev", "mapping", "index", "_refcount")] == [
        *(0, 8, 16, 8, 16, 52)
    ]
    assert btf.offset("task_struct.tasks.prev") == 24


def test_sizes_of_types_and_members() -> None:
    btf = Btf(RAW)
    assert [
        btf.size(name) for name in ("page", "int", "flags_t", "pageflags", "task_struct.comm", "page.lru.next")
    ] == [*(64, 4, 8, 4, 16, 8)]


def test_enumerators_keep_their_signs() -> None:
    made = types()
    made.enum64("big", FIRST=1 << 40, BELOW=-5)
    btf = Btf(made.raw())
    assert [btf.enumerator(name) for name in ("PG_slab", "PG_last", "FIRST", "BELOW")] == [9, -1, 1 << 40, -5]


@pytest.mark.parametrize(
    "ask",
    [
        lambda btf: btf.offset("page.nothing"),
        lambda btf: btf.offset("page"),
        lambda btf: btf.offset(""),
        lambda btf: btf.offset("page."),
        lambda btf: btf.offset("nothing.flags"),
        lambda btf: btf.offset("page._refcount.counter"),
        lambda btf: btf.size("nothing"),
        lambda btf: btf.size("page.nothing"),
        lambda btf: btf.enumerator("PG_nothing"),
        lambda btf: btf.enumerator("page"),
        lambda btf: btf.enumerator(""),
    ],
)
def test_missing_name_is_unreadable(ask: object) -> None:
    with pytest.raises(Unreadable):
        ask(Btf(RAW))  # type: ignore[operator]


def test_bit_fields_have_no_offset() -> None:
    made = Types()
    number = made.integer("int", 4)
    made.struct("odd", 8, ("bit", number, 3 | 1 << 24), ("whole", number, 32), bits=True)
    btf = Btf(made.raw())
    assert btf.offset("odd.whole") == 4
    with pytest.raises(Unreadable, match="bit field"):
        btf.offset("odd.bit")


def test_array_size_and_members() -> None:
    made = Types()
    inner = made.struct("inner", 24, ("a", made.integer("int", 4), 8))
    made.struct("outer", 200, ("all", made.array(made.array(inner, 4), 2), 8))
    btf = Btf(made.raw())
    assert (btf.size("outer.all"), btf.offset("outer.all.a")) == (24 * 8, 16)


def test_struct_with_the_member_is_chosen() -> None:
    made = Types()
    number = made.integer("int", 4)
    made.struct("node", 8, ("a", number, 0))
    made.struct("node", 16, ("b", number, 12))
    assert Btf(made.raw()).offset("node.b") == 12


def test_names_match_as_a_whole() -> None:
    made = Types()
    made.struct("thread_info_page", 8, ("index_page", made.integer("int", 4), 0))
    for ask in (Btf(made.raw()).size, Btf(made.raw()).enumerator):
        with pytest.raises(Unreadable):
            ask("page")


def test_circular_typedefs_terminate() -> None:
    made = Types()
    made.typedef("a", 2)
    made.typedef("b", 1)
    made.array(3, 7)
    made.struct("s", 8, ("", 1, 0), ("m", 1, 0), ("n", 3, 0))
    btf = Btf(made.raw())
    for path in ("a", "s.n", "s.m"):
        with pytest.raises(Unreadable):
            btf.size(path)
    for path in ("a.x", "s.m.x", "s.n.x"):
        with pytest.raises(Unreadable):
            btf.offset(path)


def test_circular_structs_terminate() -> None:
    made = Types()
    for _ in range(3):
        made.struct("", 8, *[("", number, 0) for number in (1, 2, 3)] * 50)
    made.struct("s", 8, ("", 1, 0))
    btf = Btf(made.raw())
    with pytest.raises(Unreadable):
        btf.offset("s.made")
    made.name("made")
    btf = Btf(made.raw())
    for _ in range(20):
        with pytest.raises(Unreadable, match="without an end"):
            btf.offset("s.made")


def test_types_after_unknown_kind_are_dropped() -> None:
    made = Types()
    made.struct("before", 8)
    made.add(31, "later", 0, [])
    made.struct("after", 8)
    btf = Btf(made.raw())
    assert btf.size("before") == 8
    with pytest.raises(Unreadable):
        btf.size("after")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x9f\xeb\x01\0",
        b"\xeb\x9f" + RAW[2:],
        RAW[:2] + b"\x02" + RAW[3:],
        RAW[:-1],
        RAW[:12] + struct.pack("<I", 0xFFFFFFFF) + RAW[16:],
        bytes(17 << 20),
    ],
)
def test_non_btf_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        Btf(raw)


def ask_everything(raw: bytes) -> int:
    """Return the number of successful queries; all others raise Unreadable."""
    answers = 0
    try:
        btf = Btf(raw)
    except Unreadable:
        return answers
    for ask, name in [
        *((btf.offset, f"page.{name}") for name in ("flags", "lru.prev", "index", "_refcount")),
        *((btf.size, name) for name in ("page", "flags_t", "task_struct.comm", "pageflags")),
        *((btf.enumerator, name) for name in ("PG_slab", "PG_last")),
    ]:
        try:
            assert -(1 << 63) <= ask(name) < 1 << 64
            answers += 1
        except Unreadable as error:
            assert str(error)
    return answers


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=10))
@example([])
def test_damaged_btf_is_parsed_or_unreadable(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(RAW)
    for at, value in damage:
        raw[at] = value
    assert ask_everything(bytes(raw)) > 0 or damage


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 400))
@example(RAW[24:], *WHOLE_SIZES)
def test_arbitrary_btf_is_parsed_or_unreadable(raw: bytes, types_size: int, strings: int) -> None:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, types_size, strings, max(0, len(raw) - strings))
    assert ask_everything(header + raw) > 0 or raw != RAW[24:]
    ask_everything(header + raw + b"\0page\0flags\0PG_slab\0")
