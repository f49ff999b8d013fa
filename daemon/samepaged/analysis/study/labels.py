"""Labels file with platforms and setups of guests, and the study's numbers by label (Fig. 7 to 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from samepaged.config.loading import place_of, read_file
from samepaged.config.section import Section, SomePatterns, Text, matches
from samepaged.errors import ConfigError, UsageError
from samepaged.escape import printable
from samepaged.yaml_document import Defect, Place, Problem, Unreadable, read_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from samepaged.analysis.study.guests import Guest
    from samepaged.analysis.study.pairs import PairSharing
    from samepaged.analysis.study.self_sharing import SelfSharing

__all__ = [
    "Labels",
    "PlatformPairSharing",
    "PlatformSelfSharing",
    "PlatformSharing",
    "check_labels",
    "load_labels",
    "sharing_by_platform",
]

# The label of every guest if the file has no platforms or no setups.
_ALL: Final = "all"
_NO_LABEL: Final = Problem(
    Place(1, 1), (), "contains no labels", "write platforms: [{name: NAME, match: ['PATTERN']}], or setups:"
)


class Label(Section):
    """A platform or a setup: its name, and patterns for the names of its guests."""

    name: Text
    match: SomePatterns


class Labels(Section):
    """Labels file. The first label of each kind that matches a guest applies to it."""

    platforms: tuple[Label, ...] = ()
    setups: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class PlatformSelfSharing:
    """Average self-sharing of the guests of one platform and setup (Fig. 7)."""

    platform: str
    setup: str
    guests: int
    self_pages: float
    self_ratio: float


@dataclass(frozen=True, slots=True)
class PlatformPairSharing:
    """Averages over the `pairs` pairs of guests of two platforms in one setup (Fig. 8, 9)."""

    platforms: tuple[str, str]
    setup: str
    pairs: int
    inter_pages: float
    self_pages: float
    self_over_total: float | None


@dataclass(frozen=True, slots=True)
class PlatformSharing:
    """Sharing by platform and setup, in the order of the file; `unlabelled` are the guests without a platform or a
    setup.
    """

    setups: tuple[str, ...]
    self_sharing: tuple[PlatformSelfSharing, ...]
    pairs: tuple[PlatformPairSharing, ...]
    unlabelled: tuple[str, ...]


def load_labels(path: Path) -> Labels:
    """Read a file of labels. Raises ConfigError with every problem in it."""
    name = str(path)
    try:
        document = read_document(read_file(path))
    except Unreadable as unreadable:
        problem = _NO_LABEL if unreadable.problem.defect is Defect.EMPTY else unreadable.problem
        raise ConfigError(problem.described(name)) from None
    problems = list(document.problems)
    labels = Labels()
    try:
        labels = Labels.model_validate(document.data)
    except ValidationError as invalid:
        for one in invalid.errors(include_url=False):
            remedy = "write lists of {name: N, match: [PATTERN]} under platforms and setups"
            place = place_of(one["loc"], document)
            problems.append(Problem(place, one["loc"], printable(one["msg"]), remedy))
    if not problems and not labels.platforms and not labels.setups:
        problems.append(_NO_LABEL)
    if problems:
        raise ConfigError(*(problem.described(name) for problem in sorted(problems, key=lambda one: one.place)))
    return labels


def check_labels(labels: Labels, guests: Sequence[Guest]) -> None:
    """Raise UsageError if a label's patterns match no guest; otherwise its row would be missing without notice."""
    for kind, some in (("platform", labels.platforms), ("setup", labels.setups)):
        for label in some:
            if not any(_matches(guest, label) for guest in guests):
                patterns = ", ".join(map(printable, label.match))
                raise UsageError(
                    f"--labels: the {kind} {printable(label.name)} ({patterns}) matches none of {len(guests)} guests;"
                    f" the guests have names such as {printable(guests[0].domain)}",
                    "correct or remove the label",
                )


def sharing_by_platform(
    labels: Labels, guests: Sequence[Guest], self_sharing: Sequence[SelfSharing], pairs: Sequence[PairSharing]
) -> PlatformSharing:
    """Compute sharing by platform and setup. Pairs consist of guests of one setup, as in the paper (4.3.2)."""
    label = {guest.name: (_label(guest, labels.platforms), _label(guest, labels.setups)) for guest in guests}
    known = {name: (one[0], one[1]) for name, one in label.items() if one[0] is not None and one[1] is not None}
    of_own: dict[tuple[str, str], list[SelfSharing]] = {}
    for guest in self_sharing:
        if guest.domain in known:
            of_own.setdefault(known[guest.domain], []).append(guest)
    platforms, setups = (
        {one.name: number for number, one in enumerate(kind)} or {_ALL: 0} for kind in (labels.platforms, labels.setups)
    )
    of_pairs: dict[tuple[str, str, str], list[PairSharing]] = {}
    for pair in pairs:
        if pair.domains[0] in known and pair.domains[1] in known:
            (a, setup), (b, other) = (known[name] for name in pair.domains)
            if setup == other:
                first, second = sorted((a, b), key=platforms.__getitem__)
                of_pairs.setdefault((first, second, setup), []).append(pair)

    def order(names: tuple[str, ...]) -> tuple[int, ...]:
        return (*(platforms[name] for name in names[:-1]), setups[names[-1]])

    there = {setup for _, setup in known.values()}
    return PlatformSharing(
        setups=tuple(setup for setup in setups if setup in there),
        self_sharing=tuple(_platform_self(key, of_own[key]) for key in sorted(of_own, key=order)),
        pairs=tuple(_platform_pair(key, of_pairs[key]) for key in sorted(of_pairs, key=order)),
        unlabelled=tuple(name for name in label if name not in known),
    )


def _label(guest: Guest, labels: Sequence[Label]) -> str | None:
    if not labels:
        return _ALL
    return next((one.name for one in labels if _matches(guest, one)), None)


def _matches(guest: Guest, label: Label) -> bool:
    return any(matches(name, label.match) for name in (guest.domain, f"{guest.host}/{guest.domain}"))


def _platform_self(key: tuple[str, str], guests: Sequence[SelfSharing]) -> PlatformSelfSharing:
    count = len(guests)
    pages, ratio = sum(one.pages.avg for one in guests), sum(one.ratio.avg for one in guests)
    return PlatformSelfSharing(*key, count, pages / count, ratio / count)


def _platform_pair(key: tuple[str, str, str], pairs: Sequence[PairSharing]) -> PlatformPairSharing:
    count = len(pairs)
    parts = [one.self_over_total for one in pairs if one.self_over_total is not None]
    return PlatformPairSharing(
        platforms=key[:2],
        setup=key[2],
        pairs=count,
        inter_pages=sum(one.inter_pages.avg for one in pairs) / count,
        self_pages=sum(one.self_pages for one in pairs) / count,
        self_over_total=sum(parts) / len(parts) if parts else None,
    )
