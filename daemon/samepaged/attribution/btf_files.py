"""BTF files for kernels without BTF of their own: BUILD-ID.btf in the operator's directory."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from samepaged.log_line import details

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_BTF_FILE_BYTES", "read_btf_file"]

log = logging.getLogger(__name__)

# Bytes; a distribution's kernel has 5 MiB.
MAX_BTF_FILE_BYTES: Final = 1 << 26
# As in VMCOREINFO. It comes from the guest, and becomes part of a path.
BUILD_ID: Final = re.compile(r"[0-9a-f]{8,64}")


def read_btf_file(directory: Path | None, build_id: str | None) -> bytes:
    """Return the BTF file of this build, or empty bytes if there is none."""
    if directory is None or build_id is None or not BUILD_ID.fullmatch(build_id):
        return b""
    path = directory / f"{build_id}.btf"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BTF_FILE_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("cannot read BTF file, kernel types stay unknown%s", details(path=path, error=error.strerror))
        return b""
    if len(raw) > MAX_BTF_FILE_BYTES:
        log.warning("BTF file ignored, too large%s", details(path=path, max_bytes=MAX_BTF_FILE_BYTES))
        return b""
    return raw
