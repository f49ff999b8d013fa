"""Builder of a small guest with processes, files and free memory; members of structs have 8 bytes."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.linux import kernel_schema
from samepaged.attribution.linux.kernel import Kernel
from samepaged.attribution.linux.paging import PageTableLeaves
from samepaged.attribution.linux.profile import Profile
from samepaged.attribution.linux.vmcoreinfo import IMAGE, VmCoreInfo
from tests.unit.attribution.builders import PRESENT, USER, WRITE, Machine
from tests.unit.attribution.made_structs import NEVER, NEW, OLD, SIZES, offsets

PAGES: Final = 1024
DIRECT: Final = 0xFFFF888000000000
ARRAY: Final = 0xFFFFEA0000000000
VMALLOC: Final = 0xFFFFC90000000000
TEXT: Final = IMAGE + (16 << 20)
MODULE: Final = 0xFFFFFFFFC0000000
# RAM pages: text and data of the image, the struct page array, slab pages for objects, a stack and a module.
TEXT_PAGE, DATA_PAGE, ARRAY_PAGE, OBJECTS, STACK_PAGE, MODULE_PAGE = 16, 20, 64, 128, 300, 301
PINNED: Final = 1
NO_TYPE: Final = 0xFFFFFFFF
SLAB_FLAG, RESERVED_FLAG = 1 << 9, 1 << 12


class Inhabited:
    """The guest. Objects are allocated one after the other in slab pages; `frame` writes a struct page."""

    def __init__(self, *, new: bool = True, typed: bool = True) -> None:
        self.new, self.typed = new, typed
        self.machine = Machine(PAGES)
        self.offsets = offsets(NEVER | (OLD if new else NEW))
        self._next = OBJECTS * PAGE_SIZE
        self.symbols: dict[str, int] = {}
        self.callers = [(TEXT + 0x100, TEXT + 0x200, "copy_process"), (TEXT + 0x200, TEXT + 0x300, "load_module")]
        for number, name in enumerate(kernel_schema.SYMBOLS):
            if name not in NEVER | (OLD if new else NEW):
                self.symbols[name] = TEXT + DATA_PAGE * PAGE_SIZE - TEXT_PAGE * PAGE_SIZE + 256 * number
        self.symbols |= {"_text": TEXT, "_stext": TEXT, "_etext": TEXT + 4 * PAGE_SIZE, "_end": TEXT + 16 * PAGE_SIZE}
        self.symbols |= {"init_task": TEXT + 12 * PAGE_SIZE, "empty_zero_page": TEXT + 11 * PAGE_SIZE}
        for page in range(PAGES):
            self.frame(page, references=0)
        for page in range(TEXT_PAGE, TEXT_PAGE + 16):
            self.frame(page, flags=RESERVED_FLAG)
        self.variable("vmemmap_base", ARRAY)
        self.variable("vmalloc_base", VMALLOC)
        self._tasks = [self.symbols["init_task"]]
        self._process_end()
        self.cache = self.make("kmem_cache", name=self.string("dentry"))
        for page in range(OBJECTS, OBJECTS + 64):
            self.slab(page)
        self.namespace = self.make("mnt_namespace")
        self.set(self.symbols["init_task"], "task_struct.nsproxy", self.make("nsproxy", mnt_ns=self.namespace))
        self.set(self.symbols["init_task"], "task_struct.flags", 0x00200000)
        module = self.take(0x200)
        self.machine.put(self.physical(module) + self.offsets["module.name"], b"ext4\0")
        self.word(module + 0x80, MODULE)
        self.word(module + 0x88, PAGE_SIZE)
        self.list_head(self.symbols["modules"], module + self.offsets["module.list"])
        self.super, self.root, self.mount = self.file_system("ext4")
        self._free_lists()
        self._areas()

    def physical(self, address: int) -> int:
        return address - DIRECT if address < ARRAY else address - TEXT + TEXT_PAGE * PAGE_SIZE

    def word(self, address: int, value: int) -> None:
        self.machine.word(self.physical(address), value % (1 << 64))

    def get(self, address: int, field: str) -> int:
        return self.machine.word(self.physical(address) + self.offsets[field])

    def set(self, address: int, field: str, value: int) -> None:
        if field in self.offsets:
            self.word(address + self.offsets[field], value)

    def variable(self, name: str, value: int) -> None:
        if name in self.symbols:
            self.word(self.symbols[name], value)

    def take(self, size: int, multiple: int = 8) -> int:
        self._next = (self._next + multiple - 1) & -multiple
        self._next += size
        return DIRECT + self._next - size

    def make(self, struct_: str, **members: int) -> int:
        """Create a struct and return its address. `f_path__dentry` is the member f_path.dentry."""
        address = self.take(0x208)
        for member, value in members.items():
            self.set(address, f"{struct_}.{member.replace('__', '.')}", value)
        return address

    def string(self, text: str) -> int:
        raw = text.encode() + b"\0"
        address = self.take(len(raw) + 8)
        self.machine.put(self.physical(address), raw)
        return address

    def list_head(self, address: int, *entries: int) -> None:
        ring = [address, *entries]
        for one, following in zip(ring, [*entries, address], strict=True):
            self.word(one, following)

    def frame(
        self, page: int, *, flags: int = 0, mapping: int = 0, index: int = 0, references: int = 1,
        kind: int = NO_TYPE, head: int = 0, private: int = 0, link: int = 0,
    ) -> None:  # fmt: skip
        raw = struct.pack("<QQQQQQIi", flags, head or link, 0, mapping, index, private, kind, references)
        self.machine.put(ARRAY_PAGE * PAGE_SIZE + page * 64, raw.ljust(64, b"\0"))

    def slab(self, page: int) -> None:
        if self.new:
            self.frame(page, kind=0xF500_0000)
            self.machine.word(ARRAY_PAGE * PAGE_SIZE + page * 64 + self.offsets["slab.slab_cache"] % 64, self.cache)
        else:
            self.frame(page, flags=SLAB_FLAG, mapping=self.cache)

    def free(self, page: int, order: int) -> None:
        self.frame(page, kind=0xF000_0000 if self.new else 0xFFFFFF7F, private=order, references=0)

    # Files.

    def file_system(self, kind: str) -> tuple[int, int, int]:
        """Mount a file system at the root; return its super_block, root directory and struct vfsmount."""
        type_ = self.make("file_system_type", name=self.string(kind))
        super_block = self.make("super_block", s_type=type_)
        root = self.directory("/", 0)
        self.set(root, "dentry.d_parent", root)
        self.set(super_block, "super_block.s_root", root)
        mount = self.make("mount", mnt_ns=self.namespace)
        at = mount + self.offsets["mount.mnt"]
        self.set(mount, "mount.mnt_parent", mount)
        self.set(at, "vfsmount.mnt_root", root)
        instance = mount + self.offsets["mount.mnt_instance"]
        self.list_head(super_block + self.offsets["super_block.s_mounts"], instance)
        return super_block, root, at

    def directory(self, name: str, parent: int, **members: int) -> int:
        made = self.make("dentry", d_parent=parent, d_hash__pprev=DIRECT, **members)
        self.set(made, "dentry.d_name.name", self.string(name))
        return made

    def file(self, *way: str, deleted: bool = False, purpose: bool = False) -> tuple[int, int]:
        """Create an open file under the root directory; return its struct file and its mapping."""
        entry = self.root
        for name in way:
            entry = self.directory(name, entry)
        if deleted:
            self.set(entry, "dentry.d_hash.pprev", 0)
        if purpose:
            self.set(entry, "dentry.d_op", self.make("dentry_operations", d_dname=TEXT))
        inode = self.make("inode", i_sb=self.super, i_ino=77)
        mapping = self.make("address_space", host=inode)
        self.set(inode, "inode.i_mapping", mapping)
        self.set(inode, "inode.i_dentry.first", entry + self.offsets["dentry.d_u.d_alias"])
        members = {"f_path__mnt": self.mount, "f_path__dentry": entry, "f_inode": inode, "f_mapping": mapping}
        return self.make("file", **members), mapping

    # Processes.

    def process(
        self, name: str, areas: list[tuple[int, int, int, int, int]], pages: dict[int, int], **bounds: int
    ) -> int:
        """Create a process with these areas (start, end, mode, struct file, page of the file) and pages (address: RAM
        page); return its memory map. `bounds` are start_brk, brk and start_stack.
        """
        root = self.machine.page()
        for address, page in pages.items():
            self.machine.map(root, address, page * PAGE_SIZE, flags=PRESENT | WRITE | USER)
        mm = self.make("mm_struct", pgd=DIRECT + root, **bounds)
        structs = [
            self.make(
                "vm_area_struct",
                vm_start=start,
                vm_end=end,
                vm_flags=mode & 7 | (mode & 8) << 4,
                vm_file=file,
                vm_pgoff=within,
                vm_mm=mm,
            )
            for start, end, mode, file, within in sorted(areas)
        ]
        if self.new:
            self.set(
                mm,
                "mm_struct.mm_mt.ma_root",
                self.maple(
                    [(end - 1, one) for one, (_, end, *_) in zip(structs, sorted(areas), strict=True)],
                    [start for start, *_ in sorted(areas)],
                ),
            )
        else:
            self.set(
                mm,
                "mm_struct.mm_rb.rb_node",
                self.balanced([one + self.offsets["vm_area_struct.vm_rb"] for one in structs]),
            )
        task = self.task(name, mm)
        self._tasks.append(task)
        self._process_end()
        return mm

    def task(self, name: str, mm: int) -> int:
        signal = self.make("signal_struct")
        task = self.make("task_struct", mm=mm, signal=signal)
        self.machine.put(self.physical(task) + self.offsets["task_struct.comm"], name.encode()[:15] + b"\0")
        head = signal + self.offsets["signal_struct.thread_head"]
        self.list_head(head, task + self.offsets["task_struct.thread_node"])
        return task

    def _process_end(self) -> None:
        link = self.offsets["task_struct.tasks"]
        self.list_head(self._tasks[0] + link, *(task + link for task in self._tasks[1:]))

    def balanced(self, nodes: list[int]) -> int:
        """Build a binary tree of rb_nodes in this order and return its root."""
        if not nodes:
            return 0
        middle = len(nodes) // 2
        self.set(nodes[middle], "rb_node.rb_left", self.balanced(nodes[:middle]))
        self.set(nodes[middle], "rb_node.rb_right", self.balanced(nodes[middle + 1 :]))
        return nodes[middle]

    def maple(self, entries: list[tuple[int, int]], starts: list[int], wide: int = 12) -> int:
        """Build a maple tree of entries by their last index, with gaps before later starts; return ma_root."""
        slots: list[tuple[int, int]] = []
        below = 0
        for (last, entry), start in zip(entries, starts, strict=True):
            if start > below:
                slots.append((start - 1, 0))
            slots.append((last, entry))
            below = last + 1
        slots.append(((1 << 64) - 1, 0))
        kind, level = 1, slots
        while True:
            step = wide if kind == 1 else 8
            parts = [level[at : at + step] for at in range(0, len(level), step)]
            nodes = [(part[-1][0], self._node(kind, part) | kind << 3 | 4) for part in parts]
            if len(nodes) == 1:
                return nodes[0][1] & ~4 | 2
            kind, level = 3, nodes

    def _node(self, kind: int, slots: list[tuple[int, int]]) -> int:
        name = "maple_arange_64" if kind == 3 else "maple_range_64"
        address = self.take(256, 256)
        pivots = SIZES[f"{name}.pivot"] // 8
        for number, (last, entry) in enumerate(slots):
            self.word(address + self.offsets[f"{name}.slot"] + 8 * number, entry)
            if number < pivots:
                self.word(address + self.offsets[f"{name}.pivot"] + 8 * number, last)
        return address

    # Free lists, areas, and the kernel.

    def _free_lists(self) -> None:
        node = self.take(0x100)
        per_cpu = self.take(0x200)
        nested = self.offsets.get("per_cpu_pageset.pcp", 0)
        self.per_cpu_list = per_cpu + nested + self.offsets["per_cpu_pages.lists"]
        for number in range(3):
            self.list_head(self.per_cpu_list + 16 * number)
        self.set(node, "zone.per_cpu_pageset" if self.new else "zone.pageset", per_cpu)
        zone = "zone.per_cpu_pageset" if self.new else "zone.pageset"
        self.offsets[zone] = 64
        self.set(node, zone, per_cpu)
        self.variable("node_data", node)
        self.variable("nr_node_ids", 1)
        self.variable("nr_cpu_ids", 1)
        self.variable("__per_cpu_offset", 0)

    def at_hand(self, *pages: int) -> None:
        """Put these pages into a per-CPU list."""
        links = [ARRAY + page * 64 + 8 for page in pages]
        self.word(self.per_cpu_list, links[0])
        for page, following in zip(pages, [*links[1:], self.per_cpu_list], strict=True):
            self.frame(page, references=0, link=following)

    def _areas(self) -> None:
        link = self.offsets["vmap_area.rb_node"]
        areas = []
        for start, caller in ((VMALLOC, TEXT + 0x110), (MODULE, TEXT + 0x210)):
            vm = self.make("vm_struct", caller=caller)
            areas.append(self.make("vmap_area", va_start=start, va_end=start + 2 * PAGE_SIZE, vm=vm) + link)
        root = self.balanced(areas)
        self.area = areas[0]
        self.frame(STACK_PAGE)
        self.frame(MODULE_PAGE)
        if self.new:
            node = self.take(64)
            self.offsets["vmap_node.busy.root.rb_node"] = 8
            self.word(node + 8, root)
            self.variable("vmap_nodes", node)
            self.variable("nr_vmap_nodes", 1)
        else:
            self.variable("vmap_area_root", root)

    def kernel(self) -> Kernel:
        """Open the kernel on a copy of the current RAM."""
        leaves = sorted(
            (address - (1 << 64), physical, pages)
            for address, physical, pages in (
                (DIRECT, 0, PAGES),
                (ARRAY, ARRAY_PAGE * PAGE_SIZE, PAGES * 64 // PAGE_SIZE),
                (VMALLOC, STACK_PAGE * PAGE_SIZE, 1),
                (TEXT, TEXT_PAGE * PAGE_SIZE, 16),
                (MODULE, MODULE_PAGE * PAGE_SIZE, 1),
            )
        )
        mapped = PageTableLeaves(
            addresses=np.array([address for address, _, _ in leaves], dtype=np.int64),
            physical=np.array([physical for _, physical, _ in leaves], dtype=np.int64),
            pages=np.array([pages for _, _, pages in leaves], dtype=np.int64),
            entries=np.zeros(len(leaves), dtype=np.uint64),
            tables=np.array([1000 * PAGE_SIZE], dtype=np.int64),
        )
        numbers = {"PAGE_BUDDY_MAPCOUNT_VALUE": -(16 << 24) if self.new else -129, "PG_slab": 9}
        if self.new:
            numbers["PAGE_SLAB_MAPCOUNT_VALUE"] = -(11 << 24)
        info = VmCoreInfo("6.6.6-made" if self.new else "5.10.6-made", None, {}, {}, {}, numbers, {})
        enumerators = {"PG_slab": 9, "PG_reserved": 12} if self.typed else {}
        profile = Profile(
            fingerprint="00" * 32,
            stext=TEXT,
            offsets=self.offsets if self.typed else {n: o for n, o in self.offsets.items() if n.startswith("page.")},
            sizes=SIZES,
            enumerators=enumerators,
            symbols=self.symbols,
            callers=tuple(self.callers) if self.typed else (),
            has_types=self.typed,
        )
        return Kernel(self.machine.ram(), mapped, info=info, profile=profile)
