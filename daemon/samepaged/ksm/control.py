"""Is KSM at work, and holding it still for a while."""

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
# What grows or changes whenever KSM has looked at pages.
COUNTERS: Final = ("full_scans", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "pages_scanned")
JOURNAL_NAME: Final = "ksm-run"


def _read(name: str) -> str | None:
    """A file of KSM's; None if the kernel has no KSM. Raises GuestError if a resource is exhausted."""
    try:
        return (KSM / name).read_text().strip()
    except OSError as error:
        if exhausted(error):
            raise no_resources(f"{KSM}/{name}", error) from error
        return None


def is_running() -> bool:
    """Whether KSM merges pages now. Raises GuestError if this cannot be read."""
    return _read("run") == "1"


def activity() -> tuple[str | None, ...]:
    """A value that differs from an earlier one if KSM has worked in between. Raises GuestError as `is_running`."""
    return tuple(_read(name) for name in ("run", *COUNTERS))


@contextlib.contextmanager
def paused(directory: Path) -> Iterator[bool]:
    """Hold KSM still, and set it going again; whether this could be done. What it was is noted in `directory` first, so
    that `restore` can undo it after we died. Raises GuestError as `is_running`.
    """
    if not is_running():
        yield True
        return
    journal = directory / JOURNAL_NAME
    with contextlib.ExitStack() as opened:
        try:
            # Kept open, so that setting KSM going again needs no descriptor that may not be there by then.
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
    """Set KSM going again, if it was held still from this directory by a process that is no more, or by pid `ended`."""
    journal = directory / JOURNAL_NAME
    try:
        holder = journal.read_text().split()
        if holder[:1] != [str(ended)] and _is_alive(holder):
            return
        # Somebody else may have written to it since; only what `paused` wrote is undone.
        if _read("run") == "0":
            (KSM / "run").write_text("1\n")
        journal.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except (OSError, GuestError) as error:
        log.critical("KSM may still be paused, write 1 to its run file%s", details(file=KSM / "run", error=error))


def _restore_run(run: int, journal: Path) -> None:
    """Undo what `paused` wrote, unless somebody else has written to the file since."""
    try:
        if os.pread(run, 8, 0).strip() == b"0":
            os.pwrite(run, b"1\n", 0)
        journal.unlink(missing_ok=True)
    except OSError as error:
        log.critical(
            "cannot resume KSM, write 1 to its run file%s", details(file=KSM / "run", error=error.strerror or error)
        )


def was_left_paused(directory: Path) -> bool:
    """Whether it was held still from this directory by a process that is no more."""
    try:
        return not _is_alive((directory / JOURNAL_NAME).read_text().split())
    except OSError:
        return False


def _is_alive(holder: list[str]) -> bool:
    return len(holder) == len(("pid", "start time")) and names_living(*holder)
