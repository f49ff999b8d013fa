"""Collected labels of a guest's pages, which become PageOwners at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.page_owners import KIND, PageOwners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PageLabels"]

# Bytes. Kernels allow slightly larger files, which do not occur.
MAX_FILE_BYTES: Final = 1 << 62


class PageLabels:
    """The labels of a guest's pages found so far. The arrays are those of PageOwners."""

    def __init__(self, pages: int) -> None:
        self.kinds = np.zeros(pages, dtype=np.uint8)
        self.labels = np.full(pages, -1, dtype=np.int32)
        self.offsets = np.full(pages, -1, dtype=np.int64)
        self.modes = np.zeros(pages, dtype=np.uint16)
        self.processes: list[str] = []
        self._names: dict[str, int] = {}
        self._uses: list[NDArray[np.int64]] = []

    def label(self, name: str) -> int:
        """Return the number of a name."""
        return self._names.setdefault(name, len(self._names))

    def labels_of(self, names: Sequence[str | None]) -> NDArray[np.int32]:
        """Return the numbers of names, -1 for None."""
        return np.array([-1 if name is None else self.label(name) for name in names], dtype=np.int32)

    def set_kind(self, pages: NDArray[np.int64], kind: str, name: str | None) -> None:
        """Set the kind and label of these pages (negative numbers are ignored), even if they have one already."""
        pages = pages[pages >= 0]
        self.kinds[pages] = KIND[kind]
        self.labels[pages] = -1 if name is None else self.label(name)
        self.offsets[pages] = -1

    def set_kind_of_unknown(self, pages: NDArray[np.int64], kind: str, name: str | None) -> None:
        """Set the kind and label of those of these pages that are still unknown."""
        pages = pages[pages >= 0]
        self.set_kind(pages[self.kinds[pages] == 0], kind, name)

    def add_users(self, pages: NDArray[np.int64], processes: NDArray[np.int64]) -> None:
        """Add pairs of a page and its user, an index in `processes`; a pair may occur more than once."""
        if len(pages):
            self._uses.append(_distinct(pages * len(self.processes) + processes))

    def finish(self, kernel: str | None, missing: int, note: str | None) -> PageOwners:
        """Return the result. Do not add labels afterwards."""
        pairs = np.concatenate(self._uses) if self._uses else np.empty(0, dtype=np.int64)
        pairs = _distinct(pairs) if len(self._uses) > 1 else pairs
        named = max(len(self.processes), 1)
        used = np.unique(self.labels[self.labels >= 0]) if len(self._names) else np.empty(0, dtype=np.int32)
        # Names without pages are dropped, because a guest may have very many files.
        place = np.full(len(self._names) + 1, -1, dtype=np.int32)
        place[used] = np.arange(len(used), dtype=np.int32)
        names = list(self._names)
        return PageOwners(
            kinds=self.kinds,
            labels=place[self.labels],
            offsets=np.where((self.offsets >= 0) & (self.offsets < MAX_FILE_BYTES), self.offsets, -1),
            modes=self.modes,
            names=tuple(names[number] for number in used.tolist()),
            used_pages=(pairs // named).astype(np.int32),
            used_by=(pairs % named).astype(np.int32),
            processes=tuple(self.processes),
            kernel=kernel,
            missing=missing,
            note=note,
        )


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    keys = np.sort(keys)
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = keys[1:] != keys[:-1]
    return keys[new]
