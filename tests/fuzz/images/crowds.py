"""Extreme numbers of kernel objects, as valid as the real ones: tasks, areas, files, directories, caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS
from tests.fuzz.images.damage import some

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tests.fuzz.images.scene import Scene

    Random = np.random.Generator

__all__ = ["CROWDS"]

MAPLE_SLOTS: Final = {True: 16, False: 10}  # of a leaf, of an inner node
LEAF_BITS, INNER_BITS = 1 << 3, 3 << 3


class _Room:
    """The longest run of unused memory, allocated piece by piece."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        runs = np.split(scene.room, np.flatnonzero(np.diff(scene.room) != 1) + 1)
        longest = max(runs, key=len)
        self._next, self._end = int(longest[0]) * PAGE_WORDS, (int(longest[-1]) + 1) * PAGE_WORDS

    def take(self, words: int) -> NDArray[np.int64]:
        """Return the places of `words` words, or as many as are left."""
        first = self._next
        self._next = min((first + words + 31) & ~31, self._end)
        return np.arange(first, min(first + words, self._end))


class _Crowd:
    """Structs with only these relevant members (byte offsets), packed so densely that all other members overlap."""

    def __init__(self, room: _Room, count: int, members: Sequence[int]) -> None:
        self._image = room.scene.image
        slots = {member // 8 for member in members}
        self._step = next(
            step for step in range(len(slots), 4096) if len({slot % step for slot in slots}) == len(slots)
        )
        reach = max(slots) + 1
        places = room.take(self._step * count + reach)
        self.count = max((len(places) - reach) // self._step, 0)
        self._first = places[:1] + np.arange(self.count) * self._step if len(places) else places
        self.addresses = room.scene.address(self._first)

    def set(self, member: int, values: NDArray[np.uint64]) -> None:
        """Set this member of all structs; a shorter list of values is repeated."""
        if self.count:
            self._image.put(self._first + member // 8, np.resize(values, self.count))


def areas(scene: Scene, random: Random) -> None:
    """Add hundreds of thousands of mappings to a process, each with its own file, or all with the same one."""
    offset = scene.kernel.profile.offset
    room = _Room(scene)
    names = ("vm_start", "vm_end", "vm_flags", "vm_file", "vm_pgoff", "vm_ops", "vm_private_data", "vm_mm")
    members = {name: offset(f"vm_area_struct.{name}") for name in names}
    tree = scene.kernel.profile.has("mm_struct.mm_mt.ma_root")
    links = (
        [] if tree else [offset("vm_area_struct.vm_rb") + offset(f"rb_node.rb_{side}") for side in ("left", "right")]
    )
    files = _files(scene, random, room) if random.random() < 0.7 else np.zeros(1, dtype=np.uint64)
    crowd = _Crowd(room, some(random, 300_000), [*members.values(), *links])
    if not crowd.count:
        return
    maps = random.permutation(scene.maps)
    starts = (np.arange(crowd.count, dtype=np.uint64) + np.uint64(0x400)) * np.uint64(PAGE_SIZE)
    length = int(random.choice([PAGE_SIZE, PAGE_SIZE, 4 * PAGE_SIZE, 1 << 40]))
    for name, values in (
        ("vm_start", starts),
        ("vm_end", starts + np.uint64(length)),
        ("vm_flags", np.array([0x75], dtype=np.uint64)),
        ("vm_file", files),
        ("vm_pgoff", starts >> np.uint64(12)),
        ("vm_private_data", scene.strings[:1]),
        ("vm_mm", maps[:1]),
    ):
        crowd.set(members[name], values)
    roots = scene.place(maps + np.uint64(offset("mm_struct.mm_mt.ma_root", "mm_struct.mm_rb.rb_node")))
    if tree:
        scene.image.put(roots, np.array([_maple(room, crowd.addresses) | np.uint64(2)]))
    else:
        base = np.uint64(offset("vm_area_struct.vm_rb"))
        _binary(crowd, crowd.addresses + base, links[0], links[1])
        scene.image.put(roots, crowd.addresses[:1] + base)


def tasks(scene: Scene, random: Random) -> None:
    """Add tens of thousands of processes, each with its own name and memory map; all share the same page tables."""
    offset = scene.kernel.profile.offset
    room = _Room(scene)
    maps = _Crowd(room, some(random, 40_000), [offset(f"mm_struct.{name}") for name in ("pgd", "start_brk", "brk")])
    if maps.count:
        real = scene.place(scene.maps[:1] + np.uint64(offset("mm_struct.pgd")))
        maps.set(offset("mm_struct.pgd"), scene.image.at(real))
    names = {name: offset(f"task_struct.{name}") for name in ("tasks", "mm", "flags", "signal", "comm")}
    crowd = _Crowd(room, some(random, 60_000), list(names.values()))
    if not crowd.count:
        return
    link = np.uint64(names["tasks"])
    crowd.set(names["tasks"], np.roll(crowd.addresses + link, -1))
    crowd.set(names["mm"], np.concatenate((scene.maps, maps.addresses)) if random.random() < 0.7 else scene.maps)
    crowd.set(names["flags"], np.zeros(1, dtype=np.uint64))
    crowd.set(names["comm"], np.arange(crowd.count, dtype=np.uint64) + np.uint64(0x30303030303030))
    first = scene.kernel.profile.symbol("init_task") + names["tasks"]
    scene.image.put(scene.place(np.array([first], dtype=np.uint64)), crowd.addresses[:1] + link)


def vmalloc_areas(scene: Scene, random: Random) -> None:
    profile, offset = scene.kernel.profile, scene.kernel.profile.offset
    root = scene.kernel.profile.symbols.get("vmap_area_root")
    if root is None:
        root = scene.kernel.u64(profile.symbol("vmap_nodes")) + offset("vmap_node.busy.root.rb_node")
    names = {name: offset(f"vmap_area.{name}") for name in ("va_start", "va_end", "vm")}
    node = offset("vmap_area.rb_node")
    links = [node + offset(f"rb_node.rb_{side}") for side in ("left", "right")]
    crowd = _Crowd(_Room(scene), some(random, 400_000), [*names.values(), *links])
    if not crowd.count:
        return
    starts = np.uint64(0xFFFF800000000000) + np.arange(crowd.count, dtype=np.uint64) * np.uint64(PAGE_SIZE)
    crowd.set(names["va_start"], starts)
    crowd.set(names["va_end"], starts + np.uint64(PAGE_SIZE))
    crowd.set(names["vm"], scene.image.at(scene.pointers))
    _binary(crowd, crowd.addresses + np.uint64(node), links[0], links[1])
    scene.image.put(scene.place(np.array([root], dtype=np.uint64)), crowd.addresses[:1] + np.uint64(node))


def cached_files(scene: Scene, random: Random) -> None:
    """Assign each page of the page cache, and further pages, to a separate file on a separate file system."""
    offset = scene.kernel.profile.offset
    room = _Room(scene)
    inode = {name: offset(f"inode.{name}") for name in ("i_sb", "i_dentry.first", "i_ino", "i_rdev", "i_mapping")}
    count = some(random, scene.image.pages)
    inodes = _Crowd(room, count, list(inode.values()))
    mappings = _Crowd(room, count, [offset("address_space.host")])
    if not inodes.count or not mappings.count:
        return
    mappings.set(offset("address_space.host"), inodes.addresses)
    inodes.set(inode["i_mapping"], mappings.addresses)
    systems = _Crowd(room, some(random, 20_000), [offset("super_block.s_type"), offset("super_block.s_mounts")])
    if systems.count:
        systems.set(offset("super_block.s_type"), scene.image.at(scene.pointers))
        systems.set(
            offset("super_block.s_mounts"),
            random.choice(systems.addresses, systems.count) + np.uint64(offset("super_block.s_mounts")),
        )
        inodes.set(inode["i_sb"], systems.addresses)
    entries = _entries(scene, random, room)
    inodes.set(inode["i_dentry.first"], entries + np.uint64(offset("dentry.d_u.d_alias", "dentry.d_alias")))
    frames = random.choice(scene.image.pages, mappings.count)
    own = (scene.array.base + frames * scene.array.size).view(np.uint64)
    scene.image.put(scene.place(own + np.uint64(offset("page.mapping"))), mappings.addresses)


def _structs(room: _Room, struct: str, members: tuple[str, ...], count: int) -> tuple[_Crowd, dict[str, int]]:
    """Return at most `count` instances of a kernel struct, and the byte offsets of their members that are set."""
    offsets = {member: room.scene.kernel.profile.offset(f"{struct}.{member}") for member in members}
    return _Crowd(room, count, list(offsets.values())), offsets


def _files(scene: Scene, random: Random, room: _Room) -> NDArray[np.uint64]:
    """Return open files, each with its own place in a tree of directories."""
    members = ("f_path.mnt", "f_path.dentry", "f_inode", "f_mapping")
    crowd, names = _structs(room, "file", members, some(random, 50_000))
    if not crowd.count:
        return np.zeros(1, dtype=np.uint64)
    crowd.set(names["f_path.mnt"], np.resize(scene.mounts, some(random, crowd.count)))
    crowd.set(names["f_path.dentry"], _entries(scene, random, room))
    crowd.set(names["f_inode"], scene.image.at(scene.pointers))
    return crowd.addresses


def _entries(scene: Scene, random: Random, room: _Room) -> NDArray[np.uint64]:
    """Return directory entries, one below the other: in one line, in a circle, or in a random tree."""
    members = ("d_parent", "d_name.name", "d_op", "d_hash.pprev")
    crowd, names = _structs(room, "dentry", members, some(random, 60_000))
    if not crowd.count:
        return np.zeros(1, dtype=np.uint64)
    text = room.take(64)
    scene.image.put(text, np.full(len(text), 0x6161616161616161, dtype=np.uint64))
    name = scene.address(text[: len(text) - 33]) if random.random() < 0.5 else scene.strings
    above = (
        lambda: np.roll(crowd.addresses, -1),
        lambda: random.choice(crowd.addresses, crowd.count),
        lambda: crowd.addresses[np.arange(crowd.count) // 2],
    )
    crowd.set(names["d_parent"], above[int(random.integers(3))]())
    crowd.set(names["d_name.name"], name if len(name) else scene.strings)
    crowd.set(names["d_op"], np.zeros(1, dtype=np.uint64))
    crowd.set(names["d_hash.pprev"], np.array([0, 8], dtype=np.uint64))
    return crowd.addresses


def _maple(room: _Room, entries: NDArray[np.uint64]) -> np.uint64:
    """Build a maple tree of these entries with all nodes full. Return the encoded pointer to its root."""
    offset = room.scene.kernel.profile.offset
    leaf = True
    tops = np.arange(1, len(entries) + 1, dtype=np.uint64)
    while leaf or len(entries) > 1:
        kind, bits = ("maple_range_64", LEAF_BITS) if leaf else ("maple_arange_64", INNER_BITS)
        slots = MAPLE_SLOTS[leaf]
        count = -(-len(entries) // slots)
        places = room.take(32 * count + 32)
        places = places[-places[0] % 32 :] if len(places) else places
        count = min(count, len(places) // 32)
        if not count:
            break
        nodes = places[: 32 * count].reshape(count, 32)
        pivot, slot = offset(f"{kind}.pivot") // 8, offset(f"{kind}.slot") // 8
        below = np.minimum(np.arange(count * slots), len(tops) - 1).reshape(count, slots)
        tops = tops[below]
        room.scene.image.put(nodes[:, pivot : pivot + slots - 1], tops[:, :-1])
        room.scene.image.put(nodes[:, slot : slot + slots], np.resize(entries, (count, slots)))
        entries = room.scene.address(nodes[:, 0]) | np.uint64(bits)
        tops = tops[:, -1]
        leaf = False
    found: np.uint64 = entries[0]
    return found


def _binary(crowd: _Crowd, nodes: NDArray[np.uint64], left: int, right: int) -> None:
    """Link the structs to a binary tree."""
    below = 2 * np.arange(crowd.count)
    for link, first in ((left, 1), (right, 2)):
        there = below + first
        crowd.set(link, np.where(there < crowd.count, nodes[np.minimum(there, crowd.count - 1)], np.uint64(0)))


CROWDS: Final[dict[Callable[[Scene, Random], None], float]] = {
    areas: 0.25,
    tasks: 0.25,
    vmalloc_areas: 0.15,
    cached_files: 0.25,
}
