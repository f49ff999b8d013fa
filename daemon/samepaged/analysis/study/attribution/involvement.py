"""Origin of sharing: involvement by kind of page, process and file, over traces with owners beside them.

Section 5.2 and Figures 11 and 12 of Barker et al. (USENIX ATC 2012). Involvement does not add up, and the joint
involvement of several owners cannot be computed from theirs. The attribution has it for some kinds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.study.min_avg_max import MinAvgMax

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from samepaged.attribution.report import AttributionReport, Owner

__all__ = ["LIBRARIES", "MAX_PROCESSES", "GuestInvolvement", "OwnerInvolvement", "StudyAttribution", "attribution"]
__all__ += ["is_library"]

# The kinds of a library's pages: unmodified pages of its file, and pages that a process has changed. (Some of the
# latter belong to executables: their data.)
LIBRARIES: Final = ("library", "private_file")
# Maximum number of processes and of files of each guest, and of all; the most involved are kept.
_MAX_OWNERS: Final = 200
MAX_PROCESSES: Final = 20
"""Processes in Figure 12 and its table."""


@dataclass(frozen=True, slots=True)
class OwnerInvolvement:
    """Involvement of a kind of page, a process or a file, as a part of total sharing from 0 to 1, over traces.

    The averages of its two parts, self-sharing and inter-VM sharing, add up to its average. `split` is its average part
    in the split that adds up over owners. `pages` is its average number of pages.
    """

    name: str
    pages: float
    ratio: MinAvgMax
    self_sharing: float
    inter_sharing: float
    split: float

    def document(self, key: str) -> dict[str, Any]:
        """Return the JSON object, with the name under this key."""
        return {
            key: self.name,
            "pages": self.pages,
            "sharing_ratio": self.ratio.document(),
            "self_sharing_ratio": self.self_sharing,
            "inter_sharing_ratio": self.inter_sharing,
            "split_ratio": self.split,
        }


@dataclass(frozen=True, slots=True)
class GuestInvolvement:
    """Involvement in a guest's sharing, over its `traces` that have owners and any sharing.

    If `domain` is None, it covers all guests, with each trace weighted equally. `sharing` is in pages of 4096 bytes.
    The most involved owners come first. `processes` and `files` are over the traces with names, and None if none has
    names. `combined` has some kinds merged, as in AttributionReport.combined_kinds.
    """

    domain: str | None
    traces: int
    sharing: MinAvgMax
    labelled: MinAvgMax
    kinds: tuple[OwnerInvolvement, ...]
    combined: tuple[OwnerInvolvement, ...]
    processes: tuple[OwnerInvolvement, ...] | None
    files: tuple[OwnerInvolvement, ...] | None

    def document(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            **({} if self.domain is None else {"domain": self.domain}),
            "traces": self.traces,
            "sharing_pages": self.sharing.document(),
            "labelled_ratio": self.labelled.document(),
            "kinds": [one.document("kind") for one in self.kinds],
            "together": [one.document("kinds") for one in self.combined],
            "processes": None if self.processes is None else [one.document("process") for one in self.processes],
            "files": None if self.files is None else [one.document("path") for one in self.files],
        }


@dataclass(frozen=True, slots=True)
class StudyAttribution:
    """Involvement for each guest that has traces with owners, and for all of these traces together."""

    all_guests: GuestInvolvement
    guests: tuple[GuestInvolvement, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"together": self.all_guests.document(), "domains": [one.document() for one in self.guests]}


def is_library(path: str) -> bool:
    """Return whether the path is a shared library, by its name: libc.so.6, libm-2.36.so."""
    name = path.removesuffix(" (deleted)").rpartition("/")[2]
    return name.endswith(".so") or ".so." in name


def attribution(guests: Iterable[tuple[str, Iterable[AttributionReport]]]) -> StudyAttribution | None:
    """Compute the involvement. `guests` yields the owners of each guest's traces with the guest's name; it is iterated
    once.

    Returns None if no trace has any sharing.
    """
    together = _GuestSums()
    found = []
    for name, traces in guests:
        mine = _GuestSums()
        for answers in traces:
            if answers.sharing_pages:
                mine.add(answers)
                together.add(answers)
        if mine.sharing:
            found.append(mine.result(name))
    return StudyAttribution(together.result(None), tuple(found)) if found else None


@dataclass(slots=True)
class _Sums:
    """Sums for one owner: pages, and ratios of each trace's sharing."""

    traces: int = 0
    pages: int = 0
    own: float = 0.0
    inter: float = 0.0
    split: float = 0.0
    min_ratio: float = 1.0
    max_ratio: float = 0.0

    def add(self, one: Owner, total: int) -> None:
        self.traces += 1
        self.pages += one.pages
        self.own += one.self_sharing_pages / total
        self.inter += one.inter_sharing_pages / total
        self.split += one.split_pages / total
        self.min_ratio = min(self.min_ratio, one.sharing_pages / total)
        self.max_ratio = max(self.max_ratio, one.sharing_pages / total)

    def result(self, name: str, traces: int) -> OwnerInvolvement:
        """Return the averages over `traces` traces; traces that do not name the owner count as zero."""
        own, inter = self.own / traces, self.inter / traces
        ratio = MinAvgMax(self.min_ratio if self.traces == traces else 0.0, own + inter, self.max_ratio)
        return OwnerInvolvement(name, self.pages / traces, ratio, own, inter, self.split / traces)


@dataclass(slots=True)
class _Owners:
    """Sums for the kinds, processes or files of some traces."""

    traces: int = 0
    sums: defaultdict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))

    def add(self, owners: Sequence[Owner] | None, total: int) -> None:
        if owners is not None:
            self.traces += 1
            # Different unprintable names may have the same printable form; the more involved one counts.
            for one in {one.name: one for one in reversed(owners)}.values():
                self.sums[one.name].add(one, total)

    def result(self) -> tuple[OwnerInvolvement, ...]:
        """Return the involvements, the most involved first."""
        found = [sums.result(name, self.traces) for name, sums in self.sums.items() if sums.max_ratio]
        return tuple(sorted(found, key=lambda one: (-one.ratio.avg, one.name)))

    def result_if_named(self) -> tuple[OwnerInvolvement, ...] | None:
        """Like `result`; None if no trace has names."""
        return self.result()[:_MAX_OWNERS] if self.traces else None


@dataclass(slots=True)
class _GuestSums:
    """Sums over the traces of a guest."""

    sharing: list[int] = field(default_factory=list)
    labelled: list[float] = field(default_factory=list)
    kinds: _Owners = field(default_factory=_Owners)
    combined: _Owners = field(default_factory=_Owners)
    processes: _Owners = field(default_factory=_Owners)
    files: _Owners = field(default_factory=_Owners)

    def add(self, answers: AttributionReport) -> None:
        total = answers.sharing_pages
        self.sharing.append(total)
        self.labelled.append(answers.labelled_ratio)
        self.kinds.add(answers.kinds, total)
        self.processes.add(answers.processes, total)
        self.files.add(answers.files, total)
        self.combined.add(answers.combined_kinds, total)

    def result(self, domain: str | None) -> GuestInvolvement:
        traces = len(self.sharing)
        return GuestInvolvement(
            domain=domain,
            traces=traces,
            sharing=MinAvgMax.of(self.sharing),
            labelled=MinAvgMax.of(self.labelled),
            kinds=self.kinds.result(),
            combined=self.combined.result(),
            processes=self.processes.result_if_named(),
            files=self.files.result_if_named(),
        )
