"""Paths of files in the guest, as in /proc/PID/maps: up the directories, and through the mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["are_unlinked", "paths"]

# Deeper files, and files beyond this number of directories and files in total, get no path.
MAX_DEPTH: Final = 128
MAX_DENTRIES: Final = 1 << 18
MAX_NAME_BYTES: Final = 256
MAX_PATH_CHARS: Final = 4096
# Limit of all paths together.
MAX_TOTAL_CHARS: Final = 1 << 25


def paths(kernel: Kernel, mounts: NDArray[np.uint64], dentries: NDArray[np.uint64]) -> list[str | None]:
    """Return the path of each directory entry on its mount (struct vfsmount; 0: from the root of its file system), None
    if it does not lead to a root. Raises Unreadable.
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
    """Return a mask of the deleted entries, which are not in their directory any more (d_unlinked)."""
    profile = kernel.profile
    wanted = (profile.offset("dentry.d_hash.pprev"), profile.offset("dentry.d_parent"))
    (hashed, parents), ok = read_members(kernel, dentries, wanted)
    found: NDArray[np.bool_] = ok & (hashed == 0) & (parents != dentries)
    return found


class _ParentWalk:
    """Steps from an entry to its parent: its directory, or the mount point of its mount (prepend_path, fs/d_path.c)."""

    def __init__(self, kernel: Kernel) -> None:
        profile = kernel.profile
        self.kernel = kernel
        self.parent, self.name = profile.offset("dentry.d_parent"), profile.offset("dentry.d_name.name")
        self.root, self.mount = profile.offset("vfsmount.mnt_root"), profile.offset("mount.mnt")
        self.upper, self.point = profile.offset("mount.mnt_parent"), profile.offset("mount.mnt_mountpoint")

    def walk(
        self, mounts: NDArray[np.uint64], dentries: NDArray[np.uint64]
    ) -> tuple[list[int], list[int], list[str | None]]:
        """Collect every entry on the paths, once. Return the indices of the requested entries; the index of each
        entry's parent (-1: the entry is a root; -2: unreadable); and the name that each adds to a path, None if
        unreadable.
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
        """Return the parent of each pair of a mount and an entry; the address of the name that this step adds, 0 for
        none; and -1 for a root, -2 for an unreadable entry, else 0.
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
    """Return the path of one entry, and add the paths of its parents to `known`."""
    way: list[int] = []
    at = place
    while at not in known and at != -2 and len(way) <= 2 * MAX_DEPTH:  # noqa: PLR2004 - see _ParentWalk.walk
        way.append(at)
        at = above[at]
    path = known.get(at)
    for step in reversed(way):
        name = names[step]
        path = None if path is None or name is None or len(path) > MAX_PATH_CHARS else path + name
        known[step] = path
    return (path or "/") if path is not None else None
