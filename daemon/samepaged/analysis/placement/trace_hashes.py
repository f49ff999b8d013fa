"""The hashes of the traces that a placement is computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.analysis.placement.plan import lowest_hashes
from samepaged.sharing.parallel import map_in_threads
from samepaged.traces import read, read_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.traces import TraceFile, TraceInfo

__all__ = ["trace_hashes"]


def trace_hashes(found: Sequence[tuple[TraceFile, TraceInfo]], sample: int) -> list[NDArray[np.uint64]]:
    """Return the hashes of each trace in `found`, reduced to the lowest 1/`sample`. Reads the files in parallel."""
    of_file: dict[str, list[int]] = {}
    for number, (file, _) in enumerate(found):
        of_file.setdefault(file.path, []).append(number)

    def work(numbers: list[int]) -> list[tuple[int, NDArray[np.uint64]]]:
        file = found[numbers[0]][0]
        if len(file.traces) == 1:
            return [(numbers[0], lowest_hashes(read_hashes(file), sample))]
        read_of = {(one.info.host, one.info.domain, one.info.scanned_at): one.hashes for one in read(file.path)}
        abouts = ((number, found[number][1]) for number in numbers)
        return [
            (number, lowest_hashes(read_of[one.host, one.domain, one.scanned_at], sample)) for number, one in abouts
        ]

    hashes = dict(pair for pairs in map_in_threads(work, of_file.values(), None) for pair in pairs)
    return [hashes[number] for number in range(len(found))]
