"""A guest's own report of its pages (guest_owners.c): a row for each page and each of its mappings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from samepaged.attribution.page_owners import KIND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from samepaged.attribution.ram_map import RamMap

__all__ = ["FLAG_KINDS", "FileRow", "Row", "Truth", "truth"]

PAGE: Final = 4096
# include/uapi/linux/kernel-page-flags.h: flags that alone determine a page's kind.
FLAG_KINDS: Final = {7: "slab", 10: "free", 26: "page_table"}
ANONYMOUS: Final = 12
ZERO_PAGE: Final = 24
# Shared memory without a path.
UNSEEN: Final = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/drm mm object", "/i915")
LIBRARY: Final = re.compile(r"\.so(\.[^/]*)?$")
PHRASES: Final = {"[heap]": ("heap", "heap"), "[stack]": ("stack", "stack"), "[vdso]": ("special", "vdso")}


class Row(NamedTuple):
    """A page and one of its mappings, at `address`; `label` and `offset` as in PageOwners."""

    process: str
    pid: int
    address: int
    page: int
    kind: str
    label: str
    offset: int
    mode: str


class FileRow(NamedTuple):
    """A page of the page cache, mapped or not."""

    page: int
    label: str
    offset: int


@dataclass(frozen=True, eq=False)
class Truth:
    """One report. `faults`: page faults of each process so far, by its ID. `flags` (uint8, (pages,)): the kind from the
    page flags, "unknown" without one. `anonymous` (bool, (pages,)): anonymous memory of a process, mapped or (remains
    of a huge page) no longer mapped. `zero` (bool, (pages,)): shared zero pages.
    """

    rows: frozenset[Row]
    files: frozenset[FileRow]
    faults: dict[int, int]
    flags: NDArray[np.uint8]
    anonymous: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    release: str


def truth(lines: Iterable[str | bytes], layout: RamMap) -> Truth:
    """Parse a report, in RAM pages; other memory is omitted."""
    told = [json.loads(line) for line in lines]
    texts = {one["path"]: one["lines"] for one in told if one["type"] == "text"}
    tmpfs = {line.split()[2] for line in texts["/proc/self/mountinfo"] if _is_tmpfs(line)}
    runs = [run for one in told if one["type"] == "flags" for run in one["runs"]]
    zero = _flagged(runs, ZERO_PAGE, layout)
    flags = np.zeros(layout.pages, dtype=np.uint8)
    for bit, kind in FLAG_KINDS.items():
        flags[_flagged(runs, bit, layout)] = KIND[kind]
    mappings = [one for one in told if one["type"] == "mapping"]
    executed = {one["path"] for one in mappings if "x" in one["mode"]}
    rows = [row for one in mappings for row in _rows(one, layout, tmpfs)]
    return Truth(
        rows=frozenset(_executable(row, executed) for row in rows if not zero[row.page]),
        files=frozenset(row for one in told if one["type"] == "file" for row in _cached(one, layout)),
        faults={one["pid"]: one["faults"] for one in told if one["type"] == "process"},
        flags=flags,
        anonymous=_flagged(runs, ANONYMOUS, layout),
        zero=zero,
        release=texts["/proc/sys/kernel/osrelease"][0],
    )


def _is_tmpfs(line: str) -> bool:
    return line.partition(" - ")[2].split(" ")[0].removeprefix("dev") == "tmpfs"


def _device(numbers: str) -> str:
    """Convert the hexadecimal device of a line of maps to the format of mountinfo."""
    return ":".join(str(int(number, 16)) for number in numbers.split(":"))


def _pages(first: int, count: int, layout: RamMap) -> NDArray[np.int64]:
    return layout.page_of(np.arange(first, first + count, dtype=np.int64) * PAGE)


def _rows(mapping: dict[str, Any], layout: RamMap, tmpfs: set[str]) -> Iterable[Row]:
    """Yield the rows of one line of /proc/PID/maps."""
    who, path, start = (mapping["comm"], mapping["pid"]), mapping["path"], mapping["start"]
    for index, frame, count, shared in mapping["runs"]:
        kind, label, offset = _what(path, on_tmpfs=_device(mapping["device"]) in tmpfs, shared=bool(shared))
        for k, page in enumerate(_pages(frame, count, layout).tolist(), start=index):
            if page >= 0:
                at = mapping["offset"] + k * PAGE if offset else -1
                yield Row(*who, start + k * PAGE, page, kind, label, at, mapping["mode"])


def _what(path: str, *, on_tmpfs: bool, shared: bool) -> tuple[str, str, bool]:
    """Return the kind and the label of a mapping's pages, and whether they have an offset."""
    if path in PHRASES:
        return (*PHRASES[path], False)
    if not path.startswith(("/", "anon_inode:")):
        return "anonymous", "anon", False
    if not shared:
        return "private_file", path, True
    if on_tmpfs or path.startswith(UNSEEN):
        return "shmem", path, True
    # The kind of other files depends on all mappings of the file.
    return "library" if LIBRARY.search(path.removesuffix(" (deleted)")) else "mapped_file", path, True


def _executable(row: Row, executed: set[str]) -> Row:
    return row._replace(kind="executable") if row.kind == "mapped_file" and row.label in executed else row


def _cached(file: dict[str, Any], layout: RamMap) -> Iterable[FileRow]:
    for index, frame, count, _ in file["runs"]:
        for k, page in enumerate(_pages(frame, count, layout).tolist(), start=index):
            if page >= 0:
                yield FileRow(page, file["path"], k * PAGE)


def _flagged(runs: list[list[int]], bit: int, layout: RamMap) -> NDArray[np.bool_]:
    """Return a mask of the RAM pages with this flag."""
    found = np.zeros(layout.pages, dtype=np.bool_)
    for first, count, flags in runs:
        if flags >> bit & 1:
            pages = _pages(first, count, layout)
            found[pages[pages >= 0]] = True
    return found
