"""Offsets of struct members in the test kernels, in the layout of newer and older kernels."""

from __future__ import annotations

from typing import Final

from samepaged.attribution.linux import kernel_schema

__all__ = ["NEVER", "NEW", "OLD", "SIZES", "offsets"]

# Members that are arrays, or need a certain offset.
ARRAYS: Final = {
    "page.flags": 0, "page.compound_head": 8, "page.lru": 8, "page.mapping": 24, "page.index": 32, "page.private": 40,
    "page._mapcount": 48, "page._refcount": 52, "page.slab_cache": 24, "slab.slab_cache": 8,
    "maple_range_64.pivot": 8, "maple_range_64.slot": 128, "maple_arange_64.pivot": 8, "maple_arange_64.slot": 80,
    "pglist_data.node_zones": 0, "per_cpu_pages.lists": 8, "mount.mnt": 0x40, "task_struct.comm": 0x48,
    "dentry.d_name.name": 0x28, "dentry.d_parent": 0x18, "module.list": 8, "module.name": 0x18, "module.mem": 0x80,
    "module_memory.base": 0, "module_memory.size": 8, "module.core_layout.base": 0x80, "module.core_layout.size": 0x88,
    "idr.idr_rt.xa_head": 8, "inet_hashinfo.ehash": 0, "inet_hashinfo.ehash_mask": 8, "inet_hashinfo.bhash": 16,
    "inet_hashinfo.bhash2": 24, "inet_hashinfo.bhash_size": 32, "udp_table.hash": 0, "udp_table.hash2": 8,
    "udp_table.mask": 16, "class.p": 0, "gendisk.part0.__dev": 0x80,
    "bdev_inode.bdev": 0, "bdev_inode.vfs_inode": 0x210, "xa_node.slots": 40,
}  # fmt: skip
SIZES: Final = {
    "page": 64, "zone": 128, "vmap_node": 64, "per_cpu_pages.lists": 48, "pglist_data.node_zones": 128,
    "module_memory": 16, "module.mem": 64,
    "maple_range_64.pivot": 120, "maple_range_64.slot": 128, "maple_arange_64.pivot": 72, "maple_arange_64.slot": 80,
    "inet_ehash_bucket": 8, "inet_bind_hashbucket": 16, "udp_hslot": 16, "task_struct.comm": 16, "xa_node.slots": 64,
    "saved_cmdlines_buffer": 0x210,
}  # fmt: skip
# Names in newer kernels only, in older ones only, and in neither.
NEW: Final = {
    *("mm_struct.mm_mt.ma_root", "zone.per_cpu_pageset", "vmap_nodes", "slab.slab_cache", "nr_vmap_nodes"),
    *("module.mem", "module_memory.base", "module_memory.size"),
    *("request_queue.hctx_table.xa_head", "request_queue.sched_shared_tags", "inet_hashinfo.bhash2"),
}
OLD: Final = {
    *("mm_struct.mm_rb.rb_node", "zone.pageset", "per_cpu_pageset.pcp", "vmap_area_root", "page.mem_cgroup"),
    *("module.core_layout.base", "module.core_layout.size", "request_queue.queue_hw_ctx"),
    *("block_class", "disk_type", "class.p", "gendisk.part0.__dev"),
}
NEVER: Final = {
    *("page.compound_info", "zone.vmemmap_tails", "page.page_type", "page.__folio_index", "folio.index"),
    *("mount.mnt_next_for_sb", "dentry.d_alias", "contig_page_data", "huge_zero_page", "mem_section"),
    *("special_mapping_legacy_vmops", "ftrace_pages_start"),
    *("atomic_pool_dma", "atomic_pool_dma32", "atomic_pool_kernel"),
}


def offsets(absent: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, name in enumerate(kernel_schema.FIELDS):
        if name not in absent:
            found[name] = ARRAYS.get(name, 0x100 + 8 * (number % 32))
    return found
