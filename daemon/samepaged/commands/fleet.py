"""samepaged fleet: what the hosts of a fleet have in common, by the traces of their guests."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.fleet.counting import fleet
from samepaged.analysis.fleet.duckdb_engine import duckdb_engine
from samepaged.commands import fleet_place
from samepaged.commands.command import sample
from samepaged.errors import UsageError
from samepaged.formatting import size
from samepaged.text_layout import aligned
from samepaged.traces import utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.analysis.fleet.result import Fleet, HostPair

__all__ = ["Command"]

MOST_SHOWN: Final = 10
LOCAL_MASTER: Final = "local[*]"


class Command:
    """What the hosts of a fleet have in common: contents that are there more than once, and what every two hosts'
    guests share, by each guest's newest trace. `fleet place` proposes which guest to move where.
    """

    name = "fleet"
    help = "from the traces of many hosts to what they share, and to a better placement of guests"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        _add_options(parser)
        parser.add_argument(
            "place",
            metavar="PLACE",
            action=PlaceOrWord,
            help="a directory of traces, a file, an address, or a pattern in quotes; or `place`, a command of its own",
        )
        parser.set_defaults(perform=_share)

    def run(self, args: argparse.Namespace) -> int:
        """Do what was asked; the exit status."""
        status: int = args.perform(args)
        return status


class PlaceOrWord(argparse.Action):
    """Where the traces are, or the word `place`: what follows the word are the arguments of `fleet place`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:  # noqa: ANN401 - as argparse has it
        super().__init__(option_strings, dest, nargs=argparse.PARSER, **more)
        self.words: Final = {"place": _place_parser}

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - as argparse has it
        option_string: str | None = None,  # noqa: ARG002 - it is no option
    ) -> None:
        """Take the rest of the command line."""
        first, *rest = values
        if first in self.words:
            early = [name for name, value in vars(namespace).items() if value != parser.get_default(name)]
            if early:
                parser.error(f"put --{early[0]} after the word {first}")
            # Its options are others, even where they have the same names.
            vars(namespace).update(vars(self.words[first](f"{parser.prog} {first}").parse_args(rest)))
            return
        setattr(namespace, self.dest, first)
        rest_parser = argparse.ArgumentParser(prog=parser.prog, usage=parser.format_usage()[7:], allow_abbrev=False)
        _add_options(rest_parser)
        rest_parser.parse_args(rest, namespace)


def _place_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Propose which guest to move where, so that hosts share most.", allow_abbrev=False
    )
    fleet_place.prepare_parser(parser)
    parser.set_defaults(perform=fleet_place.run)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb", help="what answers (duckdb)")
    parser.add_argument("--master", metavar="URL", help=f"Spark's master, with --engine spark ({LOCAL_MASTER})")
    parser.add_argument(
        "--sample", metavar="N", type=sample, default=1, help="count the lowest 1/N of the hashes alone"
    )


def _share(args: argparse.Namespace) -> int:
    if args.engine == "spark":
        from samepaged.analysis.fleet.spark_engine import spark_engine  # noqa: PLC0415 - PySpark, where it is needed

        found = fleet(args.place, lambda: spark_engine(args.master or LOCAL_MASTER), sample=args.sample)
    else:
        if args.master is not None:
            raise UsageError("--master is Spark's", "add --engine spark")
        found = fleet(args.place, duckdb_engine, sample=args.sample)
    if args.json:
        sys.stdout.writelines(_json(found))
    else:
        print("\n".join(_text(found)))
    return 0


def _json(found: Fleet) -> Iterator[str]:
    """One object, a host, a pair and a content on a line each: there may be many."""
    head = {
        "schema": 1,
        "page_size": found.page_size,
        "sample": found.sample,
        "oldest_trace": utc(found.oldest),
        "newest_trace": utc(found.newest),
        "guests": sum(host.guests for host in found.hosts),
        "memory_pages": sum(host.memory_pages for host in found.hosts),
        "hashed_pages": found.hashed_pages,
        "distinct_pages": found.distinct_pages,
        "distinct_pages_bounds": found.distinct_bounds,
        "distinct_pages_relative_error": _rounded(found.distinct_error),
        "duplicate_pages": found.duplicate_pages,
        "self_sharing_pages": found.self_sharing_pages,
        "inter_sharing_pages": found.inter_sharing_pages,
    }
    yield "".join(f"{'{' if at == 0 else ','}\n  {_entry(key, head[key])}" for at, key in enumerate(head))
    hosts = (
        {
            "host": host.name,
            "guests": host.guests,
            "memory_pages": host.memory_pages,
            "self_sharing_pages": host.self_sharing_pages,
            "inter_sharing_pages": found.inter_sharing_of(host),
            "distinct_pages": found.distinct_pages_of(host),
            "only_here_pages": found.only_here_pages_of(host),
        }
        for host in found.hosts
    )
    yield from _lines("hosts", hosts)
    pairs = (
        {
            "hosts": pair.hosts,
            "shared_pages": found.shared_pages_of(pair),
            "bounds": found.bounds_of(pair),
            "relative_error": _rounded(found.error_of(pair)),
        }
        for pair in found.pairs
    )
    yield from _lines("host_pairs", pairs)
    yield from _lines(
        "widespread", ({"hosts": one.hosts, "guests": one.guests, "pages": one.pages} for one in found.widespread)
    )
    yield "\n}\n"


def _lines(name: str, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield f",\n  {json.dumps(name)}: ["
    empty = True
    for row in rows:
        yield f"{'' if empty else ','}\n    {json.dumps(row)}"
        empty = False
    yield "]" if empty else "\n  ]"


def _entry(key: str, value: object) -> str:
    return f"{json.dumps(key)}: {json.dumps(value)}"


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, 6)


def _text(found: Fleet) -> Iterator[str]:
    def shown(pages: int) -> str:
        return size(pages * found.page_size)

    guests = sum(host.guests for host in found.hosts)
    memory = sum(host.memory_pages for host in found.hosts)
    yield f"{len(found.hosts)} hosts, {guests} guests, traces from {utc(found.oldest)} to {utc(found.newest)}"
    if found.sample > 1:
        error = f"{found.distinct_error:.2%}" if found.distinct_error is not None else "unknown"
        yield (
            f"Counted in 1/{found.sample} of the contents: distinct pages have a standard error of {error}; "
            "what two hosts share is, with 95% confidence, between the two figures after it."
        )
    yield ""
    for name, pages in (
        ("memory of the guests", memory),
        ("distinct pages", found.distinct_pages),
        ("duplicate pages", found.duplicate_pages),
        ("  within a guest", found.self_sharing_pages),
        ("  between guests", found.inter_sharing_pages),
    ):
        yield f"{name:<20}  {shown(pages):>8}  {pages / max(memory, 1):6.1%}"
    yield ""
    rows = [("host", "guests", "memory", "self-sharing", "inter-VM", "only here")]
    ordered = sorted(found.hosts, key=lambda host: (-found.inter_sharing_of(host), host.name))
    rows += [
        (
            host.name,
            str(host.guests),
            shown(host.memory_pages),
            shown(host.self_sharing_pages),
            shown(found.inter_sharing_of(host)),
            shown(found.only_here_pages_of(host)),
        )
        for host in ordered[:MOST_SHOWN]
    ]
    yield from aligned(rows, right=range(1, len(rows[0])))
    yield from _more(len(ordered))
    yield ""
    if not found.pairs:
        yield "No two hosts share anything."
        return
    headings = _pair_headings(found)
    pairs = [_pair(found, pair) for pair in found.pairs[:MOST_SHOWN]]
    yield from aligned([headings, *pairs], right=range(len(headings) - 1))
    yield from _more(len(found.pairs))


def _pair_headings(found: Fleet) -> tuple[str, ...]:
    return ("shared", *(("at least", "at most") if found.sample > 1 else ()), "hosts")


def _pair(found: Fleet, pair: HostPair) -> tuple[str, ...]:
    amounts = (found.shared_pages_of(pair), *(found.bounds_of(pair) if found.sample > 1 else ()))
    return *(size(pages * found.page_size) for pages in amounts), " + ".join(pair.hosts)


def _more(count: int) -> Iterator[str]:
    if count > MOST_SHOWN:
        yield f"and {count - MOST_SHOWN} more, which --json has"
