"""Reading and reporting of trace files, for the `samepaged traces` commands."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from samepaged.errors import TraceError
from samepaged.traces.parquet import read_metadata
from samepaged.traces.survey import find_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.traces import TraceFile, TraceInfo

__all__ = ["description", "report_unusable", "usable_files"]


def usable_files(place: str, failures: list[TraceError]) -> Iterator[TraceFile]:
    """Yield the usable trace files of a place. Append the errors of other files to `failures`."""
    for file in _files(place):
        if isinstance(file, TraceError):
            failures.append(file)
        else:
            yield file


def _files(place: str) -> Iterator[TraceFile | TraceError]:
    """Yield the trace files of a place, and for each unusable file its error."""
    found = list(find_paths(place))
    try:
        yield from read_metadata(found)
    except TraceError:
        for path in found:
            try:
                yield from read_metadata([path])
            except TraceError as error:
                yield error


def description(file: TraceFile, about: TraceInfo) -> dict[str, Any]:
    """Return the JSON object of one trace."""
    derived = {"memory_pages": about.memory_pages, "duplicate_pages": about.duplicate_pages}
    return asdict(about) | derived | {"sample": file.sample, "file": file.path, "file_bytes": file.size}


def report_unusable(failures: Sequence[TraceError]) -> int:
    """Print the errors. Return the exit status."""
    for failure in failures:
        print(f"samepaged: {failure}", file=sys.stderr)
    return 1 if failures else 0
