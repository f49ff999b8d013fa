"""Pauses of the last hour, as counters that several processes can merge."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BUCKET_SECONDS",
    "WINDOW_SECONDS",
    "Pauses",
    "bucket_number",
    "format_pauses",
    "merge",
    "parse_pauses",
    "seconds_until",
    "spent_seconds",
    "unexpired",
]

WINDOW_SECONDS: Final = 3600.0
# Pauses by one process that end in the same period of this length are one entry, which limits the number of entries.
BUCKET_SECONDS: Final = 10.0

SCHEMA: Final = 1
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WRITER: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_FIELDS: Final = 4
# Limit for a pause, and for the sum of pauses within one bucket: a day.
_MAX_PAUSE_SECONDS: Final = 86_400.0

Pauses: TypeAlias = dict[tuple[str, str, int], float]
"""Seconds suspended, by guest (UUID), writer (a random name of the process) and bucket. Only the writer increases an
entry, so a merge of two copies takes the larger value of each.
"""


def bucket_number(now: float) -> int:
    """The number of the bucket that contains the time `now` (CLOCK_MONOTONIC)."""
    return int(now // BUCKET_SECONDS)


def expiry_time(number: int) -> float:
    """The time at which a bucket leaves the window: an hour after the last pause that it can contain."""
    return (number + 1) * BUCKET_SECONDS + WINDOW_SECONDS


def unexpired(pauses: Mapping[tuple[str, str, int], float], now: float) -> Pauses:
    """The entries that have not left the window."""
    return {key: seconds for key, seconds in pauses.items() if expiry_time(key[2]) > now}


def merge(first: Mapping[tuple[str, str, int], float], second: Mapping[tuple[str, str, int], float]) -> Pauses:
    """All entries of both copies."""
    merged = dict(first)
    for key, seconds in second.items():
        merged[key] = max(seconds, merged.get(key, 0.0))
    return merged


def spent_seconds(pauses: Mapping[tuple[str, str, int], float], uuid: str, now: float) -> float:
    """Seconds for which the guest was suspended in the window."""
    return math.fsum(seconds for key, seconds in pauses.items() if key[0] == uuid and expiry_time(key[2]) > now)


def seconds_until(
    pauses: Mapping[tuple[str, str, int], float], uuid: str, now: float, *, limit: float, seconds: float
) -> float:
    """Wait in seconds until `seconds` of `limit` remain; infinite if `limit` is smaller."""
    if seconds > limit:
        return math.inf
    excess, until = spent_seconds(pauses, uuid, now) + seconds - limit, now
    for leaves, paused in sorted((expiry_time(key[2]), one) for key, one in pauses.items() if key[0] == uuid):
        if leaves <= now:
            continue
        if excess <= 0:
            break
        excess, until = excess - paused, leaves
    return until - now


def format_pauses(pauses: Mapping[tuple[str, str, int], float], boot_id: str) -> bytes:
    """The pauses as the content of the file."""
    rows = [[*key, seconds] for key, seconds in sorted(pauses.items())]
    return json.dumps({"schema": SCHEMA, "boot_id": boot_id, "pauses": rows}, separators=(",", ":")).encode()


def parse_pauses(content: bytes, boot_id: str, now: float) -> Pauses:
    """The entries in the content of a file that are in the window; none if the file is of another boot. Raises
    ValueError if the content does not have the format of `format_pauses`.
    """
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"not a JSON object of schema {SCHEMA}")
    if document.get("boot_id") != boot_id:
        return {}
    rows = document.get("pauses")
    if not isinstance(rows, list):
        raise ValueError("the list of pauses is missing")  # noqa: TRY004 - one error for all damage
    latest = bucket_number(now)
    found: Pauses = {}
    for row in rows:
        key, seconds = _entry(row)
        # A bucket in the future is invalid in this boot: it would delay scans for more than an hour.
        if key[2] > latest:
            raise ValueError("a pause ends in the future")
        found[key] = max(seconds, found.get(key, 0.0))
    return unexpired(found, now)


def _entry(row: object) -> tuple[tuple[str, str, int], float]:
    if not isinstance(row, list) or len(row) != _FIELDS:
        raise ValueError("a pause is not a list of four fields")
    uuid, writer, number, seconds = row
    if not (isinstance(uuid, str) and _UUID.fullmatch(uuid) and isinstance(writer, str) and _WRITER.fullmatch(writer)):
        raise ValueError("a pause without a UUID or a writer")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError("the bucket of a pause is not a whole number")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_PAUSE_SECONDS:
        raise ValueError("the length of a pause is not a number of seconds")
    return (uuid, writer, number), float(seconds)
