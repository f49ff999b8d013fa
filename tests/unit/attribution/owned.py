"""Guests of a few pages with given owners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samepaged.attribution.page_owners import KIND, PageOwners


@dataclass(frozen=True)
class Page:
    """One page: content hash, kind, label, offset, permissions of its mappings, users."""

    content: int
    kind: str
    label: str | None = None
    offset: int = -1
    modes: tuple[int, ...] = ()
    users: tuple[str, ...] = ()


def ownership(*pages: Page, kernel: str | None = "6.1.0", note: str | None = None) -> PageOwners:
    names = sorted({page.label for page in pages if page.label is not None})
    processes = sorted({user for page in pages for user in page.users})
    uses = [(at, processes.index(user)) for at, page in enumerate(pages) for user in sorted(set(page.users))]
    return PageOwners(
        kinds=np.array([KIND[page.kind] for page in pages], dtype=np.uint8),
        labels=np.array([-1 if page.label is None else names.index(page.label) for page in pages], dtype=np.int32),
        offsets=np.array([page.offset for page in pages], dtype=np.int64),
        modes=np.array([sum(1 << mode for mode in set(page.modes)) for page in pages], dtype=np.uint16),
        names=tuple(names),
        used_pages=np.array([page for page, _ in uses], dtype=np.int32),
        used_by=np.array([by for _, by in uses], dtype=np.int32),
        processes=tuple(processes),
        kernel=kernel,
        note=note,
    )


def digest(*pages: Page) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([page.content for page in pages], dtype=np.uint64)
