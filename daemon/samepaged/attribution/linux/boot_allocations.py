"""Memory that the kernel allocated at boot and keeps, if its purpose is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.struct_reader import HALF, list_entries, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels

__all__ = ["label_dma_pools", "label_ftrace_records"]

MAX_PARTS: Final = 1 << 12
# Largest block of the page allocator.
MAX_PART_BYTES: Final = PAGE_SIZE << 10


def label_ftrace_records(kernel: Kernel, ledger: PageLabels) -> None:
    """Label the records of the tracer's call sites (kernel/trace/ftrace.c). Raises Unreadable."""
    profile = kernel.profile
    if not profile.has("ftrace_pages_start"):
        return
    first = kernel.u64(profile.symbol("ftrace_pages_start"))
    parts = np.array(
        [first, *list_entries(kernel, first, MAX_PARTS, profile.offset("ftrace_page.next"))], dtype=np.uint64
    )
    records = profile.offset("ftrace_page.records")
    by_order = profile.has("ftrace_page.order")
    amount = profile.offset("ftrace_page.order", "ftrace_page.size")
    (starts, amounts), ok = read_members(kernel, parts, (records, amount))
    amounts = amounts[ok] & HALF
    if by_order:
        lengths = np.uint64(PAGE_SIZE) << np.minimum(amounts, np.uint64(MAX_PART_BYTES.bit_length()))
    else:
        lengths = amounts * np.uint64(profile.size("dyn_ftrace"))
    _put(kernel, ledger, starts[ok], lengths, ("kernel_data", "ftrace records"))


def label_dma_pools(kernel: Kernel, ledger: PageLabels) -> None:
    """Label the atomic DMA pools (kernel/dma/pool.c). Raises Unreadable."""
    profile = kernel.profile
    link = profile.offset("gen_pool_chunk.next_chunk")
    ends = [profile.offset(f"gen_pool_chunk.{name}") for name in ("start_addr", "end_addr")]
    for name in ("atomic_pool_dma", "atomic_pool_dma32", "atomic_pool_kernel"):
        pool = kernel.u64(profile.symbols[name]) if profile.has(name) else 0
        if pool:
            chunks = np.array(
                list_entries(kernel, pool + profile.offset("gen_pool.chunks"), MAX_PARTS), dtype=np.uint64
            )
            (starts, lasts), ok = read_members(kernel, chunks - np.uint64(link), ends)
            _put(kernel, ledger, starts[ok], lasts[ok] + np.uint64(1) - starts[ok], ("reserved", "DMA pool"))


def _put(
    kernel: Kernel,
    ledger: PageLabels,
    starts: NDArray[np.uint64],
    lengths: NDArray[np.uint64],
    name: tuple[str, str],
) -> None:
    if np.any(lengths > MAX_PART_BYTES) or int(lengths.sum()) > kernel.ram.pages * PAGE_SIZE:
        raise Unreadable("boot allocations exceed the limit")
    parts = [
        np.arange(start & -PAGE_SIZE, start + length, PAGE_SIZE, dtype=np.uint64)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    if parts:
        ledger.set_kind_of_unknown(kernel.ram.layout.page_of(kernel.translate(np.concatenate(parts))), *name)
