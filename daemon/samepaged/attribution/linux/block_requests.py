"""Preallocated requests of block devices, as many as each queue can have in flight (block/blk-mq.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.buddy import pages_of_blocks
from samepaged.attribution.linux.struct_reader import HALF, is_kernel, list_entries, read_members
from samepaged.attribution.linux.xarray import xarray_entries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["label_block_requests"]

# Limits of the search: partitions count as devices, and each CPU can have a queue of its own.
MAX_DEVICES: Final = 1 << 12
MAX_QUEUES: Final = 1 << 13
MAX_BLOCKS: Final = 1 << 14
POINTER_BYTES: Final = 8
WRAP: Final = 1 << 64


def label_block_requests(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label the requests of all block devices. Raises Unreadable."""
    profile = kernel.profile
    if not profile.has("blockdev_superblock"):
        return
    disks = np.concatenate((_disks_by_inode(kernel), _disks_by_class(kernel)))
    queues = _pointers(kernel, np.unique(disks), "gendisk.queue")
    sets = _pointers(kernel, queues, "request_queue.tag_set")
    tags = [_pointer_arrays(kernel, sets, "blk_mq_tag_set.tags", "blk_mq_tag_set.nr_hw_queues")]
    # A scheduler has its own tags.
    tags.append(_pointers(kernel, _hardware_queues(kernel, queues), "blk_mq_hw_ctx.sched_tags"))
    if profile.has("request_queue.sched_shared_tags"):
        tags.append(_pointers(kernel, queues, "request_queue.sched_shared_tags"))
    lists = np.unique(np.concatenate(tags)) + np.uint64(profile.offset("blk_mq_tags.page_list"))
    found: list[int] = []
    for at in lists.tolist():
        found += list_entries(kernel, at, MAX_BLOCKS - len(found))
    firsts = frames.pages_at(kernel, np.array(found, dtype=np.uint64) - np.uint64(profile.offset("page.lru")))
    firsts = firsts[firsts >= 0]
    if len(firsts):
        # page.private has the block's order (blk_mq_alloc_rqs).
        ledger.set_kind_of_unknown(
            pages_of_blocks(firsts, frames.private[firsts], len(frames.readable)), "kernel_buffer", "block requests"
        )


def _disks_by_inode(kernel: Kernel) -> NDArray[np.uint64]:
    """Return the struct gendisks of block devices with an inode: all from 5.11 on, the open ones before."""
    profile = kernel.profile
    file_system = kernel.u64(profile.symbol("blockdev_superblock"))
    if not file_system:
        return np.empty(0, dtype=np.uint64)
    head = (file_system + profile.offset("super_block.s_inodes")) % WRAP
    inodes = np.array(list_entries(kernel, head, MAX_DEVICES), dtype=np.uint64) - np.uint64(
        profile.offset("inode.i_sb_list")
    )
    own, device = profile.offset("bdev_inode.vfs_inode"), profile.offset("bdev_inode.bdev")
    return _pointers(kernel, inodes - np.uint64(own) + np.uint64(device), "block_device.bd_disk")


def _disks_by_class(kernel: Kernel) -> NDArray[np.uint64]:
    """Return the same for all block devices, up to 5.10: the devices of their class without partitions."""
    profile = kernel.profile
    devices = np.empty(0, dtype=np.uint64)
    if not (profile.has("gendisk.part0.__dev") and profile.has("disk_type") and profile.has("block_class")):
        return devices
    subsystem = kernel.u64((profile.symbols["block_class"] + profile.offset("class.p")) % WRAP)
    if subsystem:
        head = (subsystem + profile.offset("subsys_private.klist_devices.k_list")) % WRAP
        nodes = np.array(list_entries(kernel, head, MAX_DEVICES), dtype=np.uint64)
        own = nodes - np.uint64(profile.offset("device_private.knode_class.n_node"))
        devices = _pointers(kernel, own, "device_private.device")
    (types,), _ = read_members(kernel, devices, (profile.offset("device.type"),))
    whole: NDArray[np.uint64] = devices[types == np.uint64(profile.symbols["disk_type"])]
    return whole - np.uint64(profile.offset("gendisk.part0.__dev"))


def _hardware_queues(kernel: Kernel, queues: NDArray[np.uint64]) -> NDArray[np.uint64]:
    profile = kernel.profile
    if profile.has("request_queue.queue_hw_ctx"):
        return _pointer_arrays(kernel, queues, "request_queue.queue_hw_ctx", "request_queue.nr_hw_queues")
    # From 5.18 on, commit 4e5cc99e1e48.
    (heads,), ok = read_members(kernel, queues, (profile.offset("request_queue.hctx_table.xa_head"),))
    return xarray_entries(kernel, heads[ok], MAX_QUEUES)


def _pointers(kernel: Kernel, structs: NDArray[np.uint64], member: str) -> NDArray[np.uint64]:
    """Return the distinct addresses in this pointer member of these structs."""
    (found,), ok = read_members(kernel, structs, (kernel.profile.offset(member),))
    return np.unique(found[ok & is_kernel(found)])


def _pointer_arrays(kernel: Kernel, structs: NDArray[np.uint64], table: str, count: str) -> NDArray[np.uint64]:
    """Return the addresses in the pointer arrays at the member `table`, of `count` entries."""
    (tables, counts), ok = read_members(kernel, structs, (kernel.profile.offset(table), kernel.profile.offset(count)))
    parts, left = [np.empty(0, dtype=np.uint64)], MAX_QUEUES
    for start, entries in zip(tables[ok].tolist(), (counts[ok] & HALF).tolist(), strict=True):
        taken = min(entries, left)
        left -= taken
        parts.append(np.uint64(start) + np.arange(taken, dtype=np.uint64) * np.uint64(POINTER_BYTES))
    at = np.concatenate(parts)
    found, there = kernel.words(at[is_kernel(at)])
    return found[there & is_kernel(found)]
