"""The complete study of a set of traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.study.attribution.involvement import StudyAttribution, attribution
from samepaged.analysis.study.groups import GroupSharing, groups_of_each_size
from samepaged.analysis.study.guests import guests_of
from samepaged.analysis.study.hash_reader import HashReader
from samepaged.analysis.study.labels import Labels, PlatformSharing, check_labels, sharing_by_platform
from samepaged.analysis.study.pairs import PairSharing, compare_pairs
from samepaged.analysis.study.self_sharing import PageSizeSharing, SelfSharing, by_page_size, self_sharing
from samepaged.analysis.study.stability import Stability, stability
from samepaged.traces.attribution_file import read_beside_traces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.traces.metadata import TraceFile

__all__ = ["MAX_PAIRS", "Study", "run_study"]

MAX_PAIRS: Final = 300
"""Pairs of traces that are looked at of each pair of guests: several hundred, as in the paper."""


@dataclass(frozen=True, slots=True)
class Study:
    """Results of a study. `seed` (of the sampling) and `max_pairs` reproduce it. With `sample` N, inter-VM sharing is
    estimated from 1/N of the contents. `attribution` is None if no trace has owners beside it.
    """

    page_size: int
    hash_bits: int
    sample: int
    traces: int
    seed: int
    max_pairs: int
    guests: tuple[SelfSharing, ...]
    pairs: tuple[PairSharing, ...]
    groups: tuple[GroupSharing, ...]
    page_sizes: tuple[PageSizeSharing, ...]
    stability: tuple[Stability, ...]
    platforms: PlatformSharing | None
    attribution: StudyAttribution | None


def run_study(
    files: Sequence[TraceFile], *, max_pairs: int = MAX_PAIRS, seed: int = 0, labels: Labels | None = None
) -> Study:
    """Study the traces of a `survey`. Raises TraceError if a trace cannot be read, UsageError if a label matches no
    guest.
    """
    guests = guests_of(files)
    if labels is not None:
        check_labels(labels, guests)
    about = guests[0].traces[0].info
    own = tuple(self_sharing(guest) for guest in guests)
    owned = attribution(
        (guest.name, (answers for _, answers in read_beside_traces(ref.file for ref in guest.traces)))
        for guest in guests
    )
    # Separate generators, so that the draws of one part do not depend on another's.
    for_pairs, for_groups, for_lasting = (np.random.default_rng([seed, part]) for part in range(3))
    with HashReader() as reader:
        pairs = compare_pairs(guests, reader, max_pairs=max_pairs, random=for_pairs)
        groups = groups_of_each_size(guests, reader, for_groups)
        lasting = stability(guests, reader, for_lasting)
    return Study(
        page_size=about.page_size,
        hash_bits=about.hash_bits,
        sample=files[0].sample,
        traces=sum(len(guest.traces) for guest in guests),
        seed=seed,
        max_pairs=max_pairs,
        guests=own,
        pairs=pairs,
        groups=groups,
        page_sizes=by_page_size(guests),
        stability=lasting,
        platforms=None if labels is None else sharing_by_platform(labels, guests, own, pairs),
        attribution=owned,
    )
