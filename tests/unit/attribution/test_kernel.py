from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import GuestRam, Unreadable
from samepaged.attribution.linux.kernel import Kernel
from tests.unit.attribution.builders import Linux, linux

# Offset of the image in linux()'s RAM.
IMAGE_AT = 4 << 20


@pytest.mark.parametrize(
    "guest",
    [
        linux(),
        linux(levels=5),
        linux(slide=48 << 20),
        linux(encoding="relative"),
        linux(encoding="own place"),
        linux(named=False),
    ],
)
def test_kernel_opens_from_vmcoreinfo(guest: Linux) -> None:
    kernel = Kernel.open(guest.machine.ram(), [guest.note_page])
    assert kernel.info.release == "6.1.0-test"
    task = kernel.profile.symbol("init_task")
    assert task == guest.symbols["init_task"]
    assert kernel.read(task + kernel.profile.offset("task_struct.comm"), 9) == b"swapper/0"


def test_memory_without_linux_has_no_kernel() -> None:
    with pytest.raises(Unreadable):
        Kernel.open(GuestRam(np.zeros((16, 512), dtype=np.uint64), linux().machine.layout), [])
    guest = linux()
    with pytest.raises(Unreadable):
        Kernel.open(guest.machine.ram(), [0, 1, 2])


def test_note_with_wrong_page_tables_is_refused() -> None:
    guest = linux()
    guest.machine.word(guest.root + 8 * 511, 0)
    with pytest.raises(Unreadable, match="page tables"):
        Kernel.open(guest.machine.ram(), [guest.note_page])


def test_next_note_is_tried() -> None:
    guest = linux()
    false = guest.machine.page()
    at = guest.note_page * PAGE_SIZE
    note = bytes(guest.machine.bytes[at : at + PAGE_SIZE])
    guest.machine.put(false, note.replace(b"SYMBOL(swapper_pg_dir)", b"SYMBOL(swapper_pg_dix)"))
    broken = guest.machine.page()
    root = f"SYMBOL(swapper_pg_dir)={guest.symbols['swapper_pg_dir']:x}".encode()
    assert root in note
    moved = f"SYMBOL(swapper_pg_dir)={guest.symbols['init_task']:x}".encode()
    guest.machine.put(broken, note.replace(root, moved))
    kernel = Kernel.open(guest.machine.ram(), [false // PAGE_SIZE, broken // PAGE_SIZE, guest.note_page])
    assert kernel.info.page == guest.note_page


def test_profile_pages_are_outside_the_footprint() -> None:
    guest = linux()
    cold, warm = guest.machine.ram(), guest.machine.ram()
    kernel = Kernel.open(cold, [guest.note_page])
    again = Kernel.open(warm, [guest.note_page], kernel.profile)
    assert again.profile == kernel.profile
    assert np.array_equal(cold.touched, warm.touched)
    assert not warm.touched[(IMAGE_AT + 0x10000) // PAGE_SIZE]  # BTF


def test_profile_of_another_build_is_ignored() -> None:
    other, guest = linux("6.1.0-other"), linux()
    profile = Kernel.open(other.machine.ram(), [other.note_page]).profile
    kernel = Kernel.open(guest.machine.ram(), [guest.note_page], profile)
    assert kernel.profile.fingerprint == kernel.info.fingerprint != profile.fingerprint


GUEST = linux()
RAW = bytes(GUEST.machine.bytes)
# Offsets with data: the page tables, and the kernel image with its tables.
PLACES = [
    *(
        page * PAGE_SIZE + at
        for page in GUEST.machine.taken
        for at in range(0, PAGE_SIZE, 8)
        if any(RAW[page * PAGE_SIZE + at :][:8])
    ),
    *(at for at in range(IMAGE_AT, IMAGE_AT + (1 << 20)) if RAW[at]),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([0, 0xFF, None]))
@example(0, 0, None)
def test_damaged_guest_is_opened_or_unreadable(seed: int, times: int, value: int | None) -> None:
    draw = random.Random(seed)
    damaged = bytearray(RAW)
    for _ in range(times):
        damaged[draw.choice(PLACES) + draw.randrange(8)] = draw.randrange(256) if value is None else value
    ram = GuestRam(np.frombuffer(bytes(damaged), dtype=np.uint64).reshape(-1, 512), GUEST.machine.layout)
    try:
        kernel = Kernel.open(ram, [GUEST.note_page])
    except Unreadable:
        assert times
        return
    assert kernel.translate(np.array([kernel.profile.stext], dtype=np.uint64))[0] >= 0
