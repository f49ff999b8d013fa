"""What KSM has merged of the guests that are known."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from samepaged.errors import GuestError
from samepaged.ksm import host_merging, process_merging
from samepaged.procfs import start_time
from samepaged.scan.snapshot import Merging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.guest_id import GuestId
    from samepaged.scan.guest import ScannedGuest

__all__ = ["read_merging"]


log = logging.getLogger(__name__)


def read_merging(known: Mapping[GuestId, ScannedGuest], before: Merging | None = None) -> Merging | None:
    """KSM's counters of the host, and of each guest's process that is still the one that was scanned. `before` if they
    cannot be read now.
    """
    try:
        return _read(known)
    except (GuestError, OSError) as error:
        log.warning("KSM's counters stay as they were: %s", error)
        return before


def _read(known: Mapping[GuestId, ScannedGuest]) -> Merging | None:
    host = host_merging()
    if host is None:
        return None
    guests = {}
    for guest_id, one in known.items():
        merged = process_merging(one.process.pid)
        if merged is not None and start_time(one.process.pid) == one.process.start_time:
            guests[guest_id] = merged
    return Merging(host, guests)
