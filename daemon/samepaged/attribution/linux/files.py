"""The guest's files: those that processes have mapped, and those in its page cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.dentries import are_unlinked, paths
from samepaged.attribution.linux.struct_reader import HALF, is_kernel, list_entries, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["FileMappings", "OpenFiles", "read_file_mappings", "read_open_files"]

# File systems without a disk; their pages are shared memory. The first root (rootfs, the initramfs) is not one of them.
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "devtmpfs", "hugetlbfs"})
BLOCK_DEVICE_FILESYSTEM: Final = "bdev"
ANON_INODE_FILESYSTEM: Final = "anon_inodefs"
MAX_NAME_BYTES: Final = 64
# Stacked file systems: the mapped file differs from the opened one (FMODE_BACKING, include/linux/fs.h).
BACKING: Final = np.uint64(1 << 25)
MINOR_BITS: Final = 20
WRAP: Final = 1 << 64
# Beyond these limits, files get no names.
MAX_SUPER_BLOCKS: Final = 4096
MAX_MOUNTS: Final = 8192


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """n open files: their paths as in /proc/PID/maps (None if unreadable), the mappings (struct address_space) that
    have their pages, and whether they are in memory only (bool).
    """

    paths: list[str | None]
    mappings: NDArray[np.uint64]
    in_memory: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FileMappings:
    """n mappings: `valid` (bool) marks consistent ones; their files' paths, or a substitute such as an inode number, or
    None; whether they are in memory only.
    """

    valid: NDArray[np.bool_]
    paths: list[str | None]
    in_memory: NDArray[np.bool_]


def read_open_files(kernel: Kernel, files: NDArray[np.uint64]) -> OpenFiles:
    """Read these struct files. Raises Unreadable."""
    profile = kernel.profile
    wanted = [profile.offset(f"file.{name}") for name in ("f_path.mnt", "f_path.dentry", "f_inode", "f_mapping")]
    (mounts, dentries, inodes, mappings), _ = read_members(kernel, files, wanted)
    if profile.has("backing_file.user_path.mnt"):
        (modes,), _ = read_members(kernel, files, (profile.offset("file.f_mode"),))
        stacked = np.flatnonzero(modes & HALF & BACKING)
        wanted = [profile.offset(f"backing_file.user_path.{name}") for name in ("mnt", "dentry")]
        (mounts[stacked], dentries[stacked]), _ = read_members(kernel, files[stacked], wanted)
    (supers,), _ = read_members(kernel, inodes, (profile.offset("inode.i_sb"),))
    systems = _filesystem_types(kernel, supers)
    return OpenFiles(
        _file_paths(kernel, mounts, dentries, systems), mappings, np.isin(systems, list(MEMORY_FILESYSTEMS))
    )


def read_file_mappings(kernel: Kernel, mappings: NDArray[np.uint64]) -> FileMappings:
    """Read these struct address_spaces. Raises Unreadable."""
    profile = kernel.profile
    (hosts,), _ = read_members(kernel, mappings, (profile.offset("address_space.host"),))
    members = ("i_sb", "i_dentry.first", "i_ino", "i_rdev", "i_mapping")
    (supers, aliases, numbers, devices, own), ok = read_members(
        kernel, hosts, [profile.offset(f"inode.{name}") for name in members]
    )
    real = ok & (own == mappings)
    systems = _filesystem_types(kernel, np.where(real, supers, np.uint64(0)))
    found: list[str | None] = [None] * len(mappings)
    with_entry = np.flatnonzero(real & is_kernel(aliases))
    dentries = aliases[with_entry] - np.uint64(profile.offset("dentry.d_u.d_alias", "dentry.d_alias"))
    mounts = _mounts(kernel, supers[with_entry])
    for place, path in zip(
        with_entry.tolist(), _file_paths(kernel, mounts, dentries, systems[with_entry]), strict=True
    ):
        found[place] = path
    for place in np.flatnonzero(real & (systems != "")).tolist():
        if systems[place] == BLOCK_DEVICE_FILESYSTEM:
            device = int(devices[place] & HALF)
            found[place] = f"block device {device >> MINOR_BITS}:{device & (1 << MINOR_BITS) - 1}"
        elif found[place] is None:
            found[place] = f"{systems[place]} inode {numbers[place]}"
    return FileMappings(real, found, np.isin(systems, list(MEMORY_FILESYSTEMS)))


def _filesystem_types(kernel: Kernel, supers: NDArray[np.uint64]) -> NDArray[np.str_]:
    """Return the names of the file systems' types, "" if unreadable."""
    profile = kernel.profile
    distinct, inverse = np.unique(supers, return_inverse=True)
    names = [""] * len(distinct)
    (types,), _ = read_members(kernel, distinct[:MAX_SUPER_BLOCKS], (profile.offset("super_block.s_type"),))
    (pointers,), ok = read_members(kernel, types, (profile.offset("file_system_type.name"),))
    texts = kernel.strings(pointers[ok], MAX_NAME_BYTES)
    for place, text in zip(np.flatnonzero(ok).tolist(), texts, strict=True):
        names[place] = text or ""
    return np.array(names, dtype=np.str_)[inverse]


def _file_paths(
    kernel: Kernel, mounts: NDArray[np.uint64], dentries: NDArray[np.uint64], systems: NDArray[np.str_]
) -> list[str | None]:
    """Return the paths of these entries as d_path formats them, including deleted ones and those without a directory,
    such as a memfd.
    """
    profile = kernel.profile
    found = paths(kernel, mounts, dentries)
    (operations,), _ = read_members(kernel, dentries, (profile.offset("dentry.d_op"),))
    (functions,), _ = read_members(kernel, operations, (profile.offset("dentry_operations.d_dname"),))
    placeless = np.flatnonzero(functions)
    (pointers,), _ = read_members(kernel, dentries[placeless], (profile.offset("dentry.d_name.name"),))
    for place, name in zip(placeless.tolist(), kernel.strings(pointers), strict=True):
        by_purpose = systems[place] == ANON_INODE_FILESYSTEM
        found[place] = None if name is None else f"anon_inode:{name}" if by_purpose else f"/{name} (deleted)"
    for place in np.flatnonzero(are_unlinked(kernel, dentries) & (functions == 0)).tolist():
        found[place] = found[place] and f"{found[place]} (deleted)"
    return found


def _mounts(kernel: Kernel, supers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one mount (struct vfsmount) of each file system, preferably of its root and in the first process's
    namespace; 0 if it is not mounted.
    """
    profile = kernel.profile
    distinct, inverse = np.unique(supers, return_inverse=True)
    (spaces,), _ = read_members(
        kernel, np.array([profile.symbol("init_task")], dtype=np.uint64), (profile.offset("task_struct.nsproxy"),)
    )
    (first,), _ = read_members(kernel, spaces, (profile.offset("nsproxy.mnt_ns"),))
    (whole,), _ = read_members(kernel, distinct, (profile.offset("super_block.s_root"),))
    mount = np.uint64(profile.offset("mount.mnt"))
    wanted = (profile.offset("mount.mnt_ns"), profile.offset("vfsmount.mnt_root") + int(mount))
    chosen = np.zeros(len(distinct), dtype=np.uint64)
    left = MAX_MOUNTS
    for place, (super_block, root) in enumerate(
        zip(distinct.tolist()[:MAX_SUPER_BLOCKS], whole.tolist(), strict=False)
    ):
        mounts = _mounted(kernel, super_block, left)
        left -= len(mounts)
        (namespaces, roots), ok = read_members(kernel, mounts, wanted)
        rank = np.where(ok, 1 + 2 * (namespaces == first[0]) + (roots == root), 0)
        if len(rank) and rank.max():
            chosen[place] = mounts[rank.argmax()] + mount
    return chosen[inverse]


def _mounted(kernel: Kernel, super_block: int, most: int) -> NDArray[np.uint64]:
    """Return the struct mounts of a file system."""
    profile = kernel.profile
    head = (super_block + profile.offset("super_block.s_mounts")) % WRAP
    if profile.has("mount.mnt_instance"):
        link = profile.offset("mount.mnt_instance")
        entries = list_entries(kernel, head, most)
        return np.array(entries, dtype=np.uint64) - np.uint64(link)
    # Later kernels: a pointer to the first mount, and in each one to the next.
    first, ok = kernel.words(np.array([head], dtype=np.uint64))
    if not ok[0] or not is_kernel(first)[0]:
        return np.empty(0, dtype=np.uint64)
    link = profile.offset("mount.mnt_next_for_sb")
    return np.array([int(first[0]), *list_entries(kernel, int(first[0]), most, link)], dtype=np.uint64)
