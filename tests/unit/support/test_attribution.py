"""The comparison of what samepaged says of a guest's pages with what the guest says: it must see what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.attribution.page_owners import KIND, PageOwners
from samepaged.attribution.ram_map import RamMap, RamRegion
from tests.support.attribution.image import compare
from tests.support.attribution.truth import FileRow, Row, truth

if TYPE_CHECKING:
    from tests.support.attribution.truth import Truth

# Number, kind, label, offset, modes and users, by spaces.
Said = tuple[int, str, str, int, str, str]

PAGE = 4096
GIB = 1 << 30
# Twenty pages, of which four lie above the hole below 4 GiB.
LAYOUT = RamMap((RamRegion(0, 16 * PAGE), RamRegion(4 * GIB, 4 * PAGE)))
HIGH = 4 * GIB // PAGE
LIBRARY = "/usr/lib/libc.so.6"
SLAB, BUDDY, TABLES, ANONYMOUS, ZERO = (1 << bit for bit in (7, 10, 26, 12, 24))


def mapping(path: str, mode: str, *runs: list[int], **more: Any) -> dict[str, Any]:
    line = {"pid": 7, "comm": "bash", "start": 0x10000, "end": 0x90000, "offset": 0, "device": "00:02"} | more
    return {"type": "mapping", "path": path, "mode": mode, "runs": list(runs), **line}


def told(*lines: dict[str, Any], faults: int = 0, flags: tuple[list[int], ...] = ()) -> Truth:
    mounts = ["20 1 0:2 / / rw - rootfs none rw", "21 1 0:26 / /run rw - tmpfs none rw"]
    every = (
        {"type": "text", "path": "/proc/sys/kernel/osrelease", "lines": ["6.1.0"]},
        {"type": "text", "path": "/proc/self/mountinfo", "lines": mounts},
        {"type": "process", "pid": 7, "faults": faults},
        *lines,
        {"type": "flags", "runs": [*flags]},
    )
    return truth([json.dumps(line) for line in every], LAYOUT)


WHAT = (
    mapping(LIBRARY, "r-xp", [2, 3, 2, 1], offset=0x8000),
    mapping(LIBRARY, "rw-p", [0, 5, 1, 0], offset=0x20000, start=0x30000),
    mapping("[heap]", "rw-p", [0, HIGH, 2, 0], start=0x50000),
    mapping("/run/x y", "rw-s", [0, 6, 1, 1], device="00:1a"),
    mapping("/bin/bash", "r--p", [0, 7, 1, 1]),
    mapping("/bin/bash", "r-xp", start=0x70000),
    mapping("/etc/data", "r--s", [1, 8, 1, 1], comm="cat", pid=8),
    {"type": "file", "path": "/var/log/all", "runs": [[4, 9, 1, 1]]},
)
FLAGS = ([10, 2, SLAB], [12, 1, BUDDY], [13, 1, TABLES], [14, 1, ZERO], [15, 1, ANONYMOUS])
TRUTH = told(*WHAT, flags=FLAGS)


def said(*pages: Said) -> PageOwners:
    """What is true of TRUTH, but for these pages."""
    right: list[Said] = [
        (3, "library", LIBRARY, 0xA000, "r-xp", "bash"),
        (4, "library", LIBRARY, 0xB000, "r-xp", "bash"),
        (5, "private_file", LIBRARY, 0x20000, "rw-p", "bash"),
        (6, "shmem", "/run/x y", 0, "rw-s", "bash"),
        (7, "executable", "/bin/bash", 0, "r--p", "bash"),
        (8, "mapped_file", "/etc/data", 0x1000, "r--s", "cat"),
        (9, "page_cache", "/var/log/all", 0x4000, "", ""),
        (10, "slab", "slab dentry", -1, "", ""),
        (11, "slab", "slab dentry", -1, "", ""),
        (12, "free", "free", -1, "", ""),
        (13, "page_table", "page tables", -1, "", "bash"),
        (14, "kernel_data", "zeros", -1, "rw-p", "bash"),
        (15, "anonymous", "anon", -1, "", ""),
        (16, "heap", "heap", -1, "rw-p", "bash"),
        (17, "heap", "heap", -1, "rw-p", "bash"),
    ]
    rows = {row[0]: row for row in (*right, *pages)}
    found = PageOwners.unknown(LAYOUT.pages, "")
    names = sorted({label for _, _, label, *_ in rows.values()})
    processes = ("bash", "cat", "zsh")
    uses = sorted((number, processes.index(user)) for number, *_, users in rows.values() for user in users.split())
    for number, kind, label, offset, modes, _ in rows.values():
        found.kinds[number], found.labels[number], found.offsets[number] = KIND[kind], names.index(label), offset
        masks = (sum(1 << bit for bit, letter in enumerate("rwxs") if letter in mode) for mode in modes.split())
        found.modes[number] = sum(1 << mask for mask in masks)
    pages_, by = (np.array([use[k] for use in uses], dtype=np.int32) for k in (0, 1))
    return replace(found, names=tuple(names), processes=processes, used_pages=pages_, used_by=by)


def test_a_telling_is_read_as_rows_of_ram_pages() -> None:
    assert Row("bash", 7, 0x51000, 17, "heap", "heap", -1, "rw-p") in TRUTH.rows
    assert Row("bash", 7, 0x12000, 3, "library", LIBRARY, 0xA000, "r-xp") in TRUTH.rows
    assert Row("bash", 7, 0x10000, 6, "shmem", "/run/x y", 0, "rw-s") in TRUTH.rows
    assert TRUTH.files == {FileRow(9, "/var/log/all", 0x4000)}
    assert TRUTH.release == "6.1.0"
    assert np.flatnonzero(TRUTH.zero).tolist() == [14]


def test_what_is_not_ram_is_in_no_row() -> None:
    assert not told(mapping("/dev/fb0", "rw-s", [0, 500, 4, 1])).rows


def test_what_is_true_is_right() -> None:
    found = compare(said(), TRUTH, TRUTH)
    assert (found.wrong, found.explained) == (0, 0), str(found)
    assert (found.rows, found.files, found.flags) == (8, 1, 4)


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param((3, "executable", LIBRARY, 0xA000, "r-xp", "bash"), id="another kind"),
        pytest.param((3, "library", "/usr/lib/libm.so.6", 0xA000, "r-xp", "bash"), id="another path"),
        pytest.param((3, "library", LIBRARY, 0xB000, "r-xp", "bash"), id="another offset"),
        pytest.param((3, "library", LIBRARY, 0xA000, "r--p", "bash"), id="another permission"),
        pytest.param((3, "library", LIBRARY, 0xA000, "r-xp rw-p", "bash"), id="one permission more"),
        pytest.param((3, "library", LIBRARY, 0xA000, "r-xp", ""), id="nobody"),
        pytest.param((3, "library", LIBRARY, 0xA000, "r-xp", "cat"), id="another process"),
        pytest.param((3, "library", LIBRARY, 0xA000, "r-xp", "bash cat"), id="one process more"),
        pytest.param((16, "anonymous", "anon", -1, "rw-p", "bash"), id="no heap"),
        pytest.param((9, "page_cache", "/var/log/all", 0, "", ""), id="another page of a file that nobody maps"),
        pytest.param((9, "mapped_file", "/var/log/all", 0x4000, "", ""), id="mapped, which it is not"),
        pytest.param((10, "kernel_other", "kernel", -1, "", ""), id="no slab"),
        pytest.param((12, "slab", "slab dentry", -1, "", ""), id="a slab that is free"),
        pytest.param((13, "kernel_other", "kernel", -1, "", ""), id="no page table"),
        pytest.param((13, "page_table", "page tables", -1, "", "zsh"), id="a page table of a process that is not"),
        pytest.param((1, "anonymous", "anon", -1, "", ""), id="somebody's memory that nobody has"),
        pytest.param((1, "slab", "slab dentry", -1, "", ""), id="a slab that is none"),
        pytest.param((1, "reserved", "reserved", -1, "", "bash"), id="a process where none is"),
    ],
)
def test_what_is_not_true_is_wrong(lie: Said) -> None:
    found = compare(said(lie), TRUTH, TRUTH)
    assert found.wrong > 0
    assert f"page {lie[0]} is" in str(found)


def test_what_only_one_telling_says_may_be_so_or_not() -> None:
    before = told(*WHAT, mapping("", "rw-p", [0, 1, 1, 0]), flags=FLAGS)
    for anonymous in ((), ((1, "anonymous", "anon", -1, "rw-p", "bash"),)):
        assert compare(said(*anonymous), before, TRUTH).wrong == 0
        assert compare(said(*anonymous), before, before).wrong == (0 if anonymous else 1)


def test_what_both_tellings_say_can_only_be_otherwise_at_the_cost_of_a_page_fault_each() -> None:
    lies = [(page, "free", "free", -1, "", "") for page in (16, 17)]
    for faults, wrong in ((0, 2), (1, 1), (2, 0)):
        after = told(*WHAT, faults=faults, flags=FLAGS)
        found = compare(said(*lies), TRUTH, after)
        assert (len(found.wrong_rows), found.explained) == (wrong, 2 - wrong)


def test_of_processes_that_come_and_go_more_may_be_said_than_is_told() -> None:
    new = (1, "anonymous", "anon", -1, "rw-p", "zsh")
    assert compare(said(new), TRUTH, TRUTH).wrong == 1
    assert compare(said(new), TRUTH, TRUTH, ["zsh"]).wrong == 0
    assert compare(said((2, "anonymous", "anon", -1, "rw-p", "cat")), TRUTH, TRUTH, ["zsh"]).wrong == 1


def test_memory_that_the_host_never_backed_may_be_free_and_nothing_else() -> None:
    assert compare(said((12, "absent", "", -1, "", "")), TRUTH, TRUTH).wrong == 0
    assert compare(said((10, "absent", "", -1, "", "")), TRUTH, TRUTH).wrong == 1
