"""The command `samepaged traces import`."""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import ArgumentTypeError
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from samepaged import hash_seed
from samepaged.arch import PAGE_SIZE
from samepaged.commands import interface
from samepaged.commands.arguments import add_config, add_json, quantity
from samepaged.commands.interface import INTERRUPTED
from samepaged.config import load, quantities
from samepaged.errors import TraceError, UsageError
from samepaged.memory.hashing import Interrupted, best_hasher
from samepaged.memory.images import image
from samepaged.privileges import seal
from samepaged.service.signals import Signals
from samepaged.sharing import Contents
from samepaged.traces import PageSizeCounts, Trace, TraceInfo, TraceStore, hash_list, seed_id
from samepaged.traces.collisions import expected_self_collisions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["Command"]

IMAGES: Final = ("raw", "elf", "lime")
LISTS: Final = ("hashes-text", "hashes-binary")
# The mode of a trace from another tool: the guest may have been running during the dump.
MODE: Final = "imported"
HASH_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEX: Final = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,16})")
YEARS: Final = range(1971, 9999)
_size, _page_size = quantity(quantities.size), quantity(quantities.page_size)

OF_IMAGES: Final = ("memory", "page_sizes")
OF_LISTS: Final = ("bits", "zero_hash", "hash_name", "page_size", "skip", "count", "big_endian")


class Command(interface.Command):
    """Create a trace from a file that another tool made: a memory image (an ELF core of `virsh dump --memory-only`,
    LiME or raw), or a list with a hash for each page. The format is detected from the content.
    """

    name = "import"
    help = "create a trace from a memory image or a list of page hashes"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument("file", metavar="FILE", type=Path, help="memory image, or list of page hashes")
        parser.add_argument("--into", metavar="DIR", type=Path, required=True, help="directory of traces")
        parser.add_argument("--host", metavar="HOST", required=True, help="host of the guest")
        parser.add_argument("--domain", metavar="NAME", required=True, help="name of the guest")
        parser.add_argument("--uuid", metavar="UUID", type=_uuid, help="UUID of the guest")
        parser.add_argument(
            "--at",
            metavar="TIME",
            type=_moment,
            help="time of the dump in RFC 3339 form, such as 2026-02-03T04:05:06Z (default: FILE's modification time)",
        )
        parser.add_argument(
            "--format", choices=(*IMAGES, *LISTS), help="format of FILE (default: detected from its content)"
        )
        add_config(parser, ", for the seed of an image's hashes")
        add_json(parser, "print one JSON object instead of a line")
        _add_image_arguments(parser.add_argument_group("memory images"))
        _add_list_arguments(parser.add_argument_group("lists of hashes"))

    def run(self, args: argparse.Namespace) -> int:
        """Import, and print a summary. Raises TraceError and UsageError before anything is written."""
        # From here, the process has guest memory.
        seal()
        store = TraceStore(args.into)
        with Signals() as signals, image.open_file(args.file) as (descriptor, size):
            if args.at is None:
                args.at = os.fstat(descriptor).st_mtime
            _check_free(store, args)
            try:
                found = _found(args, descriptor, size, lambda: signals.stopping)
            except Interrupted:
                print("samepaged: interrupted; nothing was imported", file=sys.stderr)
                return INTERRUPTED
            except MemoryError as error:
                raise TraceError(
                    args.file, "is too large for the memory of this machine", "import it on a larger machine"
                ) from error
            path = store.write(found.trace)
        about = found.trace.info
        for note in found.notes:
            print(f"samepaged: note: {note}", file=sys.stderr)
        if args.json:
            print(json.dumps(_document(path, about, found), indent=2))
        else:
            print(
                f"{path}: {about.memory_pages} pages of {about.page_size} bytes: {about.absent_pages} absent, "
                f"{about.swapped_pages} swapped, {about.zero_pages} zero, {about.distinct_pages} distinct, "
                f"{about.duplicate_pages} duplicate"
            )
        return 0


def _add_image_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--memory",
        metavar="SIZE",
        type=_size,
        help="memory of the domain, to separate its RAM from other memory in a core",
    )
    group.add_argument(
        "--page-sizes", metavar="SIZES", type=_page_sizes, help="additional page sizes to count: 1024,2048,8192"
    )


def _add_list_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bits", type=int, choices=(32, 64), help="size of a hash (default: 32 if every hash of a text fits, else 64)"
    )
    group.add_argument("--zero-hash", metavar="HEX", type=_hash, help="hash of a zero page in this list")
    group.add_argument(
        "--hash-name",
        metavar="NAME",
        type=_hash_name,
        help="name of the hash function; only traces with the same name are comparable",
    )
    group.add_argument("--page-size", metavar="SIZE", type=_page_size, help="size of the hashed pages (default: 4096)")
    group.add_argument(
        "--skip", metavar="BYTES", type=_count, help="bytes before the hashes of a binary list (default: a text header)"
    )
    group.add_argument("--count", metavar="N", type=_count, help="number of hashes to read (default: all)")
    group.add_argument(
        "--big-endian", action="store_true", default=None, help="big-endian binary list (default: little-endian)"
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """An imported trace, the format of its file, and notes for the user."""

    trace: Trace
    form: str
    notes: tuple[str, ...]


def _check_free(store: TraceStore, args: argparse.Namespace) -> None:
    """Raise TraceError if the store has a trace of this guest and time; checked before the file is read."""
    path = store.path(TraceInfo(args.host, args.domain, args.uuid, args.at, PAGE_SIZE, "", MODE, 64, 0, 0, 0, 0, 0))
    if os.path.lexists(path):
        raise TraceError(
            path, "already exists: a trace of this guest and time", "set --at to another time, or remove it"
        )


def _found(args: argparse.Namespace, descriptor: int, size: int, stop: Callable[[], bool]) -> _Found:
    form = args.format or _recognised(args, os.pread(descriptor, hash_list.HEAD_BYTES, 0), size)
    other = OF_LISTS if form in IMAGES else OF_IMAGES
    if given := [f"--{name.replace('_', '-')}" for name in other if getattr(args, name) is not None]:
        raise UsageError(
            f"{', '.join(given)} does not apply to {args.file} (format {form})", "remove the option, or set --format"
        )
    return _of_image(args, form, descriptor, size, stop) if form in IMAGES else _of_list(args, form)


def _recognised(args: argparse.Namespace, head: bytes, size: int) -> str:
    if not size:
        raise TraceError(args.file, "is empty", "copy it again")
    form = image.image_format(args.file, head)
    if form is not None:
        return form
    form = hash_list.list_format(head)
    if form == "hashes-binary" and not size % PAGE_SIZE:
        raise TraceError(args.file, "begins with text, and may be a raw image or a list of hashes", "set --format")
    if form is None and size % PAGE_SIZE:
        raise TraceError(
            args.file,
            f"has an unknown format, and its size of {size} bytes is not that of a raw image",
            f"set --format to {' or '.join((*IMAGES, *LISTS))}",
        )
    return form or "raw"


def _of_image(args: argparse.Namespace, form: str, descriptor: int, size: int, stop: Callable[[], bool]) -> _Found:
    found = image.open_image(args.file, descriptor, size, form, args.memory)
    config = load(args.config)
    key = hash_seed.load(config.hashing.seed, config.state_directory)
    sizes = args.page_sizes or ()
    read = image.hash_image(found, best_hasher(), key, sizes, stop)
    counts = [PageSizeCounts.of(Contents.of(other, in_place=True), other.page_size) for other in read.others]
    trace = Trace.of(
        read.digest,
        host=args.host,
        domain=args.domain,
        uuid=args.uuid,
        scanned_at=args.at,
        seed=seed_id(key),
        mode=MODE,
        by_page_size=tuple(counts),
    )
    notes = []
    if found.devices and args.memory is None:
        notes.append(
            f"{found.devices} of {found.devices + found.pages * PAGE_SIZE} bytes were left out, because they are not "
            "RAM or cannot be distinguished from a device's memory; set --memory to the domain's memory"
        )
    if found.partial:
        notes.append(f"{found.partial} bytes of incomplete pages were left out")
    return _Found(trace, form, tuple(notes))


def _of_list(args: argparse.Namespace, form: str) -> _Found:
    if form == "hashes-text":
        if given := [word for word in ("skip", "count", "big_endian") if getattr(args, word) is not None]:
            raise UsageError(f"--{given[0].replace('_', '-')} needs --format hashes-binary", "remove it")
        found = hash_list.read_text(args.file, args.bits)
    else:
        found = hash_list.read_binary(
            args.file, args.bits or 32, big_endian=bool(args.big_endian), skip=args.skip, count=args.count
        )
    if args.zero_hash is not None and args.zero_hash >> found.bits:
        raise UsageError(f"--zero-hash {args.zero_hash:x} has more than {found.bits} bits", "correct it")
    trace = Trace.of(
        hash_list.to_digest(found, args.page_size or PAGE_SIZE, args.zero_hash),
        host=args.host,
        domain=args.domain,
        uuid=args.uuid,
        scanned_at=args.at,
        seed=f"foreign-{args.hash_name or found.bits}",
        mode=MODE,
        hash_bits=found.bits,
    )
    return _Found(trace, form, tuple(_list_notes(args, found, trace)))


def _list_notes(args: argparse.Namespace, found: hash_list.HashList, trace: Trace) -> list[str]:
    about = trace.info
    notes = []
    if found.header_bytes:
        header = f"{found.header_bytes} bytes" if found.base is None else f"the text up to line {found.header_bytes}"
        notes.append(f"skipped as a header: {header} at the beginning")
    if found.base is not None:
        notes.append(f"the hashes were read as {'hexadecimal' if found.base == 16 else 'decimal'}")  # noqa: PLR2004
    if args.zero_hash is None:
        most = int(trace.pages.argmax())
        value = f"{hash_list.listed_hash(int(trace.hashes[most])):0{found.bits // 4}x}"
        notes.append(
            "without --zero-hash, zero pages cannot be identified and count as copies of one content; "
            f"the most frequent hash, of {trace.pages[most]} pages, is {value}"
        )
    if found.bits < 64:  # noqa: PLR2004
        notes.append(
            f"with hashes of {found.bits} bits, about "
            f"{expected_self_collisions(about.distinct_pages, found.bits):.3g} of the "
            f"{about.duplicate_pages} duplicate pages are expected to be collisions"
        )
    return notes


def _document(path: Path, about: TraceInfo, found: _Found) -> dict[str, object]:
    fields = asdict(about) | {
        "path": str(path),
        "format": found.form,
        "scanned_at": datetime.fromtimestamp(about.scanned_at, UTC).isoformat().replace("+00:00", "Z"),
        "memory_pages": about.memory_pages,
        "duplicate_pages": about.duplicate_pages,
        "notes": found.notes,
    }
    del fields["host_memory"]
    return fields


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a time; use the form 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None or moment.year not in YEARS:
        raise ArgumentTypeError(f"{text!r} is without a time zone, or out of range; use the form 2026-01-31T12:00:00Z")
    return moment.timestamp()


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a UUID; use the output of `virsh domuuid`") from error


def _page_sizes(text: str) -> tuple[int, ...]:
    """Parse page sizes. Return them ascending, without duplicates and without PAGE_SIZE."""
    return tuple(sorted({_page_size(word.strip()) for word in text.split(",")} - {PAGE_SIZE}))


def _hash(text: str) -> int:
    found = HEX.fullmatch(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a hash; use up to 16 hexadecimal digits")
    return int(found[1], 16)


def _hash_name(text: str) -> str:
    if HASH_NAME.fullmatch(text) is None:
        raise ArgumentTypeError(f"{text!r} is not a valid name; use letters, digits, dots, underscores and hyphens")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - below 2**63
        raise ArgumentTypeError(f"{text!r} is not a number of bytes or hashes; use for example 4096")
    return int(text)
