"""Whose the sharing of a guest is: by kind of page, by process and by file, and its most copied pages."""

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
# Of a content with very many different owners, so many are named.
MAX_NAMED_OWNERS: Final = 16
# Kinds that the paper (Figure 11) takes for one: what programs allocate, and libraries with what was changed in them.
COMBINED_KINDS: Final = (("heap", "anonymous"), ("library", "private_file"))


@dataclass(frozen=True, slots=True)
class Owner:
    """A kind, a process or a file: how many pages it has, how much self-sharing and inter-VM sharing involves it
    (which does not add up over owners), and its part of both in the split that does; all in pages.
    """

    name: str
    pages: int
    self_sharing_pages: int
    inter_sharing_pages: int
    split_pages: float

    @property
    def sharing_pages(self) -> int:
        """Of both kinds of sharing."""
        return self.self_sharing_pages + self.inter_sharing_pages


@dataclass(frozen=True, slots=True)
class CopiedPage:
    """One content, how many copies of it the guest has, whether another guest has it, and whose they are: lines in the
    seed's format (section 5.1), the most frequent first, each with how many of the copies are its in `owner_pages` (of
    very many copies, of a sample of them). `more_owners` are not named.
    """

    copies: int
    shared_with_others: bool
    owners: tuple[str, ...]
    more_owners: int = 0
    owner_pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributionReport:
    """Where one guest's sharing comes from. `kinds`, `processes` and `files` have the most involved first; `processes`
    and `files` are None where names are kept back. `combined_kinds` has some kinds as one, whose involvement cannot be
    had from theirs, under their names with a + between. `in_use_pages` are neither free nor absent, and
    `in_use_self_sharing_pages` is the self-sharing of these alone: what is left of it when the guest comes to use its
    free memory. `note` says why less is known than could be.
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
        """Of both kinds."""
        return self.self_sharing_pages + self.inter_sharing_pages

    def truncated(self, max_owners: int) -> AttributionReport:
        """With only the first `max_owners` processes and files, as it is kept while the guest runs."""
        processes, files = (None if owners is None else owners[:max_owners] for owners in (self.processes, self.files))
        return replace(self, processes=processes, files=files)

    def without_names(self) -> AttributionReport:
        """Without all that has names in it that the guest gave."""
        return replace(self, processes=None, files=None, most_copied=())


def report_attribution(
    domain: str,
    ownership: PageOwners,
    digest: NDArray[np.uint64],
    shared_with_others: NDArray[np.bool_],
    *,
    names: bool,
) -> AttributionReport:
    """Join whose the pages are with what they hold.

    `digest` is as in PageDigest (pages of 4 KiB) and in the order of `ownership`; `shared_with_others` tells of the
    guest's contents, in ascending order of their hashes, which other guests of its group have, too. Without `names`
    nothing that the guest calls its own is in the answers: no process, no path.
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
    """Some kinds as one owner."""
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
    """The self-sharing of the pages in use alone."""
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
    # The uses of the shared pages: each page's stretch of `used_pages`, which ascends.
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
    """Those that have any pages, the most involved first."""
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
    # By hash where two have as many copies: the same scan gives the same answer.
    order = np.lexsort((shared.hashes, -shared.copies))[:MAX_COPIED_PAGES]
    ends = np.cumsum(shared.copies)
    found = []
    for at in order.tolist():
        if shared.copies[at] < 2:  # noqa: PLR2004 - one page is no copy of another
            break
        pages = shared.pages[ends[at] - shared.copies[at] : ends[at]]
        counted = count_lines(ownership, pages, names=names)
        owners = tuple(counted)[:MAX_NAMED_OWNERS]
        per_owner = tuple(counted.values())[:MAX_NAMED_OWNERS]
        found.append(
            CopiedPage(len(pages), bool(shared.shared_with_others[at]), owners, len(counted) - len(owners), per_owner)
        )
    return tuple(found)
