"""The paths of files in the guest, as /proc/PID/maps would tell them: up the directories, and through the mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["are_unlinked", "paths"]

# Paths of more directories than this, and more than so many directories and files at all, are left without a path.
MAX_DEPTH: Final = 128
MAX_DENTRIES: Final = 1 << 18
MAX_NAME_BYTES: Final = 256
MAX_PATH_CHARS: Final = 4096
# All paths together.
MAX_TOTAL_CHARS: Final = 1 << 25


def paths(kernel: Kernel, mounts: NDArray[np.uint64], dentries: NDArray[np.uint64]) -> list[str | None]:
    """The path of each directory entry on each mount (struct vfsmount; 0: from the root of its file system), None where
    it cannot be followed to a root. Raises Unreadable.
    """
    asked, above, names = _ParentWalk(kernel).walk(mounts, dentries)
    known: dict[int, str | None] = {-1: ""}
    found: list[str | None] = []
    letters = 0
    for place in asked:
        path = _path(place, above, names, known) if letters < MAX_TOTAL_CHARS else None
        letters += len(path or "")
        found.append(path)
    return found


def are_unlinked(kernel: Kernel, dentries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which entries are not in their directory any more: deleted (d_unlinked)."""
    profile = kernel.profile
    wanted = (profile.offset("dentry.d_hash.pprev"), profile.offset("dentry.d_parent"))
    (hashed, parents), ok = read_members(kernel, dentries, wanted)
    found: NDArray[np.bool_] = ok & (hashed == 0) & (parents != dentries)
    return found


class _ParentWalk:
    """From an entry to the one above it: its directory, or what its mount is mounted on (prepend_path, fs/d_path.c)."""

    def __init__(self, kernel: Kernel) -> None:
        profile = kernel.profile
        self.kernel = kernel
        self.parent, self.name = profile.offset("dentry.d_parent"), profile.offset("dentry.d_name.name")
        self.root, self.mount = profile.offset("vfsmount.mnt_root"), profile.offset("mount.mnt")
        self.upper, self.point = profile.offset("mount.mnt_parent"), profile.offset("mount.mnt_mountpoint")

    def walk(
        self, mounts: NDArray[np.uint64], dentries: NDArray[np.uint64]
    ) -> tuple[list[int], list[int], list[str | None]]:
        """Every entry on every way up, once: where the asked ones are among them; which one is above each (-1: none, it
        is a root; -2: not to be had); and what each adds to a path, None where that is not to be had.
        """
        known: dict[tuple[int, int], int] = {}
        asked = [known.setdefault(pair, len(known)) for pair in zip(mounts.tolist(), dentries.tolist(), strict=True)]
        fresh = list(known)
        above: list[int] = []
        named: list[int] = []
        for _ in range(MAX_DEPTH):
            if not fresh or len(known) > MAX_DENTRIES:
                break
            uppers, names, ends = self._up(np.array(fresh, dtype=np.uint64))
            named += names
            fresh = []
            for pair, end in zip(uppers, ends, strict=True):
                if end:
                    above.append(end)
                    continue
                place = known.get(pair)
                if place is None:
                    place = known[pair] = len(known)
                    fresh.append(pair)
                above.append(place)
        left = len(known) - len(above)
        texts = self.kernel.strings(np.array(named, dtype=np.uint64), MAX_NAME_BYTES)
        added = [
            "" if not address else None if not text else f"/{text}" for address, text in zip(named, texts, strict=True)
        ]
        return asked, above + [-2] * left, added + [None] * left

    def _up(self, pairs: NDArray[np.uint64]) -> tuple[list[tuple[int, int]], list[int], list[int]]:
        """What is above each pair of a mount and an entry; the address of the name that this step adds, 0 for none; and
        -1 for a root, -2 for what cannot be read, else 0.
        """
        mounts, dentries = pairs[:, 0], pairs[:, 1]
        (parents, names), ok = read_members(self.kernel, dentries, (self.parent, self.name))
        mounted = is_kernel(mounts) & (mounts != 0)
        (roots,), held = read_members(self.kernel, mounts, (self.root,))
        ok &= held | ~mounted
        crossing = mounted & held & (dentries == roots)
        own = mounts - np.uint64(self.mount)
        (uppers, points), read = read_members(
            self.kernel, np.where(crossing, own, np.uint64(0)), (self.upper, self.point)
        )
        ok &= read | ~crossing
        top = (crossing & (uppers == own)) | (~crossing & (parents == dentries))
        next_mounts = np.where(crossing, uppers + np.uint64(self.mount), mounts)
        next_dentries = np.where(crossing, points, parents)
        ends = np.where(ok, np.where(top, -1, 0), -2)
        added = np.where(crossing | top | ~ok, np.uint64(0), names)
        above = list(zip(next_mounts.tolist(), next_dentries.tolist(), strict=True))
        return above, added.tolist(), ends.tolist()


def _path(place: int, above: list[int], names: list[str | None], known: dict[int, str | None]) -> str | None:
    """The path of one entry, from those above it that are not known yet downwards."""
    way: list[int] = []
    at = place
    while at not in known and at != -2 and len(way) <= 2 * MAX_DEPTH:  # noqa: PLR2004 - see _Steps.walk
        way.append(at)
        at = above[at]
    path = known.get(at)
    for step in reversed(way):
        name = names[step]
        path = None if path is None or name is None or len(path) > MAX_PATH_CHARS else path + name
        known[step] = path
    return (path or "/") if path is not None else None
