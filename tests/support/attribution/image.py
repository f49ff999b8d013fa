"""Comparison of the page owners that samepaged finds with the guest's own report."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.page_owners import FILE_KINDS, KIND, KINDS, permissions

if TYPE_CHECKING:
    from collections.abc import Collection

    from samepaged.attribution.page_owners import PageOwners
    from tests.support.attribution.truth import Truth

__all__ = ["Comparison", "compare"]

# Kinds of pages that processes map.
MAPPED: Final = ("stack", "heap", "anonymous", "private_file", "library", "executable", "mapped_file")
# File pages that the kernel maps at one page fault (mm/memory.c: fault_around_bytes).
AROUND: Final = 16
EXAMPLES: Final = 12


@dataclass
class Comparison:
    """`rows`: pairs of a page and one of its mappings; `files`: pages of the page cache; `flags`: pages that are surely
    slab, free or page table. `extra`: owners that the guest did not report. `explained`: differences due to changes
    between the two reports. Lists are of lines, one for each difference.
    """

    rows: int = 0
    files: int = 0
    flags: int = 0
    explained: int = 0
    wrong_rows: list[str] = field(default_factory=list)
    wrong_files: list[str] = field(default_factory=list)
    wrong_flags: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """The number of unexplained differences."""
        return len(self.wrong_rows) + len(self.wrong_files) + len(self.wrong_flags) + len(self.extra)

    def __str__(self) -> str:
        checked = f"{self.rows} rows, {self.files} pages of files, {self.flags} of the kernel's"
        lines = [f"{checked}: {self.wrong} wrong, {self.explained} explained"]
        for name in ("wrong_rows", "wrong_files", "wrong_flags", "extra"):
            found: list[str] = getattr(self, name)
            lines += [f"{name}: {len(found)}"] * bool(found) + [f"  {line}" for line in found[:EXAMPLES]]
        return "\n".join(lines)


def compare(owners: PageOwners, before: Truth, after: Truth, restless: Collection[str] = ()) -> Comparison:
    """Compare owners at an instant with the guest's reports before and after it. Owners must match facts in both
    reports, unless the process removed and restored the mapping, which takes a page fault. Facts in only one report are
    optional. Processes named in `restless` come and go, so they may have owners that the guest did not report.
    """
    check = _Check(owners, before, after, frozenset(restless))
    check.rows()
    check.cached()
    check.flagged()
    check.extra()
    return check.found


class _Check:
    """State of one comparison; the page owners as plain lists and sets."""

    def __init__(self, owners: PageOwners, before: Truth, after: Truth, restless: frozenset[str]) -> None:
        self.found = Comparison()
        self.owners, self.before, self.after, self.restless = owners, before, after, restless
        self.users: dict[int, set[str]] = defaultdict(set)
        for page, process in zip(owners.used_pages.tolist(), owners.used_by.tolist(), strict=True):
            self.users[page].add(owners.processes[process])
        self.told = before.rows | after.rows
        self.rows_of: dict[int, set[tuple[str, str, int]]] = defaultdict(set)
        for row in self.told:
            self.rows_of[row.page].add((row.kind, row.label, row.offset))

    def modes(self, page: int) -> set[str]:
        mask = int(self.owners.modes[page])
        return {permissions(bit) for bit in range(16) if mask >> bit & 1}

    def what(self, page: int) -> tuple[str, str, int]:
        kind, label = KINDS[self.owners.kinds[page]], int(self.owners.labels[page])
        offset = int(self.owners.offsets[page]) if kind in FILE_KINDS else -1
        return kind, "" if label < 0 else self.owners.names[label], offset

    def said(self, page: int) -> str:
        kind, label, offset = self.what(page)
        modes, users = ",".join(sorted(self.modes(page))), ",".join(sorted(self.users[page]))
        return f"page {page} is {kind} {label!r} {offset:#x} {modes} of {users}"

    def rows(self) -> None:
        """Check every mapping of a page by a process."""
        settled = self.before.rows & self.after.rows
        # For each process, the number of rows that may have disappeared and come back.
        faults = {pid: float(count - self.before.faults.get(pid, 0)) for pid, count in self.after.faults.items()}
        self.found.rows = len(self.told)
        for row in sorted(self.told):
            if (
                self.what(row.page) in self.rows_of[row.page]
                and row.mode in self.modes(row.page)
                and row.process in self.users[row.page]
            ):
                continue
            if row not in settled:
                self.found.explained += 1
            elif faults.get(row.pid, 0) > 0:
                faults[row.pid] -= 1 / AROUND if row.kind in FILE_KINDS else 1
                self.found.explained += 1
            else:
                self.found.wrong_rows.append(f"{self.said(row.page)}; told: {tuple(row)}")

    def cached(self) -> None:
        """Check pages of files, mapped or not."""
        settled = self.before.files & self.after.files
        self.found.files = len(settled)
        for row in sorted(settled):
            kinds = FILE_KINDS - {"private_file"} if row.page in self.rows_of else {"page_cache", "shmem"}
            kind, *where = self.what(row.page)
            if kind in kinds and tuple(where) == row[1:]:
                continue
            if self.restless & self.users[row.page]:
                self.found.explained += 1
            else:
                self.found.wrong_files.append(f"{self.said(row.page)}; told: {tuple(row)}")

    def flagged(self) -> None:
        """Check pages with a kind in the kernel's page flags."""
        settled = (self.before.flags == self.after.flags) & (self.before.flags > 0)
        # Only the guest can report never-backed pages as free.
        settled &= (self.owners.kinds != KIND["absent"]) | (self.before.flags != KIND["free"])
        self.found.flags = int(np.count_nonzero(settled))
        for page in np.flatnonzero(settled & (self.before.flags != self.owners.kinds)).tolist():
            # The report itself allocates slab pages and frees them, the same ones both times.
            if self.restless or self.owners.kinds[page] == KIND["free"]:
                self.found.explained += 1
            else:
                self.found.wrong_flags.append(f"{self.said(page)}; told: {KINDS[self.before.flags[page]]}")

    def extra(self) -> None:
        """Check for owners that the guest did not report."""
        users, modes = defaultdict(set), defaultdict(set)
        for row in self.told:
            users[row.page].add(row.process)
            modes[row.page].add(row.mode)
        processes = {row.process for row in self.told}
        kinds, slab = self.owners.kinds, KIND["slab"]
        mapped = np.isin(kinds, [KIND[kind] for kind in MAPPED])
        # A page split off a huge page and no longer mapped is still anonymous.
        mapped &= ~((kinds == KIND["anonymous"]) & (self.before.anonymous | self.after.anonymous))
        mapped[list(self.rows_of)] = False
        # The kernel flags all pages of slabs, and only these.
        slabs = (kinds == slab) & (self.before.flags != slab) & (self.after.flags != slab)
        suspects = mapped | slabs | (self.owners.modes > 0)
        suspects[self.owners.used_pages] = True
        for page in np.flatnonzero(suspects & ~(self.before.zero | self.after.zero)).tolist():
            kind, label, _ = self.what(page)
            # A page table belongs to its process, but the guest does not report it.
            surplus = self.users[page] - (processes if kind == "page_table" else users[page])
            odd = mapped[page] or slabs[page] or surplus or self.modes(page) - modes[page]
            # pagemap omits the data page of the vdso.
            if not odd or (kind, label) == ("special", "vvar"):
                continue
            if self.restless & self.users[page] or self._changing(page):
                self.found.explained += 1
            else:
                self.found.extra.append(f"{self.said(page)}; told: {sorted(self.rows_of.get(page, ()))}")

    def _changing(self, page: int) -> bool:
        """Whether the page changed its use, or lost its user, such as a page of a process that exits."""
        ends = self.owners.kinds[page] == KIND["anonymous"] and not self.users[page]
        return bool(self.restless) and bool(ends or self.before.flags[page] != self.after.flags[page])
