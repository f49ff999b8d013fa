"""Attribution of a guest's sharing: by kind of page, by process and by file, and its most copied pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.format import count_lines
from samepaged.attribution.involvement import count_involvement, shared_pages
from samepaged.attribution.page_owners import FILE_KINDS, KIND, KINDS, UNUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.involvement import SharedPages
    from samepaged.attribution.page_owners import PageOwners

__all__ = ["AttributionReport", "CopiedPage", "Owner", "report_attribution"]

MAX_COPIED_PAGES: Final = 20
# A content may have any number of different owners; the report names at most this many.
MAX_NAMED_OWNERS: Final = 16
# Kinds that the paper (Figure 11) combines: memory that programs allocate, and libraries with their changed pages.
COMBINED_KINDS: Final = (("heap", "anonymous"), ("library", "private_file"))


@dataclass(frozen=True, slots=True)
class Owner:
    """A kind, a process or a file: its pages, the self-sharing and inter-VM sharing that involve it (do not sum them
    over owners), and its part of both in the split, which adds up; all in pages.
    """

    name: str
    pages: int
    self_sharing_pages: int
    inter_sharing_pages: int
    split_pages: float

    @property
    def sharing_pages(self) -> int:
        """Self-sharing and inter-VM sharing together."""
        return self.self_sharing_pages + self.inter_sharing_pages


@dataclass(frozen=True, slots=True)
class CopiedPage:
    """One content: the number of its copies in the guest, whether another guest has it, and its owners. `owners` are
    lines in the paper's format (section 5.1), the most frequent first. `owner_pages` is the number of copies of each
    owner (in a sample, if there are very many copies). `more_owners` counts the owners that are not listed.
    """

    copies: int
    shared_with_others: bool
    owners: tuple[str, ...]
    more_owners: int = 0
    owner_pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributionReport:
    """Attribution of one guest's sharing. `kinds`, `processes` and `files` have the most involved first; `processes`
    and `files` are None if the report has kinds only. `combined_kinds` combines some kinds, because involvements do
    not add up; its names join theirs with "+". `in_use_pages` are neither free nor absent.
    `in_use_self_sharing_pages` is the self-sharing of these pages alone, which remains when the guest uses its free
    memory. `note` is the reason for an incomplete attribution.
    """

    domain: str
    kernel: str | None
    memory_pages: int
    in_use_pages: int
    labelled_ratio: float
    self_sharing_pages: int
    inter_sharing_pages: int
    kinds: tuple[Owner, ...]
    processes: tuple[Owner, ...] | None
    files: tuple[Owner, ...] | None
    most_copied: tuple[CopiedPage, ...]
    missing_pages: int = 0
    note: str | None = None
    combined_kinds: tuple[Owner, ...] = ()
    in_use_self_sharing_pages: int = 0

    @property
    def sharing_pages(self) -> int:
        """Self-sharing and inter-VM sharing together."""
        return self.self_sharing_pages + self.inter_sharing_pages

    def truncated(self, max_owners: int) -> AttributionReport:
        """Return a copy with only the first `max_owners` processes and files, to keep while the guest runs."""
        processes, files = (None if owners is None else owners[:max_owners] for owners in (self.processes, self.files))
        return replace(self, processes=processes, files=files)

    def without_names(self) -> AttributionReport:
        """Return a copy without any names from the guest."""
        return replace(self, processes=None, files=None, most_copied=())


def report_attribution(
    domain: str,
    ownership: PageOwners,
    digest: NDArray[np.uint64],
    shared_with_others: NDArray[np.bool_],
    *,
    names: bool,
) -> AttributionReport:
    """Join the owners of pages with their contents.

    `digest` is as in PageDigest (pages of 4 KiB) and in the order of `ownership`. `shared_with_others` marks the
    contents that other guests of its group have, in ascending order of the guest's hashes. Without `names`, the report
    contains neither process names nor paths.
    """
    if len(digest) != len(ownership.kinds):
        raise ValueError(f"{len(ownership.kinds)} pages have owners, and {len(digest)} pages have hashes")
    shared = shared_pages(digest, shared_with_others)
    return AttributionReport(
        domain=domain,
        kernel=ownership.kernel,
        memory_pages=len(digest),
        in_use_pages=ownership.in_use_pages,
        labelled_ratio=ownership.labelled_ratio,
        self_sharing_pages=shared.self_sharing_pages,
        inter_sharing_pages=shared.inter_sharing_pages,
        kinds=_kinds(ownership, shared),
        processes=_processes(ownership, shared) if names else None,
        files=_files(ownership, shared) if names else None,
        most_copied=_most_copied(ownership, shared, names=names),
        missing_pages=ownership.missing,
        note=ownership.note,
        combined_kinds=tuple(_together(ownership, shared, kinds) for kinds in COMBINED_KINDS),
        in_use_self_sharing_pages=_in_use(ownership, shared),
    )


def _together(ownership: PageOwners, shared: SharedPages, kinds: tuple[str, ...]) -> Owner:
    """Return some kinds as one owner."""
    belongs = np.isin(ownership.kinds, [KIND[kind] for kind in kinds])
    row = np.flatnonzero(belongs[shared.pages])
    found = count_involvement(shared, row, np.zeros_like(row), 1, np.ones(len(shared.pages), dtype=np.int64))
    return Owner(
        "+".join(kinds),
        int(np.count_nonzero(belongs)),
        int(found.self_sharing[0]),
        int(found.inter_sharing[0]),
        round(float(found.split[0]), 3),
    )


def _in_use(ownership: PageOwners, shared: SharedPages) -> int:
    """Return the self-sharing of the pages in use alone."""
    used = ~np.isin(ownership.kinds[shared.pages], [KIND[kind] for kind in UNUSED])
    copies = np.bincount(shared.content_of_page[used], minlength=len(shared.copies))
    return int(np.maximum(copies - 1, 0).sum())


def _kinds(ownership: PageOwners, shared: SharedPages) -> tuple[Owner, ...]:
    row = np.arange(len(shared.pages))
    kinds = ownership.kinds[shared.pages].astype(np.int64)
    counts = np.bincount(ownership.kinds, minlength=len(KINDS))
    return _owners(KINDS, counts, shared, row, kinds, np.ones(len(row), dtype=np.int64))


def _processes(ownership: PageOwners, shared: SharedPages) -> tuple[Owner, ...]:
    counts = np.bincount(ownership.used_by, minlength=len(ownership.processes))
    # The users of the shared pages: each page's range in `used_pages`, which is ascending.
    first = np.searchsorted(ownership.used_pages, shared.pages, side="left")
    last = np.searchsorted(ownership.used_pages, shared.pages, side="right")
    users = last - first
    row = np.repeat(np.arange(len(shared.pages)), users)
    within = np.arange(len(row)) - np.repeat(np.cumsum(users) - users, users)
    owner = ownership.used_by[np.repeat(first, users) + within].astype(np.int64)
    return _owners(ownership.processes, counts, shared, row, owner, users)


def _files(ownership: PageOwners, shared: SharedPages) -> tuple[Owner, ...]:
    is_file = np.isin(ownership.kinds, [KIND[kind] for kind in FILE_KINDS]) & (ownership.labels >= 0)
    counts = np.bincount(ownership.labels[is_file], minlength=len(ownership.names))
    row = np.flatnonzero(is_file[shared.pages])
    owner = ownership.labels[shared.pages[row]].astype(np.int64)
    return _owners(ownership.names, counts, shared, row, owner, np.ones(len(shared.pages), dtype=np.int64))


def _owners(
    names: Sequence[str],
    counts: NDArray[np.int64],
    shared: SharedPages,
    row: NDArray[np.int64],
    owner: NDArray[np.int64],
    parts: NDArray[np.int64],
) -> tuple[Owner, ...]:
    """Return the owners with at least one page, the most involved first."""
    found = count_involvement(shared, row, owner, len(names), parts)
    owners = [
        Owner(
            names[at],
            int(counts[at]),
            int(found.self_sharing[at]),
            int(found.inter_sharing[at]),
            round(float(found.split[at]), 3),
        )
        for at in np.flatnonzero(counts).tolist()
    ]
    return tuple(sorted(owners, key=lambda one: (-one.sharing_pages, -one.pages, one.name)))


def _most_copied(ownership: PageOwners, shared: SharedPages, *, names: bool) -> tuple[CopiedPage, ...]:
    # Ties are ordered by hash, so that the same scan gives the same report.
    order = np.lexsort((shared.hashes, -shared.copies))[:MAX_COPIED_PAGES]
    ends = np.cumsum(shared.copies)
    found = []
    for at in order.tolist():
        if shared.copies[at] < 2:  # noqa: PLR2004 - a single page is not a copy
            break
        pages = shared.pages[ends[at] - shared.copies[at] : ends[at]]
        counted = count_lines(ownership, pages, names=names)
        owners = tuple(counted)[:MAX_NAMED_OWNERS]
        per_owner = tuple(counted.values())[:MAX_NAMED_OWNERS]
        found.append(
            CopiedPage(len(pages), bool(shared.shared_with_others[at]), owners, len(counted) - len(owners), per_owner)
        )
    return tuple(found)
