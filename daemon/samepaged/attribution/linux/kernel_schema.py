"""Names of the fields, sizes, constants and symbols of a kernel that are needed to label pages.

Kernels differ, so the lists contain alternatives. A profile omits the names that its kernel does not have.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CALLERS", "ENUMERATORS", "FIELDS", "SIZES", "SYMBOLS"]


def _of(struct: str, *members: str) -> tuple[str, ...]:
    return tuple(f"{struct}.{member}" for member in members)


# Members: offsets in bytes into their struct, through anonymous unions and structs.
FIELDS: Final = (
    # the array of struct pages
    *_of("page", "flags", "compound_head", "compound_info", "mapping", "private", "index", "__folio_index", "lru"),
    *_of("page", "_mapcount", "page_type", "_refcount", "slab_cache", "mem_cgroup"),
    *("folio.index", "slab.slab_cache"),
    # the page allocator
    *_of("zone", "per_cpu_pageset", "pageset", "vmemmap_tails"),
    *("pglist_data.node_zones", "per_cpu_pageset.pcp", "per_cpu_pages.lists"),
    # slab caches, vmalloc areas, modules, boot allocations
    *("kmem_cache.name", "rb_node.rb_left", "rb_node.rb_right"),
    *_of("vmap_area", "rb_node", "va_start", "va_end", "vm"),
    *("vmap_node.busy.root.rb_node", "vm_struct.caller"),
    *_of("module", "list", "name", "mem", "core_layout.base", "core_layout.size"),
    *_of("module_memory", "base", "size"),
    *_of("ftrace_page", "next", "records", "order", "size"),
    *("gen_pool.chunks", *_of("gen_pool_chunk", "next_chunk", "start_addr", "end_addr")),
    # processes and their memory maps
    *_of("task_struct", "tasks", "thread_node", "signal", "comm", "mm", "flags", "nsproxy"),
    *("signal_struct.thread_head", "nsproxy.mnt_ns"),
    *_of("mm_struct", "mm_mt.ma_root", "mm_rb.rb_node", "pgd", "start_brk", "brk", "start_stack"),
    *_of("vm_area_struct", "vm_start", "vm_end", "vm_flags", "vm_file", "vm_pgoff", "vm_ops", "vm_mm", "vm_rb"),
    *_of("vm_area_struct", "vm_private_data", "anon_name"),
    *("anon_vma_name.name", "vm_special_mapping.name"),
    *_of("maple_range_64", "pivot", "slot"),
    *_of("maple_arange_64", "pivot", "slot"),
    # files, names, mounts
    *_of("file", "f_path.mnt", "f_path.dentry", "f_inode", "f_mapping", "f_mode"),
    *_of("backing_file", "user_path.mnt", "user_path.dentry"),
    *_of("dentry", "d_name.name", "d_parent", "d_op", "d_hash.pprev", "d_u.d_alias", "d_alias"),
    *("dentry_operations.d_dname", "address_space.host", "file_system_type.name"),
    *_of("inode", "i_sb", "i_dentry.first", "i_ino", "i_rdev", "i_mapping"),
    *_of("super_block", "s_type", "s_root", "s_mounts"),
    *_of("mount", "mnt", "mnt_parent", "mnt_mountpoint", "mnt_instance", "mnt_next_for_sb", "mnt_ns"),
    "vfsmount.mnt_root",
    # block devices and their preallocated requests
    *("super_block.s_inodes", "inode.i_sb_list", "bdev_inode.bdev", "bdev_inode.vfs_inode", "block_device.bd_disk"),
    *("gendisk.queue", "blk_mq_hw_ctx.sched_tags", "blk_mq_tags.page_list"),
    *_of("request_queue", "tag_set", "queue_hw_ctx", "nr_hw_queues", "hctx_table.xa_head", "sched_shared_tags"),
    *_of("blk_mq_tag_set", "tags", "nr_hw_queues"),
    *("class.p", "subsys_private.klist_devices.k_list", "device_private.knode_class.n_node", "device_private.device"),
    *("device.type", "gendisk.part0.__dev"),
    # tables, buffers, types
    *_of("inet_hashinfo", "ehash", "ehash_mask", "bhash", "bhash2", "bhash_size"),
    *_of("udp_table", "hash", "hash2", "mask"),
    *_of("btf", "data", "types", "resolved_ids", "resolved_sizes"),
    *("saved_cmdlines_buffer.cmdline_num", "idr.idr_rt.xa_head", "xa_node.slots"),
)

# Sizes in bytes of a struct, or (with a dot) of a member's type, such as a whole array.
SIZES: Final = (
    *("page", "zone", "vmap_node", "module_memory", "dyn_ftrace"),
    *("per_cpu_pages.lists", "pglist_data.node_zones", "module.mem"),
    *_of("maple_range_64", "pivot", "slot"),
    *_of("maple_arange_64", "pivot", "slot"),
    *("inet_ehash_bucket", "inet_bind_hashbucket", "udp_hslot", "saved_cmdlines_buffer", "task_struct.comm"),
    "xa_node.slots",
)

ENUMERATORS: Final = (
    *("PG_slab", "PG_reserved", "PGTY_table", "PGTY_offline", "PGTY_unaccepted", "PGTY_large_kmalloc"),
    *("maple_leaf_64", "maple_range_64", "maple_arange_64"),
)

# Addresses of variables, and of symbols that mark the start or end of a section.
SYMBOLS: Final = (
    *("_text", "_stext", "_etext", "_end", "empty_zero_page", "huge_zero_page", "huge_zero_folio"),
    *("init_task", "swapper_pg_dir", "vmemmap_base", "vmalloc_base", "mem_section"),
    *("node_data", "contig_page_data", "nr_node_ids", "nr_cpu_ids", "__per_cpu_offset"),
    *("pcpu_base_addr", "pcpu_unit_size", "pcpu_unit_offsets"),
    *("vmap_area_root", "vmap_nodes", "nr_vmap_nodes", "modules"),
    *("special_mapping_vmops", "special_mapping_legacy_vmops"),
    *("ftrace_pages_start", "atomic_pool_dma", "atomic_pool_dma32", "atomic_pool_kernel"),
    *("blockdev_superblock", "block_class", "disk_type", "btf_vmlinux", "btf_idr", "savedcmd", "kernfs_locks"),
    *("mount_hashtable", "m_hash_mask", "mountpoint_hashtable", "mp_hash_mask"),
    *("tcp_hashinfo", "table_perturb", "tcp_metrics_hash", "udp_table", "udplite_table"),
    *("ip_idents", "ip_idents_mask", "ip_tstamps"),
)

# Functions that allocate vmalloc areas: an area belongs to the function that contains its caller address. A compiler's
# suffix (`copy_process.isra.0`) is ignored.
CALLERS: Final = (
    # kernel stacks
    *("alloc_thread_stack_node", "dup_task_struct", "copy_process", "kernel_clone", "_do_fork"),
    *("irq_init_percpu_irqstack", "map_irq_stack"),
    # modules and other code
    *("load_module", "module_alloc", "move_module", "layout_and_allocate", "module_memory_alloc", "execmem_alloc"),
    *("execmem_vmalloc", "execmem_cache_populate", "bpf_jit_alloc_exec", "bpf_jit_binary_alloc"),
    *("bpf_prog_pack_alloc", "alloc_new_pack", "arch_bpf_trampoline_alloc", "arch_ftrace_update_trampoline"),
    *("create_trampoline", "alloc_insn_page", "kernel_read_file", "module_decompress"),
    # per-CPU memory
    *("pcpu_create_chunk", "pcpu_get_vm_areas", "pcpu_mem_zalloc"),
    # large tables and buffers
    *("alloc_large_system_hash", "kvmalloc_node", "__kvmalloc_node", "__kvmalloc_node_noprof", "bucket_table_alloc"),
    *("vcalloc", "vmalloc_user", "vmalloc_32", "gen_pool_add_owner", "n_tty_open", "seq_read_iter"),
    *("xt_alloc_table_info", "nf_ct_alloc_hashtable", "relay_open_buf", "vc_do_resize", "vc_allocate", "con_init"),
    *("bpf_prog_alloc_no_stats", "bpf_prog_alloc", "bpf_prog_realloc", "bpf_check", "btf_parse_vmlinux"),
    *("bpf_map_area_alloc", "__bpf_map_area_alloc", "bpf_map_area_mmapable_alloc"),
    *("__do_sys_swapon", "swap_cgroup_swapon", "init_swap_address_space", "crash_save_vmcoreinfo_init"),
    *("sg_alloc_table", "alloc_netdev_mqs", "ext4_fill_super", "ext4_mb_init", "deflate_init", "read_file"),
    *("__ioremap_caller", "memremap", "acpi_os_map_iomem", "vmap", "dma_common_contiguous_remap"),
    *("dma_common_pages_remap", "iommu_dma_alloc", "tty_buffer_alloc", "snapshot_write_next", "alloc_workqueue"),
)
