from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.linux import kernel_buffers
from samepaged.attribution.linux.block_requests import label_block_requests
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.linux.page_labels import PageLabels
from samepaged.attribution.linux.struct_page import StructPages
from samepaged.attribution.page_owners import KIND
from tests.unit.attribution.inhabited import ARRAY, DIRECT, Inhabited

if TYPE_CHECKING:
    from samepaged.attribution.linux.kernel import Kernel


@pytest.fixture(params=[pytest.param(True, id="new"), pytest.param(False, id="old")])
def guest(request: pytest.FixtureRequest) -> Inhabited:
    return Inhabited(new=request.param)


def buffers(guest: Inhabited) -> dict[str, set[int]]:
    """Return the kernel_buffer pages by label."""
    owned = label_pages(guest.kernel())
    assert owned.note is None
    pages = np.flatnonzero(owned.kinds == KIND["kernel_buffer"])
    found: dict[str, set[int]] = {}
    for page in pages.tolist():
        found.setdefault(owned.names[owned.labels[page]], set()).add(page)
    return found


def compound(guest: Inhabited, first: int, pages: int) -> int:
    """Create a compound page and return its address."""
    guest.frame(first)
    for page in range(first + 1, first + pages):
        guest.frame(page, head=ARRAY + first * 64 + 1)
    return DIRECT + first * PAGE_SIZE


def tags(guest: Inhabited, **blocks: int) -> int:
    """Create tags with requests in these blocks of pages (p400=2 is a block of 2**2 pages)."""
    made = guest.make("blk_mq_tags")
    pages = [int(name[1:]) for name in blocks]
    ring = [made + guest.offsets["blk_mq_tags.page_list"], *(ARRAY + page * 64 + 8 for page in pages)]
    guest.list_head(ring[0])
    for page, order, following in zip(pages, blocks.values(), [*ring[2:], ring[0]], strict=True):
        guest.frame(page, private=order, link=following)
    if pages:
        guest.word(ring[0], ring[1])
    return made


def pointers(guest: Inhabited, *values: int) -> int:
    at = guest.take(8 * len(values))
    for number, value in enumerate(values):
        guest.word(at + 8 * number, value)
    return at


def disk(guest: Inhabited, own: list[int], scheduler: list[int]) -> int:
    """Create a block device with hardware queues that have these tags; return its inode's link."""
    queues = [guest.make("blk_mq_hw_ctx", sched_tags=made) for made in scheduler]
    tag_set = guest.make("blk_mq_tag_set", tags=pointers(guest, *own), nr_hw_queues=len(own))
    queue = guest.make("request_queue", tag_set=tag_set, nr_hw_queues=len(queues))
    if guest.new:
        node = guest.take(128)
        for number, made in enumerate(queues):
            guest.word(node + guest.offsets["xa_node.slots"] + 8 * number, made)
        guest.set(queue, "request_queue.hctx_table.xa_head", node | 2)
    else:
        guest.set(queue, "request_queue.queue_hw_ctx", pointers(guest, *queues))
    device = guest.take(0x600) + guest.offsets["bdev_inode.bdev"]
    guest.set(device, "block_device.bd_disk", guest.make("gendisk", queue=queue))
    return device + guest.offsets["bdev_inode.vfs_inode"] + guest.offsets["inode.i_sb_list"]


def in_class(guest: Inhabited, inode: int, kind: int) -> int:
    """Add the disk of this inode as a device of its class; return its link."""
    device = guest.get(inode_device(guest, inode), "block_device.bd_disk") + guest.offsets["gendisk.part0.__dev"]
    guest.set(device, "device.type", kind)
    made = guest.make("device_private", device=device)
    return made + guest.offsets["device_private.knode_class.n_node"]


def devices(guest: Inhabited, *inodes: int) -> None:
    file_system = guest.make("super_block")
    guest.list_head(file_system + guest.offsets["super_block.s_inodes"], *inodes)
    guest.variable("blockdev_superblock", file_system)


def test_block_requests_of_tags_and_scheduler(guest: Inhabited) -> None:
    first = disk(guest, [tags(guest, p400=2, p408=0), tags(guest, p416=1)], [tags(guest, p420=0)])
    # A disk that is not open, and one that shares its tags.
    second = disk(guest, [tags(guest, p430=0)], [0, 0])
    devices(guest, first, second, guest.take(0x600) + 0x500)
    assert buffers(guest) == {"block requests": {400, 401, 402, 403, 408, 416, 417, 420, 430}}


def test_disks_by_device_class() -> None:
    guest = Inhabited(new=False)
    open_, closed, partition = (disk(guest, [tags(guest, **{f"p{page}": 0})], []) for page in (400, 402, 404))
    devices(guest, open_)
    kinds = {open_: guest.symbols["disk_type"], closed: guest.symbols["disk_type"], partition: DIRECT}
    subsystem = guest.make("subsys_private")
    links = [in_class(guest, inode, kind) for inode, kind in kinds.items()]
    guest.list_head(subsystem + guest.offsets["subsys_private.klist_devices.k_list"], *links)
    guest.variable("block_class", subsystem)
    assert buffers(guest) == {"block requests": {400, 402}}
    guest.word(links[1], links[1])
    assert buffers(guest) == {"block requests": {400, 402}}


def test_oversized_requests_are_one_page(guest: Inhabited) -> None:
    devices(guest, disk(guest, [tags(guest, p400=11)], []))
    assert buffers(guest) == {"block requests": {400}}


def test_table_length_by_variable_or_compound(guest: Inhabited) -> None:
    for page in range(400, 440):
        guest.frame(page)
    guest.variable("ip_idents", DIRECT + 400 * PAGE_SIZE)
    guest.variable("ip_tstamps", DIRECT + 402 * PAGE_SIZE)
    guest.variable("ip_idents_mask", 2 * PAGE_SIZE // 4 - 1)
    hashes = guest.symbols["tcp_hashinfo"]
    guest.set(hashes, "inet_hashinfo.ehash", DIRECT + 410 * PAGE_SIZE)
    guest.set(hashes, "inet_hashinfo.ehash_mask", 3 * PAGE_SIZE // 8 - 1)
    guest.set(hashes, "inet_hashinfo.bhash", DIRECT + 414 * PAGE_SIZE)
    guest.set(hashes, "inet_hashinfo.bhash_size", PAGE_SIZE // 16)
    guest.variable("tcp_metrics_hash", compound(guest, 420, 4))
    guest.variable("table_perturb", DIRECT + 426 * PAGE_SIZE)
    assert buffers(guest) == {
        "IP identifiers": {400, 401, 402, 403},
        "TCP hash table": {410, 411, 412, 414},
        "TCP metrics": {420, 421, 422, 423},
    }


def test_tracer_names_are_one_block(guest: Inhabited) -> None:
    for page in range(400, 410):
        guest.frame(page)
    guest.variable("savedcmd", DIRECT + 400 * PAGE_SIZE)
    guest.machine.word(400 * PAGE_SIZE + guest.offsets["saved_cmdlines_buffer.cmdline_num"], 2 * PAGE_SIZE // 16)
    assert buffers(guest) == {"names of traced tasks": {400, 401, 402, 403}}


def test_btf_of_kernel_and_modules_is_labelled(guest: Inhabited) -> None:
    guest.variable("btf_vmlinux", guest.make("btf", types=compound(guest, 400, 8), data=DIRECT + 450 * PAGE_SIZE + 64))
    module = guest.make("btf", data=compound(guest, 410, 4), resolved_ids=compound(guest, 416, 2))
    guest.word(guest.symbols["btf_idr"] + guest.offsets["idr.idr_rt.xa_head"], module)
    guest.frame(450)
    assert buffers(guest) == {"BTF": {*range(400, 408), *range(410, 414), 416, 417}}


def parts(guest: Inhabited) -> tuple[Kernel, StructPages, PageLabels]:
    kernel = guest.kernel()
    return kernel, StructPages.read(kernel), PageLabels(kernel.ram.pages)


@pytest.mark.parametrize("where", ["devices", "blocks", "queues", "counts", "types"])
def test_circular_lists_terminate(where: str, guest: Inhabited) -> None:
    made = tags(guest, p400=0, p401=0)
    inode = disk(guest, [made], [made])
    devices(guest, inode)
    queue = guest.get(guest.get(inode_device(guest, inode), "block_device.bd_disk"), "gendisk.queue")
    if where == "devices":
        guest.word(inode, inode)
    elif where == "blocks":
        guest.frame(401, link=ARRAY + 401 * 64 + 8)
    elif where == "queues" and guest.new:
        node = guest.get(queue, "request_queue.hctx_table.xa_head")
        for number in range(8):
            guest.word((node & ~3) + guest.offsets["xa_node.slots"] + 8 * number, node)
    elif where == "types":
        node = guest.take(128)
        guest.word(node + guest.offsets["xa_node.slots"], node | 2)
        guest.word(guest.symbols["btf_idr"] + guest.offsets["idr.idr_rt.xa_head"], node | 2)
    else:
        guest.set(queue, "request_queue.nr_hw_queues", (1 << 32) - 1)
        guest.set(guest.get(queue, "request_queue.tag_set"), "blk_mq_tag_set.nr_hw_queues", (1 << 32) - 1)
    kernel, frames, ledger = parts(guest)
    label_block_requests(kernel, frames, ledger)
    kernel_buffers.label_btf(kernel, frames, ledger)
    assert {400, 401} <= set(np.flatnonzero(ledger.kinds == KIND["kernel_buffer"]).tolist())


def inode_device(guest: Inhabited, inode: int) -> int:
    return inode - guest.offsets["inode.i_sb_list"] - guest.offsets["bdev_inode.vfs_inode"]


def test_oversized_table_is_not_labelled(guest: Inhabited) -> None:
    guest.frame(400)
    guest.variable("ip_idents", DIRECT + 400 * PAGE_SIZE)
    guest.variable("ip_idents_mask", (1 << 32) - 1)
    kernel, frames, ledger = parts(guest)
    kernel_buffers.label_tables(kernel, frames, ledger)
    assert not np.any(ledger.kinds)
