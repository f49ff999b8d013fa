"""The command `samepaged fleet place`."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from samepaged.analysis.placement.host_limits import hosts_with_limits
from samepaged.analysis.placement.plan import Guest, plan_placement
from samepaged.analysis.placement.report import document, text_lines
from samepaged.analysis.placement.trace_hashes import trace_hashes
from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_place, argument_type, quantity, sample
from samepaged.config import quantities
from samepaged.errors import InvalidValueError, UsageError
from samepaged.traces import newest_traces, survey

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["Command"]

MAX_DIGITS: Final = 18

_size = quantity(quantities.size)


class Command(interface.Command):
    """Propose moves of guests between hosts that increase the sharing on each host, within the memory of each host.
    The command does not move guests. It reads the newest trace of each guest.
    """

    help = "propose moves of guests that increase sharing, within the hosts' memory"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_json(parser)
        parser.add_argument(
            "--memory",
            metavar="SIZE",
            type=_size,
            help="memory for the guests of each host, such as 512GiB (default: the host's memory, from the traces)",
        )
        parser.add_argument(
            "--limit",
            metavar="HOST=SIZE",
            type=argument_type(_limit),
            action="append",
            default=[],
            help="memory for the guests of one host; repeatable",
        )
        parser.add_argument(
            "--keep",
            metavar="PATTERN",
            action="append",
            default=[],
            help="do not move guests of matching names; repeatable",
        )
        parser.add_argument(
            "--moves",
            metavar="N",
            type=argument_type(_count),
            help="propose at most N moves, those with the largest gain",
        )
        parser.add_argument(
            "--sample",
            dest="search_sample",
            metavar="N",
            type=sample,
            help="search for moves in the lowest 1/N of the hash space (default: the largest sample that the search "
            "handles). The gain of a plan is computed from the whole traces",
        )
        parser.add_argument(
            "--seed",
            metavar="N",
            type=argument_type(_count),
            default=0,
            help="seed of the random search; the same seed gives the same moves (default: %(default)s)",
        )
        add_place(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Read the newest trace of each guest, search for moves, and print them. Raises TraceError and UsageError."""
        found = newest_traces(survey(args.place, mixed_samples=True))
        abouts = [about for _, about in found]
        hosts = hosts_with_limits(abouts, _limits(args.limit), args.memory)
        for pattern in args.keep:
            if not any(fnmatchcase(about.domain, pattern) for about in abouts):
                raise UsageError(f"--keep: {pattern!r} does not match any guest", "correct or remove it")
        guests = [
            Guest(
                one.domain, one.host, one.memory_pages, any(fnmatchcase(one.domain, pattern) for pattern in args.keep)
            )
            for one in abouts
        ]
        traces_sample = max(file.sample for file, _ in found)
        placement = plan_placement(
            guests,
            hosts,
            trace_hashes(found, traces_sample),
            sample=traces_sample,
            search_sample=args.search_sample,
            max_moves=args.moves,
            seed=args.seed,
        )
        if args.json:
            print(json.dumps(document(placement, abouts), indent=2))
        else:
            print("\n".join(text_lines(placement, abouts)))
        return 0


def _limit(text: str) -> tuple[str, int]:
    host, equals, amount = text.rpartition("=")
    if not equals:
        raise InvalidValueError(f"{text!r} is not of the form HOST=SIZE", "use for example host-1=64GiB")
    return host, _size(amount)


def _limits(given: Sequence[tuple[str, int]]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for host, amount in given:
        if limits.setdefault(host, amount) != amount:
            raise UsageError(f"--limit: {host!r} has two limits", "use one")
    return limits


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise InvalidValueError(f"{text!r} is not a number", "use 0 or more")
    return int(text)
