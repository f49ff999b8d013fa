"""KSM activity, and pausing KSM for a while."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError
from samepaged.log_line import details
from samepaged.os_errors import exhausted, no_resources
from samepaged.procfs import names_living, start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["activity", "is_running", "paused", "restore", "was_left_paused"]

log = logging.getLogger(__name__)

KSM: Final = Path("/sys/kernel/mm/ksm")
# Counters that change whenever KSM has scanned pages.
COUNTERS: Final = ("full_scans", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "pages_scanned")
JOURNAL_NAME: Final = "ksm-run"


def _read(name: str) -> str | None:
    """Read a sysfs file of KSM; None if the kernel lacks KSM. Raises GuestError if a resource is exhausted."""
    try:
        return (KSM / name).read_text().strip()
    except OSError as error:
        if exhausted(error):
            raise no_resources(f"{KSM}/{name}", error) from error
        return None


def is_running() -> bool:
    """Whether KSM merges pages now. Raises GuestError if a resource is exhausted."""
    return _read("run") == "1"


def activity() -> tuple[str | None, ...]:
    """A value that differs from an earlier one if KSM was active in between. Raises GuestError as `is_running`."""
    return tuple(_read(name) for name in ("run", *COUNTERS))


@contextlib.contextmanager
def paused(directory: Path) -> Iterator[bool]:
    """Pause KSM during the context, and resume it at the end; yields whether KSM is paused. A journal in `directory` is
    written first, so that `restore` can resume KSM if this process dies. Raises GuestError as `is_running`.
    """
    if not is_running():
        yield True
        return
    journal = directory / JOURNAL_NAME
    with contextlib.ExitStack() as opened:
        try:
            # Kept open, because opening it again to resume KSM could fail for lack of a descriptor.
            run = os.open(KSM / "run", os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, run)
            journal.write_text(f"{os.getpid()} {start_time(os.getpid())}\n")
            os.pwrite(run, b"0\n", 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                journal.unlink(missing_ok=True)
            if exhausted(error):
                raise no_resources(f"{KSM}/run", error) from error
            log.warning(
                "cannot pause KSM, scan.still_ksm needs write access to its run file%s",
                details(file=KSM / "run", error=error.strerror),
            )
            yield False
            return
        try:
            yield True
        finally:
            _restore_run(run, journal)


def restore(directory: Path, ended: int | None = None) -> None:
    """Resume KSM if it was paused with a journal in this directory by a process that has ended, or by PID `ended`."""
    journal = directory / JOURNAL_NAME
    try:
        holder = journal.read_text().split()
        if holder[:1] != [str(ended)] and _is_alive(holder):
            return
        # Another program may have written to the file since; only the value written by `paused` is undone.
        if _read("run") == "0":
            (KSM / "run").write_text("1\n")
        journal.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except (OSError, GuestError) as error:
        log.critical("KSM may still be paused, write 1 to its run file%s", details(file=KSM / "run", error=error))


def _restore_run(run: int, journal: Path) -> None:
    """Undo the write of `paused`, unless another program has written to the file since."""
    try:
        if os.pread(run, 8, 0).strip() == b"0":
            os.pwrite(run, b"1\n", 0)
        journal.unlink(missing_ok=True)
    except OSError as error:
        log.critical(
            "cannot resume KSM, write 1 to its run file%s", details(file=KSM / "run", error=error.strerror or error)
        )


def was_left_paused(directory: Path) -> bool:
    """Whether KSM was paused with a journal in this directory by a process that has ended."""
    try:
        return not _is_alive((directory / JOURNAL_NAME).read_text().split())
    except OSError:
        return False


def _is_alive(holder: list[str]) -> bool:
    return len(holder) == len(("pid", "start time")) and names_living(*holder)
