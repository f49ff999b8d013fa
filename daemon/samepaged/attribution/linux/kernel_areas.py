"""The kernel's own memory: image, modules, stacks, page tables, the array of struct pages, vmalloc areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.rbtree import rb_nodes
from samepaged.attribution.linux.struct_reader import HALF, list_entries, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["label_image", "label_mem_map", "label_page_tables", "label_per_cpu", "label_vmalloc", "label_zero_pages"]

POINTER_BYTES: Final = 8
WRAP: Final = 1 << 64
SIGN: Final = 1 << 63
MAX_AREAS: Final = 1 << 18
MAX_TREES: Final = 1024
MAX_MODULES: Final = 4096
MAX_MODULE_PARTS: Final = 16
MAX_CPUS: Final = 4096
MAX_NAME_BYTES: Final = 56
# Limit of the image's size (KERNEL_IMAGE_SIZE). Modules follow it, up to the end of the address space.
IMAGE_START, IMAGE_SIZE = -(1 << 31), 1 << 30
LARGE_PAGE_BYTES: Final = 2 << 20
HUGE_ZERO_PAGES: Final = 512
# Functions that allocate areas of these kinds; the areas of all others are "vmalloc".
STACK_CALLERS: Final = frozenset(
    {"alloc_thread_stack_node", "dup_task_struct", "copy_process", "kernel_clone", "_do_fork", "init_irq_stack"}
    | {"irq_init_percpu_irqstack", "map_irq_stack"}
)
MODULE_CALLERS: Final = frozenset(
    {"load_module", "module_alloc", "move_module", "layout_and_allocate", "module_memory_alloc"}
)
PER_CPU_CALLERS: Final = frozenset({"pcpu_create_chunk", "pcpu_get_vm_areas"})


def label_image(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label the kernel's text and data, except parts freed after boot. Raises Unreadable."""
    symbols = kernel.profile.symbols
    start = min(symbols.get("_text", WRAP), kernel.profile.symbol("_stext"))
    end_of_text, end = kernel.profile.symbol("_etext"), kernel.profile.symbol("_end")
    if not IMAGE_START + WRAP <= start <= end_of_text <= end or end - start > IMAGE_SIZE:
        raise Unreadable("invalid addresses of the kernel image")
    for kind, name, first, last in (
        ("kernel_text", "kernel text", start, end_of_text),
        ("kernel_data", "kernel data", end_of_text, end),
    ):
        pages = _ram_pages(kernel, np.arange(first & -PAGE_SIZE, last, PAGE_SIZE, dtype=np.uint64))
        pages = pages[pages >= 0]
        # Init sections were freed after boot, and are ordinary memory now. They follow the text.
        kept = frames.reserved[pages] if np.any(frames.reserved) else np.full(len(pages), kind == "kernel_text")
        ledger.set_kind(pages[kept], kind, name)


def label_zero_pages(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> NDArray[np.int64]:
    """Label and return the zero pages. All processes map them for memory that they have only read, so they count as
    kernel memory. Raises Unreadable.
    """
    symbols = kernel.profile.symbols
    pages = _ram_pages(kernel, np.array([kernel.profile.symbol("empty_zero_page")], dtype=np.uint64))
    ledger.set_kind(pages, "kernel_data", "zero page")
    for name in ("huge_zero_folio", "huge_zero_page"):
        if name in symbols and (pointer := kernel.u64(symbols[name])):
            head = frames.pages_at(kernel, np.array([pointer], dtype=np.uint64))
            if head[0] >= 0:
                huge = np.arange(head[0], min(head[0] + HUGE_ZERO_PAGES, len(frames.readable)), dtype=np.int64)
                ledger.set_kind(huge, "kernel_data", "huge zero page")
                pages = np.concatenate((pages, huge))
            break
    return pages[pages >= 0]


def label_page_tables(kernel: Kernel, ledger: PageLabels) -> None:
    """Label the kernel's own page tables."""
    ledger.set_kind(kernel.ram.layout.page_of(kernel.page_tables.tables), "page_table", "page tables")


def label_mem_map(frames: StructPages, ledger: PageLabels) -> None:
    """Label the struct pages themselves."""
    ledger.set_kind(frames.mem_map.pages, "page_array", "struct pages")


def label_per_cpu(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label the first chunk of per-CPU memory, which is allocated at boot (the kernel frees its unused parts). Later
    chunks are vmalloc areas. Raises Unreadable.
    """
    profile = kernel.profile
    base, size = kernel.u64(profile.symbol("pcpu_base_addr")), kernel.u32(profile.symbol("pcpu_unit_size"))
    cpus = min(kernel.u32(profile.symbol("nr_cpu_ids")), MAX_CPUS)
    table = kernel.u64(profile.symbol("pcpu_unit_offsets"))
    offsets, ok = kernel.words(np.uint64(table) + np.arange(cpus, dtype=np.uint64) * np.uint64(POINTER_BYTES))
    if size >> PAGE_SHIFT > kernel.ram.pages:
        raise Unreadable("invalid size of the per-CPU memory")
    within = np.arange(0, size, PAGE_SIZE, dtype=np.uint64)
    starts = np.uint64(base) + np.unique(offsets[ok])
    starts = starts[: max(kernel.ram.pages // max(len(within), 1), 1)]
    pages = _ram_pages(kernel, (starts[:, None] + within).reshape(-1))
    pages = pages[pages >= 0]
    ledger.set_kind(pages[frames.reserved[pages]], "per_cpu", "per-CPU memory")


def label_vmalloc(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label all that the kernel maps outside its image, its array of struct pages and its direct map, by the
    allocating function. Raises Unreadable after the pages are labelled, if the functions cannot be found.
    """
    addresses, pages = _small_mappings(kernel, frames)
    known = ledger.kinds[pages] != 0
    addresses, pages = addresses[~known], pages[~known]
    modules = addresses >= IMAGE_START
    ledger.set_kind(pages[~modules], "vmalloc", "vmalloc")
    ledger.set_kind(pages[modules], "module", "module")
    if not kernel.profile.has_types:
        return
    starts, ends, callers = _areas(kernel)
    area = np.searchsorted(starts, addresses, side="right") - 1
    area[addresses >= ends[area]] = -1
    called = _caller_indices(kernel, callers)
    names = [name for _, _, name in kernel.profile.callers]
    for place in np.unique(called).tolist():
        name = names[place] if place >= 0 else None
        chosen = pages[(area >= 0) & (called[area] == place)]
        if name in STACK_CALLERS:
            ledger.set_kind(chosen, "kernel_stack", "kernel stack")
        elif name in PER_CPU_CALLERS:
            ledger.set_kind(chosen, "per_cpu", "per-CPU memory")
        elif name in MODULE_CALLERS:
            ledger.set_kind(chosen, "module", "module")
        elif name is not None:
            ledger.set_kind(chosen, "vmalloc", f"vmalloc {name}")
    if kernel.profile.has("modules"):
        _name_modules(kernel, addresses, pages, ledger)


def _small_mappings(kernel: Kernel, frames: StructPages) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pages mapped in the vmalloc and module areas: address (as signed, ascending) and RAM page."""
    mapped = kernel.page_tables
    symbols = kernel.profile.symbols
    first = kernel.u64(symbols["vmalloc_base"]) - WRAP if "vmalloc_base" in symbols else IMAGE_START
    # The image is mapped by large pages; the kernel frees the unused end of the last one.
    end = (symbols["_end"] - WRAP + LARGE_PAGE_BYTES - 1) & -LARGE_PAGE_BYTES if "_end" in symbols else 0
    in_vmalloc = (mapped.addresses >= first) & (mapped.addresses < frames.mem_map.base)
    in_modules = (mapped.addresses >= end) & (mapped.addresses < -PAGE_SIZE)
    in_ram = kernel.ram.layout.page_of(mapped.physical) >= 0
    chosen = np.flatnonzero((in_vmalloc | in_modules) & in_ram)
    lengths = mapped.pages[chosen]
    if int(lengths.sum()) > kernel.ram.pages * 2:
        raise Unreadable("vmalloc maps more than the guest's memory")
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    addresses = np.repeat(mapped.addresses[chosen], lengths) + (within << PAGE_SHIFT)
    physical = np.repeat(mapped.physical[chosen], lengths) + (within << PAGE_SHIFT)
    pages = kernel.ram.layout.page_of(physical)
    return addresses[pages >= 0], pages[pages >= 0]


def _areas(kernel: Kernel) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Return all areas by start: starts and ends (as signed), and the address of the code that allocated each."""
    profile = kernel.profile
    if profile.has("vmap_nodes"):  # from 6.9, commit d093602919ad: an array of trees
        count = min(kernel.u32(profile.symbol("nr_vmap_nodes")), MAX_TREES)
        size = profile.size("vmap_node")
        nodes = np.uint64(kernel.u64(profile.symbol("vmap_nodes"))) + np.arange(count, dtype=np.uint64) * np.uint64(
            size
        )
        (roots,), _ = read_members(kernel, nodes, (profile.offset("vmap_node.busy.root.rb_node"),))
    else:
        roots = np.array([kernel.u64(profile.symbol("vmap_area_root"))], dtype=np.uint64)
    nodes, _ = rb_nodes(kernel, roots, profile.offset("rb_node.rb_left"), profile.offset("rb_node.rb_right"), MAX_AREAS)
    areas = nodes - np.uint64(profile.offset("vmap_area.rb_node"))
    wanted = [profile.offset(f"vmap_area.{name}") for name in ("va_start", "va_end", "vm")]
    (starts, ends, structs), ok = read_members(kernel, areas, wanted)
    (callers,), told = read_members(kernel, structs, (profile.offset("vm_struct.caller"),))
    callers[~told] = 0
    ok &= starts < ends
    if not np.any(ok):
        raise Unreadable("no vmalloc areas")
    order = np.flatnonzero(ok)[np.argsort(starts[ok], kind="stable")]
    return starts[order].view(np.int64), ends[order].view(np.int64), callers[order]


def _caller_indices(kernel: Kernel, callers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the index of the profile's function that contains each address, -1 if there is none."""
    known = kernel.profile.callers
    if not known:
        return np.full(len(callers), -1, dtype=np.int64)
    starts = np.array([start for start, _, _ in known], dtype=np.uint64)
    ends = np.array([end for _, end, _ in known], dtype=np.uint64)
    place = np.searchsorted(starts, callers, side="right") - 1
    return np.where((place >= 0) & (callers < ends[place]), place, -1)


def _name_modules(kernel: Kernel, addresses: NDArray[np.int64], pages: NDArray[np.int64], ledger: PageLabels) -> None:
    profile = kernel.profile
    entries = list_entries(kernel, profile.symbol("modules"), MAX_MODULES)
    modules = np.array(entries, dtype=np.uint64) - np.uint64(profile.offset("module.list"))
    names = kernel.strings(modules + np.uint64(profile.offset("module.name")), MAX_NAME_BYTES)
    if profile.has("module_memory.base"):  # from 6.4, commit ac3b43283923
        step = profile.size("module_memory")
        first = profile.offset("module.mem")
        parts = [first + number * step for number in range(min(profile.size("module.mem") // step, MAX_MODULE_PARTS))]
        base, size = profile.offset("module_memory.base"), profile.offset("module_memory.size")
        spans = [(part + base, part + size) for part in parts]
    else:
        base, size = profile.offset("module.core_layout.base"), profile.offset("module.core_layout.size")
        spans = [(base, size)]
    for at_base, at_size in spans:
        (bases, sizes), ok = read_members(kernel, modules, (at_base, at_size))
        for start, length, name in zip(
            bases[ok].tolist(), (sizes[ok] & HALF).tolist(), _mask_names(names, ok), strict=True
        ):
            if start >= SIGN and name:
                low, high = np.searchsorted(addresses, (start - WRAP & -PAGE_SIZE, start - WRAP + length))
                ledger.set_kind(pages[low:high], "module", f"module {name}")


def _mask_names(names: list[str | None], ok: NDArray[np.bool_]) -> list[str | None]:
    return [name for name, kept in zip(names, ok.tolist(), strict=True) if kept]


def _ram_pages(kernel: Kernel, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    return kernel.ram.layout.page_of(kernel.translate(addresses))
