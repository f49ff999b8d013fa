"""samepaged fleet place: which guest to move where, so that the hosts of a fleet share most memory."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.placement.limits import hosts_of
from samepaged.analysis.placement.place import Guest, lowest, place
from samepaged.commands.command import quantity, sample, taken_by
from samepaged.config import quantities
from samepaged.errors import InvalidValueError, UsageError
from samepaged.formatting import size
from samepaged.sharing.parallel import in_threads
from samepaged.text_layout import aligned
from samepaged.traces import newest, read, read_hashes, survey, utc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.analysis.placement.place import HostOutcome, Placement
    from samepaged.traces import About, TraceFile

__all__ = ["prepare_parser", "run"]

MOST_DIGITS: Final = 18
LIMITS: Final = {
    "--limit": "as given",
    "--memory": "as given",
    "traces": "the host's memory",
    "now": "its guests' memory now",
}


_amount = quantity(quantities.size)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--memory", metavar="SIZE", type=_amount, help="the guests of each host may have this much memory"
    )
    parser.add_argument(
        "--limit",
        metavar="HOST=SIZE",
        type=taken_by(_limit),
        action="append",
        default=[],
        help="those of this host may have this much; may be given for several",
    )
    parser.add_argument(
        "--keep",
        metavar="PATTERN",
        action="append",
        default=[],
        help="guests of such names stay where they are; may be given for several",
    )
    parser.add_argument(
        "--moves", metavar="N", type=taken_by(_count), help="propose at most N moves, those that gain most"
    )
    parser.add_argument(
        "--sample",
        dest="search_sample",
        metavar="N",
        type=sample,
        help="look for moves in the lowest 1/N of the hashes (default: as many as a search can bear)",
    )
    parser.add_argument("--seed", metavar="N", type=taken_by(_count), default=0, help="another seed finds other moves")
    parser.add_argument("place", metavar="PLACE", help="a directory of traces, a file, or a pattern in quotes")


def run(args: argparse.Namespace) -> int:
    """Read each guest's newest trace, look for moves, and print them."""
    found = newest(survey(args.place, mixed_samples=True))
    abouts = [about for _, about in found]
    hosts = hosts_of(abouts, _limits(args.limit), args.memory)
    for pattern in args.keep:
        if not any(fnmatchcase(about.domain, pattern) for about in abouts):
            raise UsageError(f"--keep: no guest's name is like {pattern!r}", "correct it, or leave it out")
    guests = [
        Guest(one.domain, one.host, one.memory_pages, any(fnmatchcase(one.domain, pattern) for pattern in args.keep))
        for one in abouts
    ]
    sample = max(file.sample for file, _ in found)
    placement = place(
        guests,
        hosts,
        _hashes(found, sample),
        sample=sample,
        search_sample=args.search_sample,
        most_moves=args.moves,
        seed=args.seed,
    )
    print(json.dumps(_document(placement, abouts), indent=2) if args.json else "\n".join(_text(placement, abouts)))
    return 0


def _limit(text: str) -> tuple[str, int]:
    host, equals, amount = text.rpartition("=")
    if not equals:
        raise InvalidValueError(f"{text!r} is no limit of a host", "write HOST=SIZE, such as host-1=64GiB")
    return host, _amount(amount)


def _limits(given: Sequence[tuple[str, int]]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for host, amount in given:
        if limits.setdefault(host, amount) != amount:
            raise UsageError(f"--limit: {host!r} has two limits", "give one")
    return limits


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise InvalidValueError(f"{text!r} is not a number", "use 0 or more")
    return int(text)


def _hashes(found: Sequence[tuple[TraceFile, About]], sample: int) -> list[NDArray[np.uint64]]:
    """The hashes of each of these traces, of the same sample each."""
    of_file: dict[str, list[int]] = {}
    for number, (file, _) in enumerate(found):
        of_file.setdefault(file.path, []).append(number)

    def work(numbers: list[int]) -> list[tuple[int, NDArray[np.uint64]]]:
        file = found[numbers[0]][0]
        if len(file.traces) == 1:
            return [(numbers[0], lowest(read_hashes(file), sample))]
        read_of = {(one.about.host, one.about.domain, one.about.scanned_at): one.hashes for one in read(file.path)}
        abouts = ((number, found[number][1]) for number in numbers)
        return [(number, lowest(read_of[one.host, one.domain, one.scanned_at], sample)) for number, one in abouts]

    hashes = dict(pair for pairs in in_threads(work, of_file.values(), None) for pair in pairs)
    return [hashes[number] for number in range(len(found))]


def _document(placement: Placement, abouts: Sequence[About]) -> dict[str, Any]:
    page_size = abouts[0].page_size
    return {
        "schema": 1,
        "page_size": page_size,
        "guests": len(abouts),
        "oldest_trace": utc(min(about.scanned_at for about in abouts)),
        "newest_trace": utc(max(about.scanned_at for about in abouts)),
        "sample": placement.sample,
        "search_sample": placement.search_sample,
        "moves": [
            {"domain": move.domain, "from": move.origin, "to": move.target, "gain_pages": move.gain_pages}
            for move in placement.moves
        ],
        "gain_pages": placement.gain_pages,
        "gain_error_pages": round(placement.gain_error_pages),
        "at_most_pages": placement.at_most_pages,
        "hosts": [
            {
                "host": one.host.name,
                "limit_bytes": one.host.limit_pages * page_size,
                "limit_from": one.host.limit_from,
                "memory_bytes_before": one.memory_pages[0] * page_size,
                "memory_bytes_after": one.memory_pages[1] * page_size,
                "inter_sharing_pages_before": one.inter_sharing_pages[0],
                "inter_sharing_pages_after": one.inter_sharing_pages[1],
            }
            for one in placement.hosts
        ],
    }


def _text(placement: Placement, abouts: Sequence[About]) -> Iterator[str]:
    page_size = abouts[0].page_size

    def shown(pages: int) -> str:
        return f"{'-' * (pages < 0)}{size(abs(pages) * page_size)}"

    if placement.moves:
        rows = [(shown(one.gain_pages), one.domain, one.origin, one.target) for one in placement.moves]
        yield from aligned([("gain", "guest", "from", "to"), *rows], right=(0,))
        yield ""
        error = f" (± {shown(round(placement.gain_error_pages))})" if placement.sample > 1 else ""
        yield f"{_moves(len(placement.moves))} {shown(placement.gain_pages)}{error} of inter-VM sharing."
    else:
        yield "No moves were found that gain inter-VM sharing within the limits."
    yield f"More than {shown(placement.at_most_pages)} cannot be gained within the limits."
    if placement.sample > 1:
        yield f"The traces have 1/{placement.sample} of the contents: shared memory is an estimate."
    elif placement.search_sample > 1:
        yield f"Moves were looked for in 1/{placement.search_sample} of the contents, and counted in all."
    if any(one.host.limit_from == "now" for one in placement.hosts):
        yield "Hosts of unknown memory take no more than they have now; give --memory or --limit."
    times = [about.scanned_at for about in abouts]
    yield f"Traces from {utc(min(times))} to {utc(max(times))}."
    yield ""
    headings = ("host", "memory", "after", "limit", "inter-VM", "after", "the limit is")
    yield from aligned([headings, *(_outcome(one, page_size) for one in placement.hosts)], right=(1, 2, 3, 4, 5))


def _moves(count: int) -> str:
    return "1 move gains" if count == 1 else f"{count} moves gain"


def _outcome(one: HostOutcome, page_size: int) -> tuple[str, ...]:
    amounts = (*one.memory_pages, one.host.limit_pages, *one.inter_sharing_pages)
    over = ", which it is over" if one.memory_pages[1] > one.host.limit_pages else ""
    return one.host.name, *(size(pages * page_size) for pages in amounts), LIMITS[one.host.limit_from] + over
