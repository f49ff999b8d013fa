"""The journal: which guest a process of samepaged has suspended, written and synced before the suspension, cleared
after the resume. Whoever comes after a crash reads from it whom to resume.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from samepaged.errors import GuestError, Reason, SamepagedError
from samepaged.os_errors import exhausted, no_resources
from samepaged.procfs import names_living, start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "Journal", "JournalError", "Left", "boot_id", "left"]

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PATTERN: Final = "suspended-*-*"
# An entry is a few hundred bytes; what is longer is not ours.
LONGEST: Final = 1 << 16
UUID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")  # as libvirt reads them
LARGEST_ID: Final = 2**31 - 1


class JournalError(SamepagedError):
    """A file of the journal says nothing that can be understood."""


@functools.cache
def boot_id() -> str:
    """The kernel's name for this boot of the host: after another one, no entry means anything. Raises GuestError."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise no_resources(str(BOOT_ID), error) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A guest that is about to be suspended, or is. The UUID alone would also be that of the guest's next life:
    libvirt's id is new with each start of a domain, and counts anew with each boot.
    """

    uri: str
    uuid: str
    id: int
    name: str
    boot: str

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """The entry of a file's content. Raises JournalError."""
        try:
            found: Any = json.loads(line) if line.endswith(b"\n") and len(line) <= LONGEST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.keys() != {field.name for field in fields(cls)}:
            raise JournalError("it is not an entry of samepaged's journal")
        texts = [value for key, value in found.items() if key != "id"]
        if not all(isinstance(text, str) and _is_c(text) for text in texts) or type(found["id"]) is not int:
            raise JournalError("it has an entry of samepaged's journal with values of other kinds")
        if not UUID.fullmatch(found["uuid"]) or not 0 < found["id"] <= LARGEST_ID:
            raise JournalError("it has an entry of samepaged's journal that names no domain")
        return cls(**found)


def _is_c(text: str) -> bool:
    """Whether libvirt can be told it: whoever recovers must not fail on what it cannot even ask about."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


class Journal:
    """The journal of this process, in a file of its own in `directory`. The file is made with the first entry and
    written in place: an entry costs a write and a sync.
    """

    def __init__(self, directory: Path) -> None:
        pid = os.getpid()
        try:
            started = start_time(pid)
        except OSError as error:
            raise no_resources(f"/proc/{pid}/stat", error) from error
        self.path = directory / f"suspended-{pid}-{started}"
        self._file: int | None = None

    def write(self, entry: Entry) -> None:
        """Note a guest, before it is suspended. Raises GuestError where that cannot be done: then it must not be."""
        try:
            if self._file is None or not self.path.exists():
                self.close()
                self._file = _create(self.path)
            _overwrite(self._file, entry.line())
        except OSError as error:
            self.close()
            if exhausted(error):
                raise no_resources(f"the journal in {self.path.parent}", error) from error
            raise GuestError(
                Reason.NO_JOURNAL,
                f"domain {entry.name!r} is not suspended, as this cannot be noted in {self.path.parent} "
                f"({error.strerror}); make room there, or set runtime_directory",
            ) from error

    def clear(self) -> None:
        """The guest runs again. Not synced: an entry of a guest that runs harms nobody."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)

    def leave(self) -> None:
        """Let go of the file, and leave its entry to whoever comes after."""
        opened, self._file = self._file, None
        if opened is not None:
            os.close(opened)

    def close(self) -> None:
        """Remove the file, and with it an entry that was not cleared."""
        opened, self._file = self._file, None
        if opened is not None:
            os.close(opened)
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _create(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError:
        os.close(file)
        raise
    return file


def _overwrite(file: int, line: bytes) -> None:
    os.ftruncate(file, 0)
    written = os.pwrite(file, line, 0)
    if written != len(line):  # a full disk may take a part; the next write then says why
        os.pwrite(file, line[written:], written)
    os.fdatasync(file)


@dataclass(frozen=True, slots=True)
class Left:
    """What a process that is no more has left in its file: an entry, or None where it had suspended nobody."""

    path: Path
    entry: Entry | None

    def clear(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def left(directory: Path) -> Iterator[Left | JournalError]:
    """The files of processes that are no more. An entry of another boot is none: its guests are gone. A file that
    cannot be understood is given as an error, and stays.
    """
    try:
        # Not Path.glob, which from Python 3.13 on takes a directory that cannot be opened for an empty one.
        paths = sorted(path for path in directory.iterdir() if path.match(PATTERN))
    except OSError as error:
        yield JournalError(f"{directory} cannot be read ({error.strerror}); run `samepaged recover` as root")
        return
    for path in paths:
        _, pid, started = path.name.split("-", 2)
        if names_living(pid, started):
            continue
        try:
            content = path.read_bytes()
            # A file that was torn in the middle of its one write was never synced: nobody was suspended yet.
            entry = Entry.parse(content) if content.endswith(b"\n") else None
            found = Left(path, None if entry is None or entry.boot != boot_id() else entry)
        except JournalError as error:
            yield JournalError(
                f"{path} is left as it is: {error}; see which guests are paused (`virsh list`), remove it"
            )
        except (OSError, GuestError) as error:
            yield JournalError(f"{path} cannot be read ({error}); run `samepaged recover` as root")
        else:
            yield found
