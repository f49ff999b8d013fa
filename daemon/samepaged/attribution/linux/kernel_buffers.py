"""Kernel tables and buffers, found through kernel variables with their addresses and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.linux.struct_reader import is_kernel, read_members
from samepaged.attribution.linux.xarray import xarray_entries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["label_btf", "label_tables"]

# Largest block of the page allocator.
MAX_PAGES: Final = 1 << 10
MAX_BTF_MODULES: Final = 1 << 13
POINTER_BYTES: Final = 8
WRAP: Final = 1 << 64


class _Variable(NamedTuple):
    """A kernel variable, or a member of a struct variable."""

    symbol: str
    member: str | None = None

    def address(self, kernel: Kernel) -> int | None:
        """Return the address, None if this kernel does not have the variable or member."""
        profile = kernel.profile
        if not profile.has(self.symbol) or not (self.member is None or profile.has(self.member)):
            return None
        return (profile.symbols[self.symbol] + (profile.offsets[self.member] if self.member else 0)) % WRAP


class _Table(NamedTuple):
    """A table of entries of one size (bytes, or a type). `amount` has their number, or `last` has the last index."""

    name: str
    start: _Variable
    entry: int | str
    last: _Variable | None = None
    amount: _Variable | None = None


TABLES: Final = (
    _Table("mount hash table", _Variable("mount_hashtable"), POINTER_BYTES, last=_Variable("m_hash_mask")),
    _Table("mount hash table", _Variable("mountpoint_hashtable"), POINTER_BYTES, last=_Variable("mp_hash_mask")),
    *(
        _Table("TCP hash table", _Variable("tcp_hashinfo", f"inet_hashinfo.{start}"), f"inet_{entry}", last, amount)
        for start, entry, last, amount in (
            ("ehash", "ehash_bucket", _Variable("tcp_hashinfo", "inet_hashinfo.ehash_mask"), None),
            ("bhash", "bind_hashbucket", None, _Variable("tcp_hashinfo", "inet_hashinfo.bhash_size")),
            ("bhash2", "bind_hashbucket", None, _Variable("tcp_hashinfo", "inet_hashinfo.bhash_size")),
        )
    ),
    *(
        _Table("UDP hash table", _Variable(table, f"udp_table.{part}"), "udp_hslot", _Variable(table, "udp_table.mask"))
        for table in ("udp_table", "udplite_table")
        for part in ("hash", "hash2")
    ),
    _Table("IP identifiers", _Variable("ip_idents"), 4, last=_Variable("ip_idents_mask")),
    _Table("IP identifiers", _Variable("ip_tstamps"), 4, last=_Variable("ip_idents_mask")),
    # Of unknown length; the page allocator has the size of the block.
    _Table("TCP port table", _Variable("table_perturb"), 0),
    _Table("TCP metrics", _Variable("tcp_metrics_hash"), 0),
    _Table("kernfs locks", _Variable("kernfs_locks"), 0),
)


def label_tables(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label hash tables, and the tracer's buffer of process names. Raises Unreadable."""
    for table in TABLES:
        start = table.start.address(kernel)
        if start is not None:
            _put(kernel, frames, ledger, (kernel.u64(start), _length(kernel, table)), table.name)
    profile = kernel.profile
    saved = _Variable("savedcmd").address(kernel)
    if saved is not None and (buffer := kernel.u64(saved)) and profile.has("saved_cmdlines_buffer.cmdline_num"):
        names = kernel.u32((buffer + profile.offset("saved_cmdlines_buffer.cmdline_num")) % WRAP)
        length = profile.size("saved_cmdlines_buffer") + names * profile.size("task_struct.comm")
        # The buffer is a block of the page allocator (kernel/trace, allocate_cmdlines_buffer).
        _put(
            kernel,
            frames,
            ledger,
            (buffer, PAGE_SIZE << (-(-length // PAGE_SIZE) - 1).bit_length()),
            "names of traced tasks",
        )


def label_btf(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label the BTF of the kernel and its modules, and the indexes of it (kernel/bpf/btf.c). Raises Unreadable."""
    profile = kernel.profile
    known = [np.empty(0, dtype=np.uint64)]
    if profile.has("btf_vmlinux"):
        known.append(np.array([kernel.u64(profile.symbols["btf_vmlinux"])], dtype=np.uint64))
    if profile.has("btf_idr"):
        head = kernel.u64((profile.symbols["btf_idr"] + profile.offset("idr.idr_rt.xa_head")) % WRAP)
        known.append(xarray_entries(kernel, np.array([head], dtype=np.uint64), MAX_BTF_MODULES))
    structs = np.unique(np.concatenate(known))
    structs = structs[is_kernel(structs)]
    if not len(structs):
        return
    wanted = [profile.offset(f"btf.{name}") for name in ("data", "types", "resolved_ids", "resolved_sizes")]
    pointers, _ = read_members(kernel, structs, wanted)
    # Buffers smaller than a page are in slabs; the kernel's own types are in its image.
    pages = _pages(kernel, np.unique(pointers[pointers & np.uint64(PAGE_SIZE - 1) == 0]))
    pages = pages[pages >= 0]
    for page in pages[(ledger.kinds[pages] == 0) & (frames.head[pages] == pages)].tolist():
        ledger.set_kind_of_unknown(_compound(frames, page), "kernel_buffer", "BTF")


def _length(kernel: Kernel, table: _Table) -> int:
    """Return the table's length in bytes, 0 if unknown."""
    entry = table.entry if isinstance(table.entry, int) else kernel.profile.sizes.get(table.entry, 0)
    place = table.last or table.amount
    at = place.address(kernel) if place is not None else None
    return 0 if at is None else (kernel.u32(at) + (table.last is not None)) * entry


def _put(kernel: Kernel, frames: StructPages, ledger: PageLabels, span: tuple[int, int], name: str) -> None:
    """Label a span (start, length in bytes): the compound page that starts there, or else the span's pages."""
    start, length = span
    first = _pages(kernel, np.array([start & -POINTER_BYTES], dtype=np.uint64))
    if start % PAGE_SIZE or first[0] < 0:
        return
    pages = _compound(frames, int(first[0]))
    # Longer tables are not from the page allocator; other steps label them.
    if len(pages) == 1 and 0 < length <= MAX_PAGES * PAGE_SIZE:
        pages = _pages(kernel, np.uint64(start) + np.arange(0, length, PAGE_SIZE, dtype=np.uint64))
    elif len(pages) == 1:
        return
    ledger.set_kind_of_unknown(pages, "kernel_buffer", name)


def _pages(kernel: Kernel, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    return kernel.ram.layout.page_of(kernel.translate(addresses))


def _compound(frames: StructPages, first: int) -> NDArray[np.int64]:
    """Return all pages of the compound page that starts with this page, or the page alone."""
    return np.unique(np.append(first + np.flatnonzero(frames.head[first : first + MAX_PAGES] == first), first))
