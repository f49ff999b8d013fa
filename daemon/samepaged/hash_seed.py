"""The seed of the page hashes: made once a host, and kept so that hashes of one day compare with those of the next."""

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
    """The seed (64 bits): the configured one, or the one kept in the state directory, or a new one kept there.

    Without a seed, anybody could tell from a hash whether a guest holds a page that they know. Raises ConfigError where
    the file that keeps it is damaged, and GuestError if a resource is exhausted; where it can be neither read nor made,
    says so and gives a seed for this run.
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
    """The seed kept in this file. Raises OSError, and ConfigError where it holds none."""
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
    """Write the seed under a name of its own and link it into place: two that start at once use one seed."""
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
