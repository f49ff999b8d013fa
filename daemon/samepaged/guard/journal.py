"""The journal: the guest that a process of samepaged suspends, written and synced before the suspend call and cleared
after the resume; and the runtime directory, which has the journal and the FIFO of a dump.

An entry that a crash leaves, or that a living process could not settle (a suspend or resume call that did not return),
is open: guard, daemon and `samepaged recover` work on it until it is certain that no suspend call is under way and
that the guest is not paused by samepaged. Only then is its file removed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from samepaged.errors import GuestError, Reason, SamepagedError
from samepaged.os_errors import exhausted, no_resources
from samepaged.procfs import boot_id, names_living, start_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Entry",
    "FileName",
    "Journal",
    "JournalError",
    "OpenEntry",
    "RuntimeDirectory",
    "candidate_directories",
    "is_orphaned",
    "open_entries",
    "runtime_directory",
]


@dataclass(frozen=True)
class RuntimeDirectory:
    """A writable directory. `fallback_reason` is the reason for a substitute; empty for the configured directory."""

    path: Path
    fallback_reason: str


def candidate_directories(configured: Path) -> list[Path]:
    """The candidates for the runtime directory, in order: the configured one, then its substitutes. Each may have files
    of an earlier run.
    """
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    others = [Path(own) / "samepaged"] if own.startswith("/") else []
    with contextlib.suppress(FileNotFoundError):  # no writable directory for temporary files
        others.append(Path(tempfile.gettempdir()) / f"samepaged-{os.geteuid()}")
    return [configured, *others]


def runtime_directory(configured: Path) -> RuntimeDirectory:
    """Return the first writable candidate. Raises SamepagedError if all fail."""
    troubles: list[str] = []
    for path in candidate_directories(configured):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path != configured:
                _check_owner(path)
            with tempfile.TemporaryFile(dir=path, buffering=0) as file:
                file.write(bytes(512))  # a disk may have a free inode, but not a free block
                return RuntimeDirectory(
                    path, f"files cannot be created in {', or in '.join(troubles)}" if troubles else ""
                )
        except OSError as error:
            if exhausted(error):  # another directory would not help
                raise no_resources(f"a file in {path}", error) from error
            troubles.append(f"{path} ({error.strerror or error})")
    raise SamepagedError(
        f"files cannot be created in {', or in '.join(troubles)}", "make room, or set runtime_directory"
    )


def _check_owner(path: Path) -> None:
    # In a world-writable directory, another user may have created it first.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"the directory is not private to this user: {path}")


PATTERN: Final = "suspended-*-*"
# An entry has a few hundred bytes; a longer file is not from samepaged.
MAX_FILE_BYTES: Final = 1 << 16
UUID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")  # the forms that libvirt accepts
MAX_DOMAIN_ID: Final = 2**31 - 1


class JournalError(SamepagedError):
    """A file of the journal is not valid."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A guest that is suspended, or about to be. The UUID does not change when the domain is restarted, so the entry
    has libvirt's id as well, which is new with each start of the domain, and the boot id, because the ids restart at
    each boot.
    """

    uri: str
    uuid: str
    id: int
    name: str
    boot: str

    def line(self) -> bytes:
        """The entry as a line of the file."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Parse a file's content. Raises JournalError."""
        try:
            found: Any = json.loads(line) if line.endswith(b"\n") and len(line) <= MAX_FILE_BYTES else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.keys() != {field.name for field in fields(cls)}:
            raise JournalError("it is not a samepaged journal entry")
        texts = [value for key, value in found.items() if key != "id"]
        if not all(isinstance(text, str) and is_c_string(text) for text in texts) or type(found["id"]) is not int:
            raise JournalError("the journal entry has values of the wrong type")
        if not UUID.fullmatch(found["uuid"]) or not 0 < found["id"] <= MAX_DOMAIN_ID:
            raise JournalError("the journal entry has an invalid domain UUID or id")
        return cls(**found)


def is_c_string(text: str) -> bool:
    """Whether libvirt's C API accepts the text; recovery must not fail on an entry that it cannot look up."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class FileName:
    """The parts of a journal file's name: the process by pid and start time (clock ticks since boot), and a number if
    the process has left the entry open while it lives; None for the file of its current suspension.
    """

    pid: str
    start_time: str
    number: str | None

    @classmethod
    def parse(cls, name: str) -> Self:
        """The parts of `suspended-PID-START` and `suspended-PID-START-NUMBER`."""
        _, pid, rest = name.split("-", 2)
        start_time, dash, number = rest.partition("-")
        return cls(pid, start_time, number if dash else None)


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
        # The file has an open entry that must not be overwritten: of this journal, or of an earlier one in this process
        # that could not rename it.
        self._to_rename = _has_content(self.path)

    def write(self, entry: Entry) -> None:
        """Write and sync the entry of a guest before its suspension. Raises GuestError on failure: then the guest must
        not be suspended.
        """
        try:
            if self._to_rename:
                self._rename()
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
                f"is not suspended, because {self.path.parent} cannot store its journal entry ({error.strerror})",
                "make room there, or set runtime_directory",
                domain=entry.name,
            ) from error

    def clear(self) -> None:
        """Clear the entry after the resume. Not synced: the entry of a running guest is harmless."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)

    def leave_open(self) -> Path | None:
        """Leave the current entry open, and start another file with the next entry. Returns the file of the open entry,
        or None if the rename failed: then the next `write` tries again first.
        """
        opened, self._file = self._file, None
        if opened is not None:
            os.close(opened)
            self._to_rename = True
        try:
            return self._rename()
        except OSError:
            return None

    def _rename(self) -> Path:
        """Give the file the first free number of this process: another journal of it may have used some."""
        numbered = (self.path.with_name(f"{self.path.name}-{number}") for number in itertools.count(1))
        path = next(path for path in numbered if not path.exists())
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile: nothing to preserve
            self.path.rename(path)
        self._to_rename = False
        return path

    def close(self) -> None:
        """Remove the file, and with it an entry that was not cleared."""
        opened, self._file = self._file, None
        if opened is not None:
            os.close(opened)
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


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
    if written != len(line):  # a full disk may accept a part; the next write then raises the error
        os.pwrite(file, line[written:], written)
    os.fdatasync(file)


@dataclass(frozen=True, slots=True)
class OpenEntry:
    """An open entry and its file. `since` is the time of the suspend call, in seconds of the Unix epoch. An entry with
    `in_memory` comes from a message; its file may be lost.
    """

    path: Path
    entry: Entry
    since: float
    in_memory: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is still open: a samepaged process that settles it removes the file."""
        return self.in_memory or self.path.exists()

    def clear(self) -> None:
        """Remove the file. Raises OSError."""
        self.path.unlink(missing_ok=True)


def is_orphaned(name: FileName) -> bool:
    """Whether the process that wrote the file has ended; no other process works on its entry."""
    return not names_living(name.pid, name.start_time)


def open_entries(
    directory: Path, selects: Callable[[FileName], bool] = is_orphaned, *, remove_closed: bool = False
) -> Iterator[OpenEntry | JournalError]:
    """Yield the open entries of the files with a name that `selects` accepts. An invalid file yields an error, and
    stays. With `remove_closed`, files of ended processes are removed if they are empty or from an earlier boot.
    """
    try:
        # Not Path.glob, which from Python 3.13 on takes a directory that cannot be opened for an empty one.
        paths = sorted(path for path in directory.iterdir() if path.match(PATTERN))
    except FileNotFoundError:
        return
    except OSError as error:
        yield JournalError(f"{directory} cannot be read ({error.strerror})", "run `samepaged recover` as root")
        return
    for path in paths:
        name = FileName.parse(path.name)
        if not selects(name):
            continue
        try:
            content = path.read_bytes()
            since = path.stat().st_mtime
            # A file that was torn in the middle of its one write was never synced: the suspend call was yet to come.
            entry = Entry.parse(content) if content.endswith(b"\n") else None
            if entry is not None and entry.boot == boot_id():
                found = OpenEntry(path, entry, since)
            else:
                if remove_closed and is_orphaned(name):
                    path.unlink(missing_ok=True)
                continue
        except FileNotFoundError:
            continue  # settled meanwhile
        except JournalError as error:
            yield JournalError(
                f"{path} is kept: {error}", "check for paused guests (`virsh list`), then remove the file"
            )
        except OSError as error:
            yield JournalError(f"{path} cannot be read or removed ({error})", "run `samepaged recover` as root")
        else:
            yield found
