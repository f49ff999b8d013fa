"""The messages between daemon and attribution worker, and the encoding of PageOwners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.attribution.btf_files import MAX_BTF_FILE_BYTES
from samepaged.attribution.page_owners import FILE_KINDS, KIND, KINDS, PageOwners
from samepaged.escape import printable
from samepaged.ipc import Array, Form, Number, ProtocolError, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.ram_map import RamMap

__all__ = [
    "BLOCK_PAGES",
    "MAX_LINE_CHARS",
    "MAX_NOTES",
    "PAGE_NUMBER_ARRAYS",
    "are_page_numbers",
    "page_owners_from_message",
    "page_owners_to_message",
    "regions_of",
    "replies",
    "requests",
    "without_names",
]

# Pages of the largest block that the kernel's page allocator has (MAX_PAGE_ORDER).
BLOCK_PAGES: Final = 1024
MAX_REGIONS: Final = 1024
# Pages that begin like VMCOREINFO; a guest may have any number of copies of it.
MAX_NOTES: Final = 256
MAX_PROFILE_BYTES: Final = 1 << 16
MAX_NAMES: Final = 1 << 18
MAX_PROCESSES: Final = 1 << 15
MAX_NAME_BYTES: Final = 4096 + len(" (deleted)")
# task_struct.comm, even if each of its fifteen bytes becomes an escape sequence.
MAX_PROCESS_NAME_BYTES: Final = 64
MAX_LINE_CHARS: Final = 300
# Limits of the daemon's memory for a reply: a base, and an amount per page of the guest. The worker cuts the excess:
# the last names become empty, and the users of the last pages are dropped.
MAX_NAMES_BYTES: Final = (1 << 20, 64)
MAX_USERS: Final = (1 << 18, 4)


def requests(pages: int) -> dict[str, Form]:
    """Return the forms of the requests to the worker, for a guest of `pages` pages.

    `inspect` inspects the running guest; the host backs these `blocks` of pages. `page_slots` replies to `fetch`, `btf`
    (possibly empty) to `find_btf`. `select` selects slabs and page tables by these pages of the instant, in these
    slots. `attribute` attributes all pages, with these further copied pages. A slot of -1 means that the page is not
    available.
    """
    numbers, slots = Array("<i8", pages), Array("<i4", pages)
    return {
        "inspect": Form(
            {"full": Number(0, 1), "names": Number(0, 1)},
            {
                "regions": Array("<i8", 3 * MAX_REGIONS),
                "notes": Array("<i8", MAX_NOTES),
                "blocks": Array("u1", -(-pages // BLOCK_PAGES), exact=True),
                "profile": Array("u1", MAX_PROFILE_BYTES),
            },
        ),
        "page_slots": Form(arrays={"slots": slots}),
        "btf": Form(arrays={"btf": Array("u1", MAX_BTF_FILE_BYTES)}),
        "select": Form(arrays={"pages": numbers, "slots": slots}),
        "attribute": Form(arrays={"pages": numbers, "slots": slots}),
    }


def replies(pages: int) -> dict[str, Form]:
    """Return the forms of the worker's replies. The worker sends the requests `fetch` and `find_btf` while it inspects
    the running guest. `inspection` ends that: the kernel's profile, the pages of its struct pages, of slabs and page
    tables, and of further structures that the worker read. `selection` has slabs and page tables, `attribution` the
    page owners; `error` ends the attribution.
    """
    numbers, line = Array("<i8", pages), Text(MAX_LINE_CHARS, optional=True)
    return {
        "fetch": Form(arrays={"pages": numbers}),
        "find_btf": Form({"build_id": Text(64, optional=True)}),
        "inspection": Form(
            {},
            {
                "profile": Array("u1", MAX_PROFILE_BYTES),
                "struct_pages": numbers,
                "selected_pages": numbers,
                "extra_pages": numbers,
            },
        ),
        "selection": Form(arrays={"pages": numbers}),
        "attribution": Form(
            {"kernel": line, "note": line, "missing": Number(0, pages)},
            {
                "kinds": Array("u1", pages, exact=True),
                "labels": Array("<i4", pages, exact=True),
                "offsets": Array("<i8", pages, exact=True),
                "modes": Array("<u2", pages, exact=True),
                "used_pages": Array("<i4", _most(MAX_USERS, pages)),
                "used_by": Array("<i4", _most(MAX_USERS, pages)),
                "names": Array("u1", _most(MAX_NAMES_BYTES, pages)),
                "processes": Array("u1", MAX_PROCESSES * (MAX_PROCESS_NAME_BYTES + 1)),
                "extra_pages": numbers,
            },
        ),
        "error": Form({"reason": line, "linux": Number(0, 1)}),
    }


# Arrays of page numbers, by kind of message.
PAGE_NUMBER_ARRAYS: Final = {
    "fetch": ("pages",),
    "inspection": ("struct_pages", "selected_pages", "extra_pages"),
    "selection": ("pages",),
    "attribution": ("extra_pages",),
}


def are_page_numbers(numbers: NDArray[np.int64], pages: int) -> bool:
    """Whether these are page numbers of a guest of `pages` pages, each once, ascending."""
    if not len(numbers):
        return True
    return bool(numbers[0] >= 0 and numbers[-1] < pages and np.all(numbers[1:] > numbers[:-1]))


def regions_of(layouts: Sequence[RamMap]) -> NDArray[np.int64]:
    """Return layouts as rows of the layout's number, a region's start and its size: int64, flat."""
    rows = [(number, region.start, region.size) for number, layout in enumerate(layouts) for region in layout.regions]
    return np.array(rows[:MAX_REGIONS], dtype=np.int64).reshape(-1)


def without_names(ownership: PageOwners) -> PageOwners:
    """Return a copy without names of processes and files: kinds, and the kernel's own names only."""
    of_files = np.isin(ownership.kinds, [KIND[kind] for kind in FILE_KINDS])
    labels = np.where(of_files, -1, ownership.labels)
    kept, where = np.unique(labels, return_inverse=True)
    first = int(len(kept) > 0 and kept[0] == -1)
    return PageOwners(
        kinds=ownership.kinds,
        labels=(where - first).astype(np.int32),
        offsets=np.where(of_files, -1, ownership.offsets).astype(np.int64),
        modes=ownership.modes,
        names=tuple(ownership.names[label] for label in kept[first:].tolist()),
        used_pages=np.empty(0, dtype=np.int32),
        used_by=np.empty(0, dtype=np.int32),
        processes=(),
        kernel=ownership.kernel,
        missing=ownership.missing,
        note=ownership.note,
    )


def page_owners_to_message(ownership: PageOwners) -> tuple[dict[str, int | str | None], dict[str, NDArray[Any]]]:
    """Return fields and arrays of an `attribution` message, except `extra_pages`. Users of pages and names are cut at
    the limits above.
    """
    used = (ownership.used_pages.astype(np.int64) << 32) | ownership.used_by.astype(np.int64)
    pages = len(ownership.kinds)
    used = np.unique(used)[: _most(MAX_USERS, pages)]
    fields: dict[str, int | str | None] = {
        "kernel": _line(ownership.kernel),
        "note": _line(ownership.note),
        "missing": ownership.missing,
    }
    return fields, {
        "kinds": ownership.kinds.astype("u1"),
        "labels": ownership.labels.astype("<i4"),
        "offsets": ownership.offsets.astype("<i8"),
        "modes": ownership.modes.astype("<u2"),
        "used_pages": (used >> 32).astype("<i4"),
        "used_by": (used & 0xFFFFFFFF).astype("<i4"),
        "names": _join_names(ownership.names, MAX_NAME_BYTES, _most(MAX_NAMES_BYTES, pages)),
        "processes": _join_names(
            ownership.processes, MAX_PROCESS_NAME_BYTES, MAX_PROCESSES * (MAX_PROCESS_NAME_BYTES + 1)
        ),
    }


def page_owners_from_message(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> PageOwners:
    """Return the PageOwners in a message that conforms to its form. Raises ProtocolError if it is inconsistent."""
    names = _split_names(arrays["names"], MAX_NAMES, MAX_NAME_BYTES)
    processes = _split_names(arrays["processes"], MAX_PROCESSES, MAX_PROCESS_NAME_BYTES)
    pages, used_pages, used_by = len(arrays["kinds"]), arrays["used_pages"], arrays["used_by"]
    if len(used_pages) != len(used_by):
        raise ProtocolError("used_pages and used_by differ in length")
    for name, array, least, most in (
        ("kinds", arrays["kinds"], 0, len(KINDS)),
        ("labels", arrays["labels"], -1, len(names)),
        ("offsets", arrays["offsets"], -1, 1 << 62),
        ("users", used_pages, 0, pages),
        ("users", used_by, 0, len(processes)),
    ):
        if len(array) and not (least <= array.min() and array.max() < most):
            raise ProtocolError(f"{name} out of range")
    again = used_pages[1:] == used_pages[:-1]
    if np.any(used_pages[1:] < used_pages[:-1]) or np.any(again & (used_by[1:] <= used_by[:-1])):
        raise ProtocolError("users not in ascending order")
    return PageOwners(
        kinds=arrays["kinds"],
        labels=arrays["labels"],
        offsets=arrays["offsets"],
        modes=arrays["modes"],
        names=names,
        used_pages=used_pages,
        used_by=used_by,
        processes=processes,
        kernel=_printable(fields["kernel"]),
        missing=fields["missing"],
        note=_printable(fields["note"]),
    )


def _line(text: str | None) -> str | None:
    return None if text is None else " ".join(text.split())[:MAX_LINE_CHARS]


def _printable(text: str | None) -> str | None:
    """Escape for the log: the text comes from a process that the guest may have taken over."""
    return None if text is None else printable(text)[:MAX_LINE_CHARS]


def _most(bound: tuple[int, int], pages: int) -> int:
    least, a_page = bound
    return least + a_page * pages


def _join_names(names: Sequence[str], longest: int, most: int) -> NDArray[np.uint8]:
    """Join names, each ended by a zero byte; beyond `most` bytes in total, the last names become empty."""
    left = most - len(names)
    parts = []
    for name in names:
        raw = name[:longest].replace("\0", " ").encode("utf-8", "backslashreplace")[:longest]
        parts.append(raw if len(raw) <= left else b"")
        left -= len(parts[-1])
    return np.frombuffer(b"".join(raw + b"\0" for raw in parts), dtype=np.uint8)


def _split_names(raw: NDArray[np.uint8], most: int, longest: int) -> tuple[str, ...]:
    if not len(raw):
        return ()
    ends = np.flatnonzero(raw == 0)
    if len(ends) > most or not len(ends) or ends[-1] != len(raw) - 1 or np.diff(ends, prepend=-1).max() > longest + 1:
        raise ProtocolError("too many names, or names that are too long")
    return tuple(name.decode("utf-8", "replace") for name in raw.tobytes()[:-1].split(b"\0"))
