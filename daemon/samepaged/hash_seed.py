"""The seed of the page hashes: created once per host and stored, so that hashes stay comparable over time."""

from __future__ import annotations

import logging
import os
import re
import secrets
from typing import TYPE_CHECKING

from samepaged.errors import ConfigError, Fault
from samepaged.log_line import details
from samepaged.os_errors import exhausted, no_resources

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load", "read"]

log = logging.getLogger(__name__)


def load(configured: int | None, state_directory: Path) -> int:
    """Return the seed (64 bits): the configured one, the one in the state directory, or a new one, which is stored
    there.

    Without a seed, a hash would reveal whether a guest has a page with known content. If the file can be neither read
    nor created, logs a warning and returns a seed for this run. Raises ConfigError if the file is damaged, and
    GuestError if a resource is exhausted.
    """
    if configured is not None:
        return configured
    path = state_directory / "seed"
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return _unstored_seed(path, error)
    seed = secrets.randbits(64)
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _store(path, seed)
    except OSError as error:
        return _unstored_seed(path, error)


def read(path: Path) -> int:
    """Read the seed from this file. Raises OSError, and ConfigError if it does not contain a seed."""
    text = path.read_bytes().strip()
    if re.fullmatch(rb"[0-9a-f]{16}", text) is None:
        raise ConfigError(
            Fault(
                f"{path}: does not contain a seed of 16 hexadecimal digits",
                "remove it, so that samepaged creates another one (old and new hashes are not comparable), or set "
                "hashing.seed",
            )
        )
    return int(text, 16)


def _store(path: Path, seed: int) -> int:
    """Write the seed to a temporary file and link it into place, so that concurrent processes use one seed."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{seed:016x}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return read(path)
    finally:
        partial.unlink(missing_ok=True)
    return seed


def _unstored_seed(path: Path, error: OSError) -> int:
    if exhausted(error):
        raise no_resources(str(path), error) from error  # a file that exists would be ignored for one of another seed
    remedy = "make the directory writable, or set hashing.seed"
    log.warning(
        "hash seed not stored, hashes comparable within this run only%s",
        details(path=path, error=error.strerror, remedy=remedy),
    )
    return secrets.randbits(64)
