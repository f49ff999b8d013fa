"""In-memory traces of guests' pages as bytes (tests/unit/sharing/oracle.py), for the study's pure parts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from samepaged.analysis.study.guests import Guest, TraceRef, guests_of
from samepaged.traces import Totals, Trace, TraceFile
from tests.support.traces import trace
from tests.unit.sharing import oracle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tests.unit.sharing.oracle import Pages

HASHES = {content: 2**60 * number + 11 for number, content in enumerate(oracle.CONTENTS)}

# Guests by name, with the pages of each trace.
histories = st.dictionaries(
    st.text("abc", min_size=1, max_size=2), st.lists(oracle.memories, min_size=1, max_size=3), min_size=1, max_size=4
)


class Memory:
    """Reader with the interface of `HashReader` over in-memory traces."""

    def __init__(self, histories: Mapping[str, Sequence[Pages]], host: str = "kvm-1", sample: int = 1) -> None:
        self.traces_by_path: dict[str, Trace] = {}
        self.files = []
        for domain, history in histories.items():
            for number, pages in enumerate(history):
                digest = oracle.digest(pages, HASHES)
                whole = trace(digest, host=host, domain=domain, at=1000.0 + 60 * number, seed=1)
                sampled = whole.sampled(sample)
                path = f"{host}/{domain}/{number}"
                self.traces_by_path[path] = sampled
                self.files.append(file_of(path, sampled, sample))

    @property
    def guests(self) -> tuple[Guest, ...]:
        return guests_of(self.files)

    def hashes(self, ref: TraceRef) -> NDArray[np.uint64]:
        return self.traces_by_path[ref.file.path].hashes

    def hash_lists(self, lists: Iterable[Sequence[TraceRef]]) -> Iterator[list[NDArray[np.uint64]]]:
        for refs in lists:
            yield [self.hashes(ref) for ref in refs]

    def traces(self, refs: Sequence[TraceRef]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int32]]]:
        for ref in refs:
            trace = self.traces_by_path[ref.file.path]
            yield trace.hashes, trace.pages


def file_of(path: str, trace: Trace, sample: int = 1) -> TraceFile:
    """Return a file of this trace; of its totals, only the rows are correct."""
    totals = tuple(Totals(len(trace.hashes), 0, 0, 0) for _ in range(17))
    return TraceFile(path=path, size=0, sample=sample, traces=(trace.info,), totals=(totals,), sums=(("", ""),))


def with_zeros(guests: Sequence[Pages]) -> tuple[int, int]:
    """Return self-sharing and inter-VM sharing with zero pages as ordinary contents, by the paper's definitions. Pages
    that were never backed are zeros, and swapped ones unknown.
    """
    counted = [[page or oracle.ZEROS for page in pages if page is not None] for pages in guests]
    own = sum(len(pages) - len(set(pages)) for pages in counted)
    together = [page for pages in counted for page in pages]
    return own, len(together) - len(set(together)) - own


def lasting(before: Pages, after: Pages) -> tuple[int, int]:
    """Return the contents in both, and the further copies of each in both."""
    first, second = (Counter(oracle.nonzero(pages)) for pages in (before, after))
    both = first.keys() & second.keys()
    return len(both), sum(min(first[page], second[page]) - 1 for page in both)
