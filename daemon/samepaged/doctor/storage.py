"""Checks of the files on disk: the configuration, the seed, the journal and the traces."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged import hash_seed
from samepaged.config import Config, load
from samepaged.doctor.check import Check, Status, failure, from_error, from_fault, ok, warning
from samepaged.errors import ConfigError, Fault
from samepaged.guard.journal import JournalError, candidate_directories, is_orphaned, open_entries
from samepaged.traces.database import is_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.guard.journal import FileName, OpenEntry

__all__ = [
    "DirectoryState",
    "SeedFileState",
    "configuration",
    "directory_state",
    "journal",
    "read_configuration",
    "runtime_directory",
    "seed",
    "state_directory",
    "storage",
]

DEFAULT_CONFIG: Final = Path("/etc/samepaged/config.yaml")
# The size of the journal and a seed, and a margin.
MIN_FREE_BYTES: Final = 1 << 20
READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """State of a directory for this user. `creatable`: it does not exist, and this user can create it. `free_bytes`:
    free disk space, None if unknown. `readable_by_others`: whether other users have access.
    """

    path: Path
    exists: bool
    writable: bool
    creatable: bool
    free_bytes: int | None
    readable_by_others: bool


@dataclass(frozen=True, slots=True)
class SeedFileState:
    """State of the seed file. `readable_by_others`: whether users other than its owner may read it. `error`:
    ConfigError for invalid content, OSError if it cannot be read.
    """

    path: Path
    exists: bool
    readable_by_others: bool
    error: ConfigError | OSError | None


def configuration(
    path: Path | None, faults: Sequence[Fault], *, readable_by_others: bool, other_file: bool
) -> list[Check]:
    """Check the configuration. `faults`: its errors. `readable_by_others`: whether it has a seed that other users can
    read. `other_file`: whether the default path has a configuration file that these checks do not use.
    """
    name = "configuration"
    if faults:
        return [
            from_fault(name, fault, "see docs/reference/configuration.md; the other checks use the defaults")
            for fault in faults
        ]
    if readable_by_others:
        return [
            warning(
                name,
                f"{path} contains the seed of the hashes and is readable by all users",
                f"chmod o= {shlex.quote(str(path))}",
            )
        ]
    if path is not None:
        return [ok(name, f"{path}")]
    if other_file:
        return [
            warning(
                name,
                f"the checks use the built-in defaults, not {DEFAULT_CONFIG}",
                f"samepaged doctor --config {DEFAULT_CONFIG}",
            )
        ]
    return [ok(name, "the built-in defaults (select a file with --config)")]


def _problem(directory: DirectoryState, user: str) -> str:
    fault = f"is not usable by user {user}" if directory.exists else f"does not exist, and user {user} cannot create it"
    return f"{directory.path} {fault}"


def _remedy(directory: DirectoryState, user: str, key: str) -> str:
    """Return the remedy for an unusable directory. An existing directory may belong to the service, so the remedy does
    not change its owner.
    """
    if directory.exists:
        return f"run it as the directory's owner, or as root; or set {key}"
    return f"sudo install -d -m 700 -o {shlex.quote(user)} {shlex.quote(str(directory.path))}; or set {key}"


def state_directory(directory: DirectoryState, user: str, *, seeded: bool) -> Check:
    """Check whether the seed can be stored. `seeded`: whether the configuration has a seed."""
    name = "state directory"
    if directory.writable or directory.creatable:
        if directory.free_bytes is not None and directory.free_bytes < MIN_FREE_BYTES and not seeded:
            return warning(
                name, f"the disk of {directory.path} is full: a new seed could not be stored", "free disk space there"
            )
        return ok(name, f"{directory.path}" + ("" if directory.writable else " (created on first use)"))
    if seeded:
        return ok(name, f"{_problem(directory, user)}; not needed, because hashing.seed is set")
    return warning(
        name,
        f"{_problem(directory, user)}: the hashes of different runs are not comparable",
        _remedy(directory, user, "state_directory"),
    )


def runtime_directory(candidates: Sequence[DirectoryState], user: str) -> Check:
    """Check whether the journal of suspended guests can be stored, in the first directory or in a fallback."""
    name = "runtime directory"
    first = candidates[0]
    remedy = _remedy(first, user, "runtime_directory")
    chosen = next((one for one in candidates if one.writable or one.creatable), None)
    if chosen is None:
        return failure(name, f"{_problem(first, user)}: without a journal, samepaged does not suspend guests", remedy)
    if chosen.free_bytes is not None and chosen.free_bytes < MIN_FREE_BYTES:
        return failure(
            name,
            f"the disk of {chosen.path} is full: samepaged does not suspend a guest without a journal entry",
            "free disk space there, or set runtime_directory",
        )
    if chosen is not first:
        return warning(name, f"{_problem(first, user)}; {chosen.path} is used instead", remedy)
    if first.readable_by_others:
        return warning(name, f"other users can access {first.path}", f"chmod 700 {shlex.quote(str(first.path))}")
    return ok(name, f"{first.path}" + ("" if first.writable else " (created on first use)"))


def traces(directory: DirectoryState, user: str, *, installed: bool) -> Check:
    """Check whether the enabled traces can be stored. `installed`: whether DuckDB is installed."""
    name = "traces"
    if not installed:
        return failure(
            name,
            "DuckDB is not installed, and samepaged run does not start without it",
            "pip install 'samepaged[traces]', or set traces.enabled: false",
        )
    if not directory.writable and not directory.creatable:
        return warning(
            name, f"{_problem(directory, user)}: traces are not stored", _remedy(directory, user, "traces.directory")
        )
    if directory.free_bytes is not None and directory.free_bytes < MIN_FREE_BYTES:
        return warning(name, f"the disk of {directory.path} is full: traces are not stored", "free disk space there")
    if directory.readable_by_others:
        return warning(
            name, f"other users can access {directory.path}", f"chmod 700 {shlex.quote(str(directory.path))}"
        )
    return ok(name, f"{directory.path}" + ("" if directory.writable else " (created on first use)"))


def seed(file: SeedFileState, *, seeded: bool) -> Check:
    """Check whether the seed of the hashes exists and is secret. `seeded`: whether the configuration has a seed."""
    name = "seed"
    if seeded:
        return ok(name, "from the configuration (hashing.seed)")
    if isinstance(file.error, ConfigError):
        return from_error(name, file.error, "remove it; the next scan creates a new seed")
    if file.error is not None:
        return warning(
            name,
            f"not checked: {file.path} cannot be read ({file.error.strerror})",
            "run it as root or as samepaged's user",
        )
    if not file.exists:
        return ok(name, "does not exist yet; the first scan creates it")
    if file.readable_by_others:
        return warning(
            name,
            f"other users can read {file.path}: with the seed, a hash reveals whether a guest has a known page",
            f"chmod 600 {shlex.quote(str(file.path))}",
        )
    return ok(name, f"{file.path}, readable by its owner only")


def journal(found: Sequence[OpenEntry | JournalError], unreadable: Sequence[Path]) -> list[Check]:
    """Report the open journal entries, and the journal directories that could not be read."""
    name = "journal"
    checks = []
    for one in found:
        if isinstance(one, JournalError):
            checks.append(from_error(name, one, "samepaged recover, as root", Status.WARNING))
        else:
            checks.append(
                failure(
                    name,
                    f"open entry: guest {one.entry.name!r} may be left suspended by samepaged, or a suspend call may "
                    "still be queued in libvirt",
                    "samepaged recover, as root and with the same --config",
                )
            )
    checks += [
        warning(name, f"not checked: {path} cannot be read", "run it as root, or as the directory's owner")
        for path in unreadable
    ]
    return checks or [ok(name, "empty (no guest left suspended)")]


def _may_be_open(name: FileName) -> bool:
    return name.number is not None or is_orphaned(name)


def directory_state(path: Path) -> DirectoryState:
    """Return the state of a directory for this user, without a change to it."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return DirectoryState(
            path, exists=True, writable=False, creatable=False, free_bytes=None, readable_by_others=False
        )
    except OSError:
        above = next((one for one in path.parents if one.exists()), Path("/"))
        makeable = above.is_dir() and _may_write(above)
        return DirectoryState(
            path, exists=False, writable=False, creatable=makeable, free_bytes=_free(above), readable_by_others=False
        )
    usable = stat.S_ISDIR(mode) and _may_write(path)
    exposed = bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
    return DirectoryState(
        path, exists=True, writable=usable, creatable=False, free_bytes=_free(path), readable_by_others=exposed
    )


def _may_write(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _seed_file(directory: Path) -> SeedFileState:
    path = directory / "seed"
    try:
        hash_seed.read(path)
        exposed = bool(path.stat().st_mode & READABLE_BY_OTHERS)
    except FileNotFoundError:
        return SeedFileState(path, exists=False, readable_by_others=False, error=None)
    except ConfigError as error:
        return SeedFileState(path, exists=True, readable_by_others=False, error=error)
    except OSError as error:
        return SeedFileState(path, exists=True, readable_by_others=False, error=error)
    return SeedFileState(path, exists=True, readable_by_others=exposed, error=None)


def _readable_by_others(path: Path | None) -> bool:
    """Return whether all users may read this file. Its group is not considered: it may be the service's group."""
    try:
        return path is not None and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def read_configuration(path: Path | None) -> tuple[Config, list[Check]]:
    """Return the configuration, or the defaults if it is invalid, and its checks."""
    faults: Sequence[Fault] = ()
    try:
        config = load(path)
    except ConfigError as error:
        config, faults = Config(), error.faults
    exposed = config.hashing.seed is not None and _readable_by_others(path)
    return config, configuration(
        path, faults, readable_by_others=exposed, other_file=path is None and DEFAULT_CONFIG.exists()
    )


def storage(config: Config, user: str) -> list[Check]:
    """Return all checks of the directories, as this user sees them."""
    seeded = config.hashing.seed is not None
    candidates = candidate_directories(config.runtime_directory)
    found: list[OpenEntry | JournalError] = []
    unreadable: list[Path] = []
    for path in candidates:
        try:
            owner = path.stat().st_uid
            # As in `samepaged recover`, do not trust a fallback directory that another user created in a world-writable
            # place.
            if path == config.runtime_directory or owner == os.geteuid():
                os.scandir(path).close()
                found += open_entries(path, _may_be_open)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            unreadable.append(path)
    return [
        state_directory(directory_state(config.state_directory), user, seeded=seeded),
        seed(_seed_file(config.state_directory), seeded=seeded),
        runtime_directory([directory_state(path) for path in candidates], user),
        *journal(found, unreadable),
        *(
            [traces(directory_state(config.traces.directory), user, installed=is_installed())]
            if config.traces.enabled
            else []
        ),
    ]
