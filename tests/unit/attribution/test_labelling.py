from __future__ import annotations

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import GuestRam, Unreadable
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.page_owners import KINDS, PageOwners, permissions
from tests.unit.attribution.inhabited import DIRECT, MODULE_PAGE, STACK_PAGE, TEXT_PAGE, Inhabited

R, W, X, S = 1, 2, 4, 8
CODE, COPY, HEAP, STACK, PLAIN, ZERO = 0x400000, 0x404000, 0x500000, 0x7FFD000, 0x600000, 0x700000
GUESTS = [pytest.param(True, id="maple trees"), pytest.param(False, id="red-black trees")]


def told(owned: PageOwners, page: int) -> tuple[str, str | None, int]:
    """Return kind, label, and page of the file of a page."""
    label, offset = int(owned.labels[page]), int(owned.offsets[page])
    return (
        KINDS[owned.kinds[page]],
        None if label < 0 else owned.names[label],
        offset // PAGE_SIZE if offset >= 0 else -1,
    )


def modes(owned: PageOwners, page: int) -> set[str]:
    return {permissions(mode) for mode in range(16) if owned.modes[page] >> mode & 1}


def users(owned: PageOwners, page: int) -> list[str]:
    return sorted(owned.processes[number] for number in owned.used_by[owned.used_pages == page])


def anonymous(guest: Inhabited, *pages: int) -> None:
    for page in pages:
        guest.frame(page, mapping=DIRECT | 1)


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest) -> Inhabited:
    return Inhabited(new=request.param)


def test_process_page_kinds(guest: Inhabited) -> None:
    program, mapping = guest.file("usr", "bin", "program")
    guest.frame(400, mapping=mapping, index=2)
    anonymous(guest, 401, 402, 403, 404)
    guest.process(
        "program",
        [
            (CODE, CODE + 4 * PAGE_SIZE, R | X, program, 0),
            (COPY, COPY + 4 * PAGE_SIZE, R | W, program, 4),
            (HEAP, HEAP + 4 * PAGE_SIZE, R | W, 0, 0),
            (PLAIN, PLAIN + 4 * PAGE_SIZE, R, 0, 0),
            (STACK, STACK + 4 * PAGE_SIZE, R | W, 0, 0),
        ],
        {CODE + 2 * PAGE_SIZE: 400, COPY + PAGE_SIZE: 401, HEAP: 402, PLAIN: 403, STACK + 3 * PAGE_SIZE: 404},
        start_brk=HEAP,
        brk=HEAP + 3 * PAGE_SIZE,
        start_stack=STACK + 3 * PAGE_SIZE + 8,
    )
    owned = label_pages(guest.kernel())
    assert owned.note is None
    assert told(owned, 400) == ("executable", "/usr/bin/program", 2)
    assert told(owned, 401) == ("private_file", "/usr/bin/program", 5)
    assert told(owned, 402) == ("heap", "heap", -1)
    assert told(owned, 403) == ("anonymous", "anon", -1)
    assert told(owned, 404) == ("stack", "stack", -1)
    assert [modes(owned, page) for page in (400, 401, 403)] == [{"r-xp"}, {"rw-p"}, {"r--p"}]
    assert [users(owned, page) for page in (400, 404, 405)] == [["program"], ["program"], []]


def test_shared_page_has_all_users(guest: Inhabited) -> None:
    library, mapping = guest.file("lib", "libc.so.6")
    guest.frame(400, mapping=mapping)
    for name, mode in (("apache2", R | X), ("apache2", R), ("sshd", R | W | S)):
        guest.process(name, [(CODE, CODE + PAGE_SIZE, mode, library, 0)], {CODE: 400})
    owned = label_pages(guest.kernel())
    assert told(owned, 400) == ("library", "/lib/libc.so.6", 0)
    assert modes(owned, 400) == {"r-xp", "r--p", "rw-s"}
    assert users(owned, 400) == ["apache2", "sshd"]


def test_zero_page_belongs_to_the_kernel(guest: Inhabited) -> None:
    guest.process("reader", [(ZERO, ZERO + PAGE_SIZE, R | W, 0, 0)], {ZERO: TEXT_PAGE + 11})
    owned = label_pages(guest.kernel())
    assert told(owned, TEXT_PAGE + 11) == ("kernel_data", "zero page", -1)
    assert users(owned, TEXT_PAGE + 11) == []


def test_unmapped_file_pages_are_page_cache(guest: Inhabited) -> None:
    _, mapping = guest.file("var", "log", "syslog")
    _, gone = guest.file("var", "gone", deleted=True)
    guest.frame(400, mapping=mapping, index=7)
    # A folio of two pages: the second one points to the first.
    guest.frame(402, mapping=gone, index=4)
    guest.frame(403, head=0xFFFFEA0000000000 + 402 * 64 + 1, references=0)
    owned = label_pages(guest.kernel())
    assert told(owned, 400) == ("page_cache", "/var/log/syslog", 7)
    assert told(owned, 402) == ("page_cache", "/var/gone (deleted)", 4)
    assert told(owned, 403) == ("page_cache", "/var/gone (deleted)", 5)


def test_tmpfs_files_are_shared_memory(guest: Inhabited) -> None:
    guest.super, guest.root, guest.mount = guest.file_system("tmpfs")
    memfd, mapping = guest.file("memfd:seg", purpose=True)
    guest.frame(400, mapping=mapping, index=1)
    guest.process("postgres", [(CODE, CODE + 2 * PAGE_SIZE, R | W | S, memfd, 0)], {CODE + PAGE_SIZE: 400})
    assert told(label_pages(guest.kernel()), 400) == ("shmem", "/memfd:seg (deleted)", 1)


def test_free_pages_of_buddy_and_cpus(guest: Inhabited) -> None:
    guest.free(512, 5)
    guest.free(1000, 9)
    guest.at_hand(600, 603)
    owned = label_pages(guest.kernel())
    free = set(np.flatnonzero(owned.kinds == KINDS.index("free")).tolist())
    # A block beyond the end of memory is cut there.
    assert free - {1000, *range(1000, 1024)} == {*range(512, 544), 600, 603}


def test_kernel_page_kinds(guest: Inhabited) -> None:
    owned = label_pages(guest.kernel())
    assert told(owned, TEXT_PAGE) == ("kernel_text", "kernel text", -1)
    assert told(owned, TEXT_PAGE + 5) == ("kernel_data", "kernel data", -1)
    assert told(owned, STACK_PAGE) == ("kernel_stack", "kernel stack", -1)
    assert told(owned, MODULE_PAGE) == ("module", "module ext4", -1)
    assert told(owned, 128) == ("slab", "slab dentry", -1)
    assert told(owned, 64) == ("page_array", "struct pages", -1)
    assert told(owned, 1000) == ("page_table", "page tables", -1)
    assert owned.kernel is not None
    assert owned.kernel.endswith("-made")


def test_boot_allocations_are_labelled(guest: Inhabited) -> None:
    second = guest.make("ftrace_page", records=DIRECT + 410 * PAGE_SIZE, order=1)
    first = guest.make("ftrace_page", records=DIRECT + 408 * PAGE_SIZE, order=0, next=second)
    chunk = guest.make("gen_pool_chunk", start_addr=DIRECT + 420 * PAGE_SIZE, end_addr=DIRECT + 422 * PAGE_SIZE - 1)
    pool = guest.make("gen_pool")
    guest.list_head(pool + guest.offsets["gen_pool.chunks"], chunk + guest.offsets["gen_pool_chunk.next_chunk"])
    for name, value in (("ftrace_pages_start", first), ("atomic_pool_dma", pool)):
        guest.symbols[name] = guest.take(8)
        guest.word(guest.symbols[name], value)
    owned = label_pages(guest.kernel())
    assert owned.note is None
    labels = [told(owned, page)[1] for page in (407, 408, 409, 410, 411, 412, 419, 420, 421, 422)]
    other, records, devices = "kernel", "ftrace records", "DMA pool"
    assert labels == [other, records, other, records, records, other, other, devices, devices, other]


def test_page_tables_belong_to_their_process(guest: Inhabited) -> None:
    guest.process("sh", [(PLAIN, PLAIN + PAGE_SIZE, R, 0, 0)], {PLAIN: 400})
    owned = label_pages(guest.kernel())
    tables = [page for page in guest.machine.taken if told(owned, page)[0] == "page_table"]
    assert len(tables) == 4
    assert {tuple(users(owned, page)) for page in tables} == {("sh",)}


def test_process_survives_its_first_task(guest: Inhabited) -> None:
    anonymous(guest, 400)
    mm = guest.process("daemon", [(PLAIN, PLAIN + PAGE_SIZE, R, 0, 0)], {PLAIN: 400})
    leader = guest._tasks[-1]
    other = guest.task("worker", mm)
    guest.set(leader, "task_struct.mm", 0)
    signal = guest.get(leader, "task_struct.signal")
    node = guest.offsets["task_struct.thread_node"]
    guest.list_head(signal + guest.offsets["signal_struct.thread_head"], leader + node, other + node)
    assert users(label_pages(guest.kernel()), 400) == ["daemon"]


@pytest.mark.parametrize("new", [True, False])
def test_kernel_without_btf_is_labelled_partly(new: bool) -> None:  # noqa: FBT001
    guest = Inhabited(new=new, typed=False)
    _, mapping = guest.file("a")
    guest.frame(400, mapping=mapping)
    anonymous(guest, 401)
    guest.free(512, 0)
    owned = label_pages(guest.kernel())
    kinds = [told(owned, page)[0] for page in (400, 401, 512, 128)]
    assert kinds == ["page_cache", "anonymous", "free", "slab"]
    assert owned.note is not None
    assert "BTF" in owned.note


def test_uncopied_pages_are_counted_missing(guest: Inhabited) -> None:
    program, mapping = guest.file("bin", "sh")
    guest.frame(400, mapping=mapping)
    guest.process("sh", [(CODE, CODE + PAGE_SIZE, R | X, program, 0)], {CODE: 400})
    kernel = guest.kernel()
    slots = np.arange(kernel.ram.pages)
    slots[128:192] = -1
    whole = kernel.ram
    object.__setattr__(kernel, "ram", GuestRam(whole.words, whole.layout, slots))
    owned = label_pages(kernel)
    assert owned.missing > 0
    assert told(owned, TEXT_PAGE)[0] == "kernel_text"
    assert told(owned, 400)[0] == "kernel_other"


def test_guest_without_struct_pages_is_unreadable(guest: Inhabited) -> None:
    guest.variable("vmemmap_base", 0xFFFFEB0000000000)
    with pytest.raises(Unreadable):
        label_pages(guest.kernel())


def test_shared_memory_map_has_both_processes(guest: Inhabited) -> None:
    anonymous(guest, 400)
    mm = guest.process("shell", [(PLAIN, PLAIN + PAGE_SIZE, R, 0, 0)], {PLAIN: 400})
    guest._tasks.append(guest.task("started", mm))
    guest._process_end()
    assert users(label_pages(guest.kernel()), 400) == ["shell", "started"]
