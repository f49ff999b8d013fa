"""Types of kernels that do not bring their own, as the operator has laid them down: files BUILD-ID.btf."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOST_TYPES", "types_of"]

log = logging.getLogger(__name__)

# Bytes; a distribution's kernel has 5 MiB.
MOST_TYPES: Final = 1 << 26
# As in VMCOREINFO. It comes from the guest, and becomes a part of a path.
BUILD: Final = re.compile(r"[0-9a-f]{8,64}")


def types_of(directory: Path | None, build: str | None) -> bytes:
    """The file for this build, or nothing."""
    if directory is None or build is None or not BUILD.fullmatch(build):
        return b""
    path = directory / f"{build}.btf"
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_TYPES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("%s cannot be read (%s): the kernel's types stay unknown", path, error.strerror)
        return b""
    if len(raw) > MOST_TYPES:
        log.warning("%s has more than %d bytes, and is no file of types", path, MOST_TYPES)
        return b""
    return raw
