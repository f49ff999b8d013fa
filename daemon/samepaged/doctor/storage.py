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
from samepaged.guard.journal import JournalError, of_dead_processes, open_entries, places
from samepaged.traces.database import installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.guard.journal import FileName, OpenEntry

__all__ = [
    "Directory",
    "SeedFile",
    "configuration",
    "journal",
    "look",
    "read_configuration",
    "runtime_directory",
    "seed_kept",
    "state_directory",
    "storage",
]

DEFAULT: Final = Path("/etc/samepaged/config.yaml")
# What the journal and a seed take, and a little more.
LITTLE: Final = 1 << 20
OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory as this user finds it. `makeable`: it is not there, and this user could make it. `free` is in bytes
    (None where it cannot be told), and `exposed` says that others may look into it.
    """

    path: Path
    exists: bool
    usable: bool
    makeable: bool
    free: int | None
    exposed: bool


@dataclass(frozen=True, slots=True)
class SeedFile:
    """The file of the seed: whether it is there, whether others than its owner may read it, and what is wrong with it
    (ConfigError) or stands in the way of looking.
    """

    path: Path
    exists: bool
    exposed: bool
    trouble: ConfigError | OSError | None


def configuration(path: Path | None, faults: Sequence[Fault], *, exposed: bool, elsewhere: bool) -> list[Check]:
    """Whether the configuration could be read (`faults` are its problems), whether it has a seed that others
    can read (`exposed`), and whether there is one at the usual place that was not asked for (`elsewhere`).
    """
    name = "configuration"
    if faults:
        return [
            from_fault(name, fault, "see docs/reference/configuration.md; until then, the defaults are checked")
            for fault in faults
        ]
    if exposed:
        return [
            warning(
                name,
                f"{path} holds the seed of the hashes, and everybody may read it",
                f"chmod o= {shlex.quote(str(path))}",
            )
        ]
    if path is not None:
        return [ok(name, f"{path}")]
    if elsewhere:
        return [
            warning(
                name,
                f"these checks are of the built-in defaults, not of {DEFAULT}",
                f"samepaged doctor --config {DEFAULT}",
            )
        ]
    return [ok(name, "the built-in defaults (--config names a file)")]


def _unusable(directory: Directory, user: str) -> str:
    what = f"cannot be used by user {user}" if directory.exists else f"is not there, and user {user} cannot make it"
    return f"{directory.path} {what}"


def _usable(directory: Directory, user: str, key: str) -> str:
    """What makes it usable. One that is there may be the service's, and must not be given to somebody else."""
    if directory.exists:
        return f"run it as the directory's owner, or as root; or set {key}"
    return f"sudo install -d -m 700 -o {shlex.quote(user)} {shlex.quote(str(directory.path))}; or set {key}"


def state_directory(directory: Directory, user: str, *, seeded: bool) -> Check:
    """Whether the seed can be kept; `seeded`: it is in the configuration."""
    name = "state directory"
    if directory.usable or directory.makeable:
        if directory.free is not None and directory.free < LITTLE and not seeded:
            return warning(name, f"{directory.path} has no room left: a new seed could not be kept", "make room there")
        return ok(name, f"{directory.path}" + ("" if directory.usable else " (will be made)"))
    if seeded:
        return ok(name, f"{_unusable(directory, user)}; not needed, as hashing.seed is set")
    return warning(
        name,
        f"{_unusable(directory, user)}: the hashes of one run compare with no other's",
        _usable(directory, user, "state_directory"),
    )


def runtime_directory(candidates: Sequence[Directory], user: str) -> Check:
    """Whether the journal of suspended guests can be kept: in the first of these, or in one that takes its place."""
    name = "runtime directory"
    first = candidates[0]
    remedy = _usable(first, user, "runtime_directory")
    chosen = next((one for one in candidates if one.usable or one.makeable), None)
    if chosen is None:
        return failure(name, f"{_unusable(first, user)}: without a journal no guest is suspended", remedy)
    if chosen.free is not None and chosen.free < LITTLE:
        return failure(
            name,
            f"{chosen.path} has no room left: a guest that cannot be noted in the journal is not suspended",
            "make room there, or set runtime_directory",
        )
    if chosen is not first:
        return warning(name, f"{_unusable(first, user)}; {chosen.path} takes its place", remedy)
    if first.exposed:
        return warning(name, f"{first.path} is open to other users", f"chmod 700 {shlex.quote(str(first.path))}")
    return ok(name, f"{first.path}" + ("" if first.usable else " (will be made)"))


def traces(directory: Directory, user: str, *, installed: bool) -> Check:
    """Whether traces, which are wanted, can be kept; `installed`: what writes them is there."""
    name = "traces"
    if not installed:
        return failure(
            name, "DuckDB, which writes them, is not installed: run refuses to start", "pip install 'samepaged[traces]'"
        )
    if not directory.usable and not directory.makeable:
        return warning(
            name, f"{_unusable(directory, user)}: none is kept", _usable(directory, user, "traces.directory")
        )
    if directory.free is not None and directory.free < LITTLE:
        return warning(name, f"{directory.path} has no room left: none is kept", "make room there")
    if directory.exposed:
        return warning(
            name, f"{directory.path} is open to other users", f"chmod 700 {shlex.quote(str(directory.path))}"
        )
    return ok(name, f"{directory.path}" + ("" if directory.usable else " (will be made)"))


def seed_kept(file: SeedFile, *, seeded: bool) -> Check:
    """Whether the seed of the hashes is there, and a secret."""
    name = "seed"
    if seeded:
        return ok(name, "from the configuration (hashing.seed)")
    if isinstance(file.trouble, ConfigError):
        return from_error(name, file.trouble, "remove it to have a new one made")
    if file.trouble is not None:
        return warning(
            name,
            f"could not be checked: {file.path} cannot be read ({file.trouble.strerror})",
            "run it as root, or as the user that samepaged runs as",
        )
    if not file.exists:
        return ok(name, "none yet: the first scan makes one")
    if file.exposed:
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
    return name.number is not None or of_dead_processes(name)


def look(path: Path) -> Directory:
    """A directory as this user finds it; nothing is made."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return Directory(path, exists=True, usable=False, makeable=False, free=None, exposed=False)
    except OSError:
        above = next((one for one in path.parents if one.exists()), Path("/"))
        makeable = above.is_dir() and _may_write(above)
        return Directory(path, exists=False, usable=False, makeable=makeable, free=_free(above), exposed=False)
    usable = stat.S_ISDIR(mode) and _may_write(path)
    exposed = bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
    return Directory(path, exists=True, usable=usable, makeable=False, free=_free(path), exposed=exposed)


def _may_write(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _seed_file(directory: Path) -> SeedFile:
    path = directory / "seed"
    try:
        hash_seed.read(path)
        exposed = bool(path.stat().st_mode & OTHERS)
    except FileNotFoundError:
        return SeedFile(path, exists=False, exposed=False, trouble=None)
    except ConfigError as error:
        return SeedFile(path, exists=True, exposed=False, trouble=error)
    except OSError as error:
        return SeedFile(path, exists=True, exposed=False, trouble=error)
    return SeedFile(path, exists=True, exposed=exposed, trouble=None)


def _exposed(path: Path | None) -> bool:
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
    exposed = config.hashing.seed is not None and _exposed(path)
    return config, configuration(path, faults, exposed=exposed, elsewhere=path is None and DEFAULT.exists())


def storage(config: Config, user: str) -> list[Check]:
    """All checks of directories, by what this user finds there."""
    seeded = config.hashing.seed is not None
    candidates = places(config.runtime_directory)
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
        state_directory(look(config.state_directory), user, seeded=seeded),
        seed_kept(_seed_file(config.state_directory), seeded=seeded),
        runtime_directory([look(path) for path in candidates], user),
        *journal(found, unreadable),
        *([traces(look(config.traces.directory), user, installed=installed())] if config.traces.enabled else []),
    ]
