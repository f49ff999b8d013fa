"""Where the sharing of each guest comes from, as metrics: of its kinds of pages and, where they may, of its names."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from samepaged.attribution.guest_ram import PAGE_BYTES
from samepaged.metrics.sources import (
    SOURCE_FILE,
    SOURCE_LABELLED,
    SOURCE_LAST,
    SOURCE_PROCESS,
    SOURCE_SHARING,
    SOURCE_SPLIT,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric as Family

    from samepaged.attribution.report import AttributionReport, Owner
    from samepaged.scan.snapshot import GuestAttribution

__all__ = ["sources_metrics"]

# What is told of the kinds that have no series of their own.
OTHER: Final = "other"


def sources_metrics(sources: Mapping[str, GuestAttribution], top: int, *, names: bool) -> Iterator[Family]:
    """The `top` most involved kinds of each guest; with `names` the processes and files, too, as far as known."""
    all_of = [(domain, sourced.answers) for domain, sourced in sources.items()]
    kinds = [(domain, answers.kinds) for domain, answers in all_of]
    yield SOURCE_SHARING.family(dict(chain.from_iterable(_involved(domain, owners, top) for domain, owners in kinds)))
    yield SOURCE_SPLIT.family(dict(chain.from_iterable(_split(domain, answers, top) for domain, answers in all_of)))
    yield SOURCE_LABELLED.family({(domain,): answers.labelled_ratio for domain, answers in all_of})
    yield SOURCE_LAST.family({(domain,): sourced.scanned for domain, sourced in sources.items()})
    if names:
        processes = (_involved(domain, answers.processes or (), top) for domain, answers in all_of)
        files = (_involved(domain, answers.files or (), top) for domain, answers in all_of)
        yield SOURCE_PROCESS.family(dict(chain.from_iterable(processes)))
        yield SOURCE_FILE.family(dict(chain.from_iterable(files)))


def _involved(domain: str, owners: Iterable[Owner], top: int) -> Iterator[tuple[tuple[str, str], int]]:
    for one, _ in zip(owners, range(top), strict=False):
        if one.sharing_pages:
            yield (domain, one.name), one.sharing_pages * PAGE_BYTES


def _split(domain: str, answers: AttributionReport, top: int) -> Iterator[tuple[tuple[str, str], float]]:
    shown = [one for one in answers.kinds[:top] if one.sharing_pages]
    for one in shown:
        yield (domain, one.name), one.split_pages * PAGE_BYTES
    rest = answers.sharing_pages - sum(one.split_pages for one in shown)
    if len(shown) < len([one for one in answers.kinds if one.sharing_pages]):
        yield (domain, OTHER), max(rest, 0.0) * PAGE_BYTES
