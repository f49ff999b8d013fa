"""What is kept on disk: the configuration, the seed, the journal."""

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
# What the journal and a seed take, and a little more.
MIN_FREE_BYTES: Final = 1 << 20
READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """A directory as this user finds it. `creatable`: it is not there, and this user could make it. `free_bytes` is in
    bytes (None where it cannot be told), and `readable_by_others` says that others may look into it.
    """

    path: Path
    exists: bool
    writable: bool
    creatable: bool
    free_bytes: int | None
    readable_by_others: bool


@dataclass(frozen=True, slots=True)
class SeedFileState:
    """The file of the seed: whether it is there, whether others than its owner may read it, and what is wrong with it
    (ConfigError) or stands in the way of looking.
    """

    path: Path
    exists: bool
    readable_by_others: bool
    error: ConfigError | OSError | None


def configuration(
    path: Path | None, faults: Sequence[Fault], *, readable_by_others: bool, other_file: bool
) -> list[Check]:
    """Whether the configuration could be read (`faults` are its problems), whether it has a seed that others
    can read (`readable_by_others`), and whether there is one at the usual place that was not asked for (`other_file`).
    """
    name = "configuration"
    if faults:
        return [
            from_fault(name, fault, "see docs/reference/configuration.md; until then, the defaults are checked")
            for fault in faults
        ]
    if readable_by_others:
        return [
            warning(
                name,
                f"{path} holds the seed of the hashes, and everybody may read it",
                f"chmod o= {shlex.quote(str(path))}",
            )
        ]
    if path is not None:
        return [ok(name, f"{path}")]
    if other_file:
        return [
            warning(
                name,
                f"these checks are of the built-in defaults, not of {DEFAULT_CONFIG}",
                f"samepaged doctor --config {DEFAULT_CONFIG}",
            )
        ]
    return [ok(name, "the built-in defaults (--config names a file)")]


def _problem(directory: DirectoryState, user: str) -> str:
    what = f"cannot be used by user {user}" if directory.exists else f"is not there, and user {user} cannot make it"
    return f"{directory.path} {what}"


def _remedy(directory: DirectoryState, user: str, key: str) -> str:
    """What makes it usable. One that is there may be the service's, and must not be given to somebody else."""
    if directory.exists:
        return f"run it as the directory's owner, or as root; or set {key}"
    return f"sudo install -d -m 700 -o {shlex.quote(user)} {shlex.quote(str(directory.path))}; or set {key}"


def state_directory(directory: DirectoryState, user: str, *, seeded: bool) -> Check:
    """Whether the seed can be kept; `seeded`: it is in the configuration."""
    name = "state directory"
    if directory.writable or directory.creatable:
        if directory.free_bytes is not None and directory.free_bytes < MIN_FREE_BYTES and not seeded:
            return warning(name, f"{directory.path} has no room left: a new seed could not be kept", "make room there")
        return ok(name, f"{directory.path}" + ("" if directory.writable else " (will be made)"))
    if seeded:
        return ok(name, f"{_problem(directory, user)}; not needed, as hashing.seed is set")
    return warning(
        name,
        f"{_problem(directory, user)}: the hashes of one run compare with no other's",
        _remedy(directory, user, "state_directory"),
    )


def runtime_directory(candidates: Sequence[DirectoryState], user: str) -> Check:
    """Whether the journal of suspended guests can be kept: in the first of these, or in one that takes its place."""
    name = "runtime directory"
    first = candidates[0]
    remedy = _remedy(first, user, "runtime_directory")
    chosen = next((one for one in candidates if one.writable or one.creatable), None)
    if chosen is None:
        return failure(name, f"{_problem(first, user)}: without a journal no guest is suspended", remedy)
    if chosen.free_bytes is not None and chosen.free_bytes < MIN_FREE_BYTES:
        return failure(
            name,
            f"{chosen.path} has no room left: a guest that cannot be noted in the journal is not suspended",
            "make room there, or set runtime_directory",
        )
    if chosen is not first:
        return warning(name, f"{_problem(first, user)}; {chosen.path} takes its place", remedy)
    if first.readable_by_others:
        return warning(name, f"{first.path} is open to other users", f"chmod 700 {shlex.quote(str(first.path))}")
    return ok(name, f"{first.path}" + ("" if first.writable else " (will be made)"))


def traces(directory: DirectoryState, user: str, *, installed: bool) -> Check:
    """Whether traces, which are wanted, can be kept; `installed`: what writes them is there."""
    name = "traces"
    if not installed:
        return failure(
            name, "DuckDB, which writes them, is not installed: run refuses to start", "pip install 'samepaged[traces]'"
        )
    if not directory.writable and not directory.creatable:
        return warning(name, f"{_problem(directory, user)}: none is kept", _remedy(directory, user, "traces.directory"))
    if directory.free_bytes is not None and directory.free_bytes < MIN_FREE_BYTES:
        return warning(name, f"{directory.path} has no room left: none is kept", "make room there")
    if directory.readable_by_others:
        return warning(
            name, f"{directory.path} is open to other users", f"chmod 700 {shlex.quote(str(directory.path))}"
        )
    return ok(name, f"{directory.path}" + ("" if directory.writable else " (will be made)"))


def seed(file: SeedFileState, *, seeded: bool) -> Check:
    """Whether the seed of the hashes is there, and a secret."""
    name = "seed"
    if seeded:
        return ok(name, "from the configuration (hashing.seed)")
    if isinstance(file.error, ConfigError):
        return from_error(name, file.error, "remove it to have a new one made")
    if file.error is not None:
        return warning(
            name,
            f"could not be checked: {file.path} cannot be read ({file.error.strerror})",
            "run it as root, or as the user that samepaged runs as",
        )
    if not file.exists:
        return ok(name, "none yet: the first scan makes one")
    if file.readable_by_others:
        return warning(
            name,
            f"{file.path} may be read by others: with it, a hash tells whether a guest holds a known page",
            f"chmod 600 {shlex.quote(str(file.path))}",
        )
    return ok(name, f"kept in {file.path}, for its owner only")


def journal(found: Sequence[OpenEntry | JournalError], unreadable: Sequence[Path]) -> list[Check]:
    """The open entries of journals, and the directories of journals that could not be read."""
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
        warning(name, f"could not be checked: {path} cannot be read", "run it as root, or as the directory's owner")
        for path in unreadable
    ]
    return checks or [ok(name, "no open entry: samepaged has left no guest suspended")]


def _may_be_open(name: FileName) -> bool:
    return name.number is not None or is_orphaned(name)


def directory_state(path: Path) -> DirectoryState:
    """A directory as this user finds it; nothing is made."""
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
    """Whether everybody may read this file; a group of its own may be the service's."""
    try:
        return path is not None and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def read_configuration(path: Path | None) -> tuple[Config, list[Check]]:
    """The configuration, or the defaults where it cannot be used, and what there is to say about it."""
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
    """All checks of directories, by what this user finds there."""
    seeded = config.hashing.seed is not None
    candidates = candidate_directories(config.runtime_directory)
    found: list[OpenEntry | JournalError] = []
    unreadable: list[Path] = []
    for path in candidates:
        try:
            owner = path.stat().st_uid
            # What somebody else has laid where all may write is not ours to believe, as in `samepaged recover`.
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
