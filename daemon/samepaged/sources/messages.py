"""What the daemon and the process that reads a guest's memory say to each other, and how an Ownership passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.sources.ownership import FILE_KINDS, KIND, KINDS, Ownership
from samepaged.sources.types import MOST_TYPES
from samepaged.sources.wire import Array, Form, Line, Number, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from samepaged.sources.layout import Layout

__all__ = [
    "BLOCK",
    "CHECKED",
    "LONGEST_LINE",
    "MOST_NOTES",
    "answers",
    "ascending",
    "nameless",
    "orders",
    "ownership_from",
    "ownership_parts",
    "regions_of",
]

# Pages of the largest block that the kernel's page allocator has (MAX_PAGE_ORDER).
BLOCK: Final = 1024
MOST_REGIONS: Final = 1024
# Pages that begin as VMCOREINFO does: a guest may have any number of copies of it.
MOST_NOTES: Final = 256
MOST_PROFILE: Final = 1 << 16
MOST_NAMES: Final = 1 << 20
MOST_BYTES_OF_NAMES: Final = 1 << 26
MOST_PROCESSES: Final = 1 << 15
LONGEST_NAME: Final = 4096 + len(" (deleted)")
LONGEST_LINE: Final = 300
# Of a page of a library there may be as many users as there are processes; beyond this, pages at the end have none.
USERS_A_PAGE: Final = 32


def orders(pages: int) -> dict[str, Form]:
    """What the process is told, for a guest of so many pages.

    `begin`: look at the running guest, of which the host backs these `blocks` of pages. `answer`: to what was asked.
    `types`: BTF, or nothing. `held`: these pages are of the instant, in these slots. `think`: and these. A slot of -1
    says that the page is not to be had.
    """
    numbers, slots = Array("<i8", pages), Array("<i4", pages)
    return {
        "begin": Form(
            {"cold": Number(0, 1), "names": Number(0, 1)},
            {
                "regions": Array("<i8", 3 * MOST_REGIONS),
                "notes": Array("<i8", MOST_NOTES),
                "blocks": Array("u1", -(-pages // BLOCK), exact=True),
                "profile": Array("u1", MOST_PROFILE),
            },
        ),
        "answer": Form(arrays={"slots": slots}),
        "types": Form(arrays={"types": Array("u1", MOST_TYPES)}),
        "held": Form(arrays={"pages": numbers, "slots": slots}),
        "think": Form(arrays={"pages": numbers, "slots": slots}),
    }


def answers(pages: int) -> dict[str, Form]:
    """What the process may say. `fetch` and `types` are questions while it looks at the running guest, which ends with
    `prepared`: the kernel's profile, the pages that hold its struct pages, those that it would choose (slabs and
    tables), and others that it needed. `selected` is its choice, `ownership` what it found; `failed` ends all.
    """
    numbers = Array("<i8", pages)
    return {
        "fetch": Form(arrays={"pages": numbers}),
        "types": Form({"build": Line(64)}),
        "prepared": Form(
            {},
            {"profile": Array("u1", MOST_PROFILE), "array": numbers, "selection": numbers, "others": numbers},
        ),
        "selected": Form(arrays={"pages": numbers}),
        "ownership": Form(
            {"kernel": Line(LONGEST_LINE), "note": Line(LONGEST_LINE), "missing": Number(0, pages)},
            {
                "kinds": Array("u1", pages, exact=True),
                "labels": Array("<i4", pages, exact=True),
                "offsets": Array("<i8", pages, exact=True),
                "modes": Array("<u2", pages, exact=True),
                "used_pages": Array("<i4", USERS_A_PAGE * pages),
                "used_by": Array("<i4", USERS_A_PAGE * pages),
                "names": Array("u1", MOST_BYTES_OF_NAMES),
                "processes": Array("u1", MOST_PROCESSES * LONGEST_NAME),
                "others": numbers,
            },
        ),
        "failed": Form({"why": Line(LONGEST_LINE), "linux": Number(0, 1)}),
    }


# Names of the arrays that have numbers of pages.
CHECKED: Final = {
    "fetch": ("pages",),
    "prepared": ("array", "selection", "others"),
    "selected": ("pages",),
    "ownership": ("others",),
}


def ascending(numbers: NDArray[np.int64], pages: int) -> bool:
    """Whether these are numbers of pages of a guest that has so many, each once, ascending."""
    if not len(numbers):
        return True
    return bool(numbers[0] >= 0 and numbers[-1] < pages and np.all(numbers[1:] > numbers[:-1]))


def regions_of(layouts: Sequence[Layout]) -> NDArray[np.int64]:
    """Layouts as rows of their number, a region's start and its size: int64, flat."""
    rows = [(number, region.start, region.size) for number, layout in enumerate(layouts) for region in layout.regions]
    return np.array(rows[:MOST_REGIONS], dtype=np.int64).reshape(-1)


def nameless(ownership: Ownership) -> Ownership:
    """The same without names of processes and files: kinds, and what the kernel calls its own."""
    of_files = np.isin(ownership.kinds, [KIND[kind] for kind in FILE_KINDS])
    labels = np.where(of_files, -1, ownership.labels)
    kept, where = np.unique(labels, return_inverse=True)
    first = int(len(kept) > 0 and kept[0] == -1)
    return Ownership(
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


def ownership_parts(ownership: Ownership) -> tuple[dict[str, int | str | None], dict[str, NDArray[Any]]]:
    """Fields and arrays of a message `ownership`, but for `others`. Who uses a page is cut, and so are names, where
    there is more of it than may be said.
    """
    used = (ownership.used_pages.astype(np.int64) << 32) | ownership.used_by.astype(np.int64)
    used = np.unique(used)[: USERS_A_PAGE * len(ownership.kinds)]
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
        "names": _joined(ownership.names),
        "processes": _joined(ownership.processes),
    }


def ownership_from(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Ownership:
    """The Ownership in a message that is as its form says. Raises WireError where it contradicts itself."""
    names = _split(arrays["names"], MOST_NAMES)
    processes = _split(arrays["processes"], MOST_PROCESSES)
    pages, used_pages, used_by = len(arrays["kinds"]), arrays["used_pages"], arrays["used_by"]
    if len(used_pages) != len(used_by):
        raise WireError("its users are of other pages")
    used = (used_pages.astype(np.int64) << 32) | used_by.astype(np.int64)
    for name, array, least, most in (
        ("kinds", arrays["kinds"], 0, len(KINDS)),
        ("labels", arrays["labels"], -1, len(names)),
        ("offsets", arrays["offsets"], -1, 1 << 62),
        ("users", used_pages, 0, pages),
        ("users", used_by, 0, len(processes)),
    ):
        if len(array) and not (least <= array.min() and array.max() < most):
            raise WireError(f"its {name} are out of range")
    if not np.all(used[1:] > used[:-1]):
        raise WireError("its users are not in order")
    return Ownership(
        kinds=arrays["kinds"],
        labels=arrays["labels"],
        offsets=arrays["offsets"],
        modes=arrays["modes"],
        names=names,
        used_pages=used_pages,
        used_by=used_by,
        processes=processes,
        kernel=fields["kernel"],
        missing=fields["missing"],
        note=fields["note"],
    )


def _line(text: str | None) -> str | None:
    return None if text is None else " ".join(text.split())[:LONGEST_LINE]


def _joined(names: Sequence[str]) -> NDArray[np.uint8]:
    """Each ended by a zero byte."""
    raw = b"".join(
        name[:LONGEST_NAME].replace("\0", " ").encode("utf-8", "backslashreplace")[:LONGEST_NAME] + b"\0"
        for name in names
    )
    return np.frombuffer(raw, dtype=np.uint8)


def _split(raw: NDArray[np.uint8], most: int) -> tuple[str, ...]:
    if not len(raw):
        return ()
    ends = np.flatnonzero(raw == 0)
    if (
        len(ends) > most
        or not len(ends)
        or ends[-1] != len(raw) - 1
        or np.diff(ends, prepend=-1).max() > LONGEST_NAME + 1
    ):
        raise WireError("its names are too many or too long")
    return tuple(name.decode("utf-8", "replace") for name in raw.tobytes()[:-1].split(b"\0"))
