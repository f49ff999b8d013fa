"""samepaged traces: what traces there are, whether they are whole, which of them stay, and taking them elsewhere."""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged.commands import traces_import
from samepaged.commands.command import quantity, sample
from samepaged.config import quantities
from samepaged.errors import TraceError, UsageError
from samepaged.escape import printable
from samepaged.formatting import size
from samepaged.text_layout import aligned
from samepaged.traces import Store, guest, newest, read, survey, utc
from samepaged.traces.attribution_file import owners_of
from samepaged.traces.parquet import look, write
from samepaged.traces.survey import paths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from samepaged.traces import About, TraceFile

__all__ = ["Command"]

HEADINGS: Final = ("scanned", "host", "guest", "memory", "distinct", "self-sharing", "zero", "mode", "file")


class Command:
    """Page-hash traces on disk: list, show and check them, remove old ones, take them elsewhere, import others."""

    name = "traces"
    help = "list, check, prune, export and import page-hash traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own commands."""
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

        def added(name: str, text: str, perform: Any) -> argparse.ArgumentParser:  # noqa: ANN401 - a function of arguments
            action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.", allow_abbrev=False)
            action.set_defaults(perform=perform)
            return action

        ls = added("ls", "list the traces of a place", _ls)
        ls.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        ls.add_argument("place", metavar="PLACE", help="a directory, a file, or a pattern in quotes")
        show = added("show", "show all that a trace file says of itself", _show)
        show.add_argument("file", metavar="FILE", help="the trace file")
        verify = added("verify", "read every row of every trace, and compare it with what was written", _verify)
        verify.add_argument("place", metavar="PLACE", help="a directory, a file, or a pattern in quotes")
        prune = added("prune", "remove traces that are old, or the oldest until the others fit", _prune)
        age, most = quantity(quantities.duration), quantity(quantities.size)
        prune.add_argument("--max-age", metavar="AGE", type=age, help="remove what is older: 7d, 12h")
        prune.add_argument("--max-bytes", metavar="SIZE", type=most, help="then the oldest, until the rest fits: 10GiB")
        prune.add_argument("directory", metavar="DIR", type=Path, help="the directory of traces")
        export = added("export", "write traces into one file, whole or a sample of their contents", _export)
        export.add_argument("--into", metavar="FILE", type=Path, required=True, help="the file; it must not be there")
        export.add_argument("--sample", metavar="N", type=sample, default=1, help="the lowest 1/N of the hashes alone")
        export.add_argument("--newest", action="store_true", help="of each guest its newest trace alone")
        export.add_argument("--host", metavar="PATTERN", default="*", help="of hosts of such names alone")
        export.add_argument("--domain", metavar="PATTERN", default="*", help="of guests of such names alone")
        export.add_argument("place", metavar="PLACE", help="a directory, a file, or a pattern in quotes")
        traces_import.prepare_parser(
            added("import", "import a memory image or a list of page hashes", traces_import.run)
        )

    def run(self, args: argparse.Namespace) -> int:
        """Do what was asked; the exit status."""
        status: int = args.perform(args)
        return status


def _files(place: str) -> Iterator[TraceFile | TraceError]:
    """The trace files of a place, each by itself: those that cannot be used as errors."""
    found = list(paths(place))
    try:
        yield from look(found)
    except TraceError:
        for path in found:
            try:
                yield from look([path])
            except TraceError as error:
                yield error


def _good(place: str, failures: list[TraceError]) -> Iterator[TraceFile]:
    for file in _files(place):
        if isinstance(file, TraceError):
            failures.append(file)
        else:
            yield file


def _ls(args: argparse.Namespace) -> int:
    failures: list[TraceError] = []
    rows = [(file, about) for file in _good(args.place, failures) for about in file.traces]
    rows.sort(key=lambda row: (row[1].host, row[1].domain, row[1].scanned_at))
    if args.json:
        print(json.dumps({"schema": 1, "traces": [_told(*row) for row in rows]}, indent=2))
    elif rows:
        print("\n".join(aligned([HEADINGS, *(_cells(*row) for row in rows)], right=(3, 4, 5, 6, 8))))
    return _complain(failures)


def _show(args: argparse.Namespace) -> int:
    failures: list[TraceError] = []
    files = list(_good(args.file, failures))
    told = [_told(file, about) for file in files for about in file.traces]
    for one in told:
        print(json.dumps(one, indent=2))
    return _complain(failures)


def _verify(args: argparse.Namespace) -> int:
    failures: list[TraceError] = []
    whole = owned = 0
    for file in _good(args.place, failures):
        try:
            whole += len(read(file.path))
            owned += len(list(owners_of([file])))
        except TraceError as error:
            failures.append(error)
    with_owners = f", {owned} of them with owners" if owned else ""
    print(f"{whole} traces are as they were written{with_owners}")
    return _complain(failures)


def _prune(args: argparse.Namespace) -> int:
    if args.max_age is None and args.max_bytes is None:
        raise UsageError("traces prune needs --max-age or --max-bytes", "use --max-age 30d, for one")
    if not args.directory.is_dir():
        raise TraceError(args.directory, "is no directory", "give the one that traces.directory names")
    for path in Store(args.directory).prune(time.time(), age=args.max_age, most_bytes=args.max_bytes):
        print(printable(str(path)))
    return 0


def _export(args: argparse.Namespace) -> int:
    if args.into.exists():
        raise TraceError(args.into, "is there already", "remove it, or name another file")
    files = survey(args.place)
    rows = newest(files) if args.newest else [(file, about) for file in files for about in file.traces]
    wanted = {
        (guest(about), about.scanned_at)
        for _, about in rows
        if fnmatch.fnmatchcase(about.host, args.host) and fnmatch.fnmatchcase(about.domain, args.domain)
    }
    found = [
        trace.sampled(args.sample)
        for file in files
        if any((guest(about), about.scanned_at) in wanted for about in file.traces)
        for trace in read(file.path)
        if (guest(trace.about), trace.about.scanned_at) in wanted
    ]
    if not found:
        raise TraceError(args.place, "has no traces of such hosts and guests", "see what `samepaged traces ls` shows")
    write(args.into, found)
    print(f"{len(found)} traces, {sum(len(trace.hashes) for trace in found)} contents: {args.into}")
    return 0


def _told(file: TraceFile, about: About) -> dict[str, Any]:
    derived = {"memory_pages": about.memory_pages, "duplicate_pages": about.duplicate_pages}
    return asdict(about) | derived | {"sample": file.sample, "file": file.path, "file_bytes": file.size}


def _cells(file: TraceFile, about: About) -> tuple[str, ...]:
    def pages(count: int) -> str:
        return size(count * about.page_size)

    return (
        utc(about.scanned_at),
        about.host,
        about.domain,
        pages(about.memory_pages),
        pages(about.distinct_pages),
        pages(about.duplicate_pages),
        pages(about.zero_pages),
        about.mode if file.sample == 1 else f"{about.mode}, 1/{file.sample}",
        size(file.size),
    )


def _complain(failures: Sequence[TraceError]) -> int:
    for failure in failures:
        print(f"samepaged: {failure}", file=sys.stderr)
    return 1 if failures else 0
