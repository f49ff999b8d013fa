"""Resuming what a samepaged that is no more has left suspended."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from samepaged import ksm
from samepaged.errors import HypervisorError
from samepaged.guard.directories import places
from samepaged.guard.journal import JournalError, Left, left
from samepaged.guard.resume import ResumeOutcome, rescue
from samepaged.hypervisor.connection import Hypervisor
from samepaged.hypervisor.dumps import release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["recover"]

log = logging.getLogger(__name__)


def recover(configured: Path, give_up: Callable[[], bool], uri: str | None = None) -> list[str]:
    """Resume every guest that the journal names, set KSM going again where it was held still, and sweep up. libvirt is
    asked at `uri`, or where the entry says. What could not be done, a line each; it is tried until `give_up` says so,
    and the journal keeps it. Without a journal, libvirt is not even asked.
    """
    troubles: list[str] = []
    for directory in places(configured):
        # Another user's files in a directory that all may write to are not ours to believe.
        if directory.is_dir() and (directory == configured or directory.stat().st_uid == os.geteuid()):
            ksm.put_back(directory)
            release(directory)  # first: a dump that nobody reads from holds its guest
            for found in left(directory):
                trouble = _settle(found, give_up, uri)
                if trouble is not None:
                    log.error(trouble)
                    troubles.append(trouble)
    return troubles


def _settle(found: Left | JournalError, give_up: Callable[[], bool], uri: str | None) -> str | None:
    """Resume what one file names, and remove it; a line where that was not to be done."""
    if isinstance(found, JournalError):
        return str(found)
    entry = found.entry
    if entry is not None:
        hypervisor = Hypervisor(uri or entry.uri, stop=give_up)
        try:
            outcome = rescue(hypervisor, entry, in_flight=True, give_up=give_up)
        except HypervisorError as error:
            return str(error)
        finally:
            hypervisor.close()
        if outcome is ResumeOutcome.SUSPENDED:
            log.error("domain %r was left suspended by a samepaged that ended, and has been resumed", entry.name)
    try:
        found.clear()
    except OSError as error:
        return f"{found.path} cannot be removed ({error.strerror}); remove it"
    return None
