"""Page owners as lines in the format of section 5.1 of Barker et al. (USENIX ATC 2012):

[libc-2.12.so 000b6000 r-xp]: sshd apache2
[heap]: mysqld
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.page_owners import FILE_KINDS, KINDS, permissions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.page_owners import PageOwners

__all__ = ["count_lines", "page_line"]

MODES: Final = 16
# A content may have millions of copies; a sample of them is enough.
MAX_SAMPLED_PAGES: Final = 4096
MAX_LISTED_OFFSETS: Final = 4
# Any number of processes may use a page; a line names at most this many.
MAX_NAMED_USERS: Final = 32


def page_line(ownership: PageOwners, page: int, *, names: bool = True, offset: bool = True) -> str:
    """Return the line of one page: only its kind without `names`, with the offset in the file if `offset`."""
    kind = KINDS[int(ownership.kinds[page])]
    if not names:
        return f"[{kind}]"
    label = int(ownership.labels[page])
    text = kind if label < 0 else ownership.names[label]
    if kind in FILE_KINDS and label >= 0:
        text = text.rsplit("/", 1)[-1] or text
        if offset and ownership.offsets[page] >= 0:
            text += f" {int(ownership.offsets[page]):08x}"
        mask = int(ownership.modes[page])
        if modes := [permissions(mode) for mode in range(MODES) if mask >> mode & 1]:
            text += " " + ",".join(modes)
    # With the array's own dtype, as numpy would otherwise copy all of it.
    around = np.array([page, page + 1], dtype=ownership.used_pages.dtype)
    first, last = np.searchsorted(ownership.used_pages, around).tolist()
    named = min(last, first + MAX_NAMED_USERS)
    users = sorted({ownership.processes[by] for by in ownership.used_by[first:named].tolist()})
    more = f" and {last - named} more" if last > named else ""
    return f"[{text}]: {' '.join(users)}{more}" if users else f"[{text}]"


def count_lines(ownership: PageOwners, pages: NDArray[np.int64], *, names: bool) -> dict[str, int]:
    """Return the distinct lines of these pages (int64, at least one), the most frequent first, with their counts.
    More than MAX_LISTED_OFFSETS lines that differ only by the offset in the file are merged into one without it. If
    there are more than MAX_SAMPLED_PAGES pages, that many are sampled, spread over all of them.
    """
    if len(pages) > MAX_SAMPLED_PAGES:
        pages = pages[np.linspace(0, len(pages) - 1, MAX_SAMPLED_PAGES).astype(np.int64)]
    placed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for page in pages.tolist():
        placed[page_line(ownership, page, names=names, offset=False)][page_line(ownership, page, names=names)] += 1
    counted: Counter[str] = Counter()
    for whole, places in placed.items():
        counted.update(places if len(places) <= MAX_LISTED_OFFSETS else {whole: places.total()})
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
