"""Page attribution of a trace: a small JSON file NAME.sources.json beside NAME.parquet.

It contains the object of attribution/report.py, `host` and `scanned_at` (seconds of the Unix epoch), which with
`domain` link it to its trace, and a checksum `sum` that detects damage. Names come from a guest: their number and
length are limited, and they are checked again on reading.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from samepaged.arch import PAGE_SIZE
from samepaged.atomic_write import whole_file
from samepaged.attribution.report import AttributionReport, CopiedPage, Owner
from samepaged.errors import TraceError
from samepaged.traces.parquet import write_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from samepaged.traces.metadata import TraceFile

__all__ = ["MAX_OWNERS", "SUFFIX", "attribution_path", "read", "read_beside_traces", "write"]

SUFFIX: Final = ".sources.json"
# Maximum number of processes and of files in a file; the most involved are kept.
MAX_OWNERS: Final = 1000
MAX_FILE_BYTES: Final = 1 << 24
# Maximum number of pages.
MAX_COUNT: Final = 1 << 48
MAX_NAME_CHARS: Final = 4096
MAX_TIME_SECONDS: Final = 253_402_300_799  # the end of the year 9999
SCHEMA: Final = 1
# Parts of a split are rounded to this fraction of a page, and are sums of many floats.
MAX_ROUNDING_ERROR: Final = 0.001
MAX_RELATIVE_ERROR: Final = 1e-6
DAMAGED: Final = "remove it, or restore it from a copy"


def attribution_path(trace: Path) -> Path:
    """Return the path of the owners of the trace with this path, existing or not."""
    return trace.with_suffix(SUFFIX)


def write(trace: Path, document: Mapping[str, Any]) -> Path:
    """Write the owners of the trace with this path atomically. Raises TraceError.

    `document` is the document of attribution/report.py with `host` and `scanned_at`. The first MAX_OWNERS processes and
    files are kept, or fewer if long names would exceed the maximum file size. A document that could not be read again
    is an error here; the error then costs one guest's owners, not a study.
    """
    path = attribution_path(trace)
    content = _content(document)
    _parsed(path, content)
    try:
        with whole_file(path, 0o640) as beside:  # readable by the guests' operators, because it names their processes
            beside.unlink(missing_ok=True)
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def read(path: Path) -> AttributionReport:
    """Read and check the owners in the file with this path. Raises TraceError if it is damaged."""
    raw = _raw(path)
    if raw is None:
        raise TraceError(path, "has been deleted", "run the command again, or raise traces.max_age")
    return _parsed(path, raw).answers


def read_beside_traces(files: Iterable[TraceFile]) -> Iterator[tuple[TraceFile, AttributionReport]]:
    """Yield those of these trace files that have owners beside them, with the owners. Raises TraceError if the owners
    are damaged or belong to another trace.
    """
    for file in files:
        if len(file.traces) != 1 or "://" in file.path:
            continue
        path = attribution_path(Path(file.path))
        raw = _raw(path)
        if raw is None:
            continue
        found = _parsed(path, raw)
        (about,) = file.traces
        if (found.host, found.answers.domain, found.scanned_at) != (about.host, about.domain, about.scanned_at):
            raise TraceError(
                path, f"belongs to another trace than {file.path}", "move it beside its trace, or remove it"
            )
        yield file, found.answers


@dataclass(frozen=True, slots=True)
class _Content:
    host: str
    scanned_at: float
    answers: AttributionReport


def _content(document: Mapping[str, Any]) -> bytes:
    for halvings in range(MAX_OWNERS.bit_length() + 1):
        most = MAX_OWNERS >> halvings
        told: dict[str, Any] = {
            key: one[:MAX_NAME_CHARS] if isinstance(one, str) else one for key, one in document.items()
        }
        for key, name in (("processes", "process"), ("files", "path")):
            if told[key] is not None:
                # Paths in Linux are not longer.
                told[key] = [one for one in told[key] if len(one[name]) <= MAX_NAME_CHARS][:most]
        told["most_copied"] = [
            {**one, "owners": [line[:MAX_NAME_CHARS] for line in one["owners"]]} for one in told["most_copied"]
        ]
        content = json.dumps({**told, "sum": _sum(told)}, ensure_ascii=False).encode()
        if len(content) <= MAX_FILE_BYTES:
            break
    return content + b"\n"


def _sum(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _raw(path: Path) -> bytes | None:
    """Return the file's bytes; None if it does not exist."""
    try:
        # Opening a pipe would wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise TraceError(path, "is not a regular file", "keep other files elsewhere")
            raw = file.read(MAX_FILE_BYTES + 2)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TraceError(path, f"cannot be read ({error.strerror})", "give the calling user read permission") from error
    if len(raw) > MAX_FILE_BYTES + 1:
        raise TraceError(path, f"has more than {MAX_FILE_BYTES} bytes", DAMAGED)
    return raw


def _parsed(path: Path, raw: bytes) -> _Content:
    try:
        told = json.loads(raw, parse_constant=_no_number)
        intact = told.pop("sum") == _sum(told)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise TraceError(path, "does not match its checksum", DAMAGED)
    if told.get("schema") != SCHEMA:
        raise TraceError(
            path, f"has schema {str(told.get('schema'))[:20]} of another samepaged version", "read it with that version"
        )
    try:
        return _content_from(told)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TraceError(path, "has inconsistent owners", DAMAGED) from error


def _content_from(told: Mapping[str, Any]) -> _Content:
    """Convert the JSON object. Raises KeyError, TypeError or ValueError for impossible values: checksums detect damage,
    and this check rejects files of other programs.
    """
    if _count(told["page_size"]) != PAGE_SIZE:
        raise ValueError("page size")
    scanned_at = _number(told["scanned_at"])
    answers = AttributionReport(
        domain=_text(told["domain"]),
        kernel=None if told["kernel"] is None else _text(told["kernel"]),
        memory_pages=_count(told["memory_pages"]),
        in_use_pages=_count(told["in_use_pages"]),
        labelled_ratio=_number(told["labelled_ratio"]),
        self_sharing_pages=_count(told["self_sharing_pages"]),
        inter_sharing_pages=_count(told["inter_sharing_pages"]),
        kinds=_owners(told["kinds"], "kind"),
        processes=None if told["processes"] is None else _owners(told["processes"], "process"),
        files=None if told["files"] is None else _owners(told["files"], "path"),
        most_copied=tuple(_copied_page(one) for one in _list(told["most_copied"])),
        missing_pages=_count(told["missing_pages"]),
        note=None if told["note"] is None else _text(told["note"]),
        combined_kinds=_owners(told.get("together", []), "kinds"),
        in_use_self_sharing_pages=_count(told.get("in_use_self_sharing_pages", 0)),
    )
    if scanned_at > MAX_TIME_SECONDS or answers.labelled_ratio > 1:
        raise ValueError("time, ratio")
    if max(answers.in_use_pages, answers.sharing_pages) > answers.memory_pages:
        raise ValueError("more than there is")
    for one in (*answers.kinds, *answers.combined_kinds, *(answers.processes or ()), *(answers.files or ())):
        if (
            one.pages > answers.memory_pages
            or one.self_sharing_pages > answers.self_sharing_pages
            or one.inter_sharing_pages > answers.inter_sharing_pages
            or one.split_pages > one.sharing_pages * (1 + MAX_RELATIVE_ERROR) + MAX_ROUNDING_ERROR
        ):
            raise ValueError("involved in more than there is")
    if any(one.copies > answers.memory_pages for one in answers.most_copied):
        raise ValueError("more copies than pages")
    return _Content(_text(told["host"]), scanned_at, answers)


def _owners(told: object, key: str) -> tuple[Owner, ...]:
    return tuple(
        Owner(
            name=_text(one[key]),
            pages=_count(one["pages"]),
            self_sharing_pages=_count(one["self_sharing_pages"]),
            inter_sharing_pages=_count(one["inter_sharing_pages"]),
            split_pages=_number(one["split_pages"]),
        )
        for one in _list(told)
    )


def _copied_page(told: Mapping[str, Any]) -> CopiedPage:
    if type(told["others"]) is not bool:
        raise TypeError("others")
    owners = tuple(_text(line) for line in _list(told["owners"]))
    pages = tuple(_count(one) for one in _list(told.get("owner_pages", [])))
    return CopiedPage(_count(told["copies"]), told["others"], owners, _count(told["more_owners"]), pages)


def _list(told: object) -> list[Any]:
    if not isinstance(told, list):
        raise TypeError("not a list")
    return told


def _count(told: object) -> int:
    # True is an int, too.
    if type(told) is not int:
        raise TypeError("not an integer")
    if not 0 <= told < MAX_COUNT:
        raise ValueError("page count out of range")
    return told


def _number(told: object) -> float:
    if type(told) is not float and type(told) is not int:
        raise TypeError("not a number")
    if not 0 <= told < MAX_COUNT or not math.isfinite(told):
        raise ValueError("page count out of range")
    return float(told)


def _text(told: object) -> str:
    if not isinstance(told, str):
        raise TypeError("not a string")
    if len(told) > MAX_NAME_CHARS:
        raise ValueError("name too long")
    told.encode()  # a lone surrogate is not printable
    return told


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
