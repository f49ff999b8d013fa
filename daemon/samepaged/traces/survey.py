"""Survey of the traces in a place: whether they are comparable, and each guest's newest trace."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import TraceError
from samepaged.traces.database import database, duckdb_errors, one_line
from samepaged.traces.parquet import read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from samepaged.traces.metadata import TraceFile
    from samepaged.traces.trace import TraceInfo

__all__ = ["find_paths", "guest_key", "newest_traces", "survey"]

# Properties that compared traces must have in common, as named in error messages.
COMMON_PROPERTIES: Final = ("seed", "page size", "hash bits", "sample")


def survey(place: Path | str, *, mixed_samples: bool = False) -> tuple[TraceFile, ...]:
    """Return the trace files of a place, as `find_paths` finds them, with their metadata; rows are not read.

    They are sorted by host, domain and time of their first traces. Raises TraceError if a file is not a trace, if its
    hashes are not comparable with the others (`mixed_samples` allows samples of different sizes), if two files have the
    same trace, or if there are no files.
    """
    files = read_metadata(list(find_paths(str(place))))
    if not files:
        raise TraceError(place, "contains no traces", "record some (traces.enabled), or import them")
    _check_common(files, mixed_samples=mixed_samples)
    seen: dict[tuple[object, ...], str] = {}
    for file in files:
        for about in file.traces:
            for key in {guest_key(about), (about.host, about.domain)}:
                other = seen.setdefault((*key, about.scanned_at), file.path)
                if other != file.path:
                    raise TraceError(file.path, f"has a trace that is also in {other}", "keep one of them")
    return tuple(sorted(files, key=lambda file: [(one.host, one.domain, one.scanned_at) for one in file.traces[:1]]))


def guest_key(about: TraceInfo) -> tuple[str, ...]:
    """Return a key that identifies a guest: its UUID if known, otherwise host and domain."""
    return (about.host, about.domain) if about.uuid is None else (about.uuid,)


def newest_traces(files: Iterable[TraceFile]) -> list[tuple[TraceFile, TraceInfo]]:
    """Return each guest's newest trace, sorted by host and domain.

    A migrated guest counts on its last host. Of several guests that were defined under the same name on a host, the
    last one counts.
    """
    # By name first: an older definition of the same domain no longer exists.
    here: dict[tuple[str, ...], tuple[TraceFile, TraceInfo]] = {}
    for file in files:
        for about in file.traces:
            known = here.get((about.host, about.domain))
            if known is None or known[1].scanned_at < about.scanned_at:
                here[about.host, about.domain] = file, about
    found: dict[tuple[str, ...], tuple[TraceFile, TraceInfo]] = {}
    for file, about in here.values():
        known = found.get(guest_key(about))
        if known is None or known[1].scanned_at < about.scanned_at:
            found[guest_key(about)] = file, about
    return sorted(found.values(), key=lambda one: (one[1].host, one[1].domain, one[1].scanned_at))


def find_paths(place: str) -> Iterator[str]:
    """Yield the Parquet files below a directory, a single file, or the files of a pattern or an address that DuckDB
    supports.

    Raises TraceError if the place does not exist.
    """
    if "://" in place:
        yield from _globbed(place if place.endswith(".parquet") else f"{place.rstrip('/')}/**/*.parquet")
    elif Path(place).is_dir():
        for path in sorted(Path(place).rglob("*.parquet")):
            # Opening a pipe would wait for a writer.
            if not path.name.startswith(".") and path.is_file():
                yield str(path)
    elif Path(place).exists():
        if not Path(place).is_file():
            raise TraceError(place, "is not a regular file", "give a directory of traces or a trace file")
        yield place
    elif any(letter in place for letter in "*?["):
        yield from _globbed(place)
    else:
        raise TraceError(place, "does not exist", "give a directory of traces")


def _globbed(pattern: str) -> list[str]:
    with database() as connection:
        try:
            return [
                row[0] for row in connection.execute("SELECT file FROM glob(?) ORDER BY file", [pattern]).fetchall()
            ]
        except duckdb_errors() as error:
            raise TraceError(
                pattern, f"cannot be listed ({one_line(error)})", "check DuckDB's requirements for this address"
            ) from error


def _check_common(files: list[TraceFile], *, mixed_samples: bool) -> None:
    kinds = [
        (about.seed, about.page_size, about.hash_bits, 0 if mixed_samples else file.sample)
        for file in files
        for about in file.traces
    ]
    if not kinds:
        return
    paths = [file.path for file in files for _ in file.traces]
    usual = Counter(kinds).most_common(1)[0][0]
    for path, kind in zip(paths, kinds, strict=True):
        for what, value, others in zip(COMMON_PROPERTIES, kind, usual, strict=True):
            if value != others:
                raise TraceError(
                    path,
                    f"has {what} {value}, other traces have {others}",
                    f"keep traces of each {what} in a separate directory",
                )
