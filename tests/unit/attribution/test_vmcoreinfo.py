from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.vmcoreinfo import IMAGE, MARK, candidates, parse
from tests.unit.attribution.builders import linux, note

SYMBOLS = {"_stext": IMAGE, "swapper_pg_dir": IMAGE + 0x1000, "init_uts_ns": IMAGE + 0x2000}
WHOLE = note("6.1.0", SYMBOLS, 0x400000, "SIZE(page)=64", "OFFSET(page.flags)=0", "LENGTH(zone.free_area)=11")


def test_vmcoreinfo_is_parsed() -> None:
    info = parse(WHOLE.ljust(PAGE_SIZE, b"\0"), page=7)
    assert (info.release, info.build_id, info.page) == ("6.1.0", "ab" * 20, 7)
    assert info.symbols == SYMBOLS
    assert (info.sizes, info.offsets, info.lengths) == ({"page": 64}, {"page.flags": 0}, {"zone.free_area": 11})
    assert info.physical(info.symbol("init_uts_ns")) == 0x402000
    assert (info.levels, info.mask) == (4, 0x000F_FFFF_FFFF_F000)


def test_boot_specific_values_are_read() -> None:
    more = ("NUMBER(pgtable_l5_enabled)=1", f"NUMBER(sme_mask)={1 << 47}")
    moved = {name: address + 0x1000000 for name, address in SYMBOLS.items()}
    info = parse(note("6.1.0", moved, -0x800000, *more))
    assert (info.levels, info.mask) == (5, 0x000F_7FFF_FFFF_F000)
    assert info.physical(info.symbol("_stext")) == 0x800000


def test_address_outside_the_image_is_unreadable() -> None:
    info = parse(WHOLE)
    for address in (0, IMAGE - 1, IMAGE + (1 << 30), 1 << 64):
        with pytest.raises(Unreadable):
            info.physical(address)


def test_fingerprint_is_per_kernel_build() -> None:
    moved = {name: address + (32 << 20) for name, address in SYMBOLS.items()} | {"mem_section": 0xFFFF888000000000}
    rebooted = note("6.1.0", moved, 0x123000, "SIZE(page)=64", "OFFSET(page.flags)=0", "LENGTH(zone.free_area)=11")
    other = WHOLE.replace(b"SIZE(page)=64", b"SIZE(page)=56")
    assert parse(rebooted).fingerprint == parse(WHOLE).fingerprint != parse(other).fingerprint


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        MARK,
        b"x" + WHOLE,
        WHOLE.replace(b"phys_base", b"physical"),
        WHOLE.replace(b"_stext", b"_start"),
        WHOLE.replace(b"SYMBOL(_stext)=ffffffff80000000", b"SYMBOL(_stext)=7fff80000000"),
        WHOLE.replace(b"6.1.0", b"6 1 0"),
    ],
)
def test_foreign_vmcoreinfo_is_refused(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(raw)


@given(st.binary(max_size=PAGE_SIZE))
@example(WHOLE.removeprefix(MARK))
def test_arbitrary_vmcoreinfo_is_parsed_or_unreadable(raw: bytes) -> None:
    try:
        info = parse(MARK + raw)
    except Unreadable:
        assert MARK + raw != WHOLE
        return
    assert info.fingerprint


@given(st.integers(10, len(WHOLE) - 1), st.binary(min_size=1, max_size=24))
@example(10, b"")
def test_damaged_vmcoreinfo_is_parsed_or_unreadable(at: int, damage: bytes) -> None:
    try:
        info = parse(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    except Unreadable:
        assert damage
        return
    assert 0 <= info.mask < 1 << 52
    assert all(0 <= address < 1 << 64 for address in info.symbols.values())


def test_vmcoreinfo_of_the_running_kernel_is_used() -> None:
    guest = linux("6.1.0-test")
    live = guest.note_page * PAGE_SIZE
    stale, torn = guest.machine.page(), guest.machine.page()
    raw = bytes(guest.machine.bytes[live : live + PAGE_SIZE])
    guest.machine.put(stale, raw.replace(b"6.1.0-test", b"6.0.0-test"))
    guest.machine.put(torn, raw[:200])
    pages = [0, stale // PAGE_SIZE, torn // PAGE_SIZE, guest.note_page, 1 << 40, -1]
    assert [info.page for info in candidates(guest.machine.ram(), pages)] == [guest.note_page]
