"""Page hashes: the native and the Python implementation, compared with xxHash."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import subprocess
import threading
import time
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.memory import hashing
from samepaged.memory.hashing import Interrupted, NativeHasher, PythonHasher, avoid_reserved, best_hasher
from samepaged.sharing.digest import FIRST_HASH, ZERO

try:
    from samepaged.memory import _pagehash
except ImportError:
    _pagehash = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher

    Words = NDArray[np.uint64]

MAX_SEED = 2**64 - 1
NATIVE = _pagehash is not None
native = pytest.mark.skipif(not NATIVE, reason="the native module is not built here")
HASHERS = [PythonHasher, pytest.param(NativeHasher, marks=native)]

# Pages of 512 bytes with an XXH3-64 of 0, 1 and 2 at seed 0, found by inverting the algorithm.
RESERVED = {
    0: ("f16fcc82", "09419485"),
    1: ("c5da268b", "f76ca097"),
    2: ("294a0154", "b598ebba"),
}


def page_of_reserved_hash(value: int) -> bytes:
    first, second = RESERVED[value]
    start = (
        f"b8fe6c39{first}7c01812c6462257800000000000000007240a4a4405f9d670000000000000000825ad07d01fc0c54"
        f"0000000000000000e03590e69e95ea50{second}f721ad1cf06ddcdd839097db00000000000000007849d51bccc0e578"
        "0000000000000000c61949ebf743248e000000000000000093f19c6a91c300cb"
    )
    return bytes.fromhex(start).ljust(512, b"\0")


@pytest.fixture(params=HASHERS)
def hasher(request: pytest.FixtureRequest) -> Hasher:
    made: Hasher = request.param()
    return made


def hashes(hasher: Hasher, buffer: bytes | bytearray | memoryview, page_size: int, seed: int) -> list[int]:
    out = np.zeros(len(buffer) // page_size, dtype=np.uint64)
    hasher.hash_buffer(buffer, out, page_size, seed)
    return [int(one) for one in out]


def expected(content: bytes, page_size: int, seed: int) -> list[int]:
    pages = [content[start : start + page_size] for start in range(0, len(content), page_size)]
    return [avoid_reserved(xxhash.xxh3_64_intdigest(page, seed)) if any(page) else ZERO for page in pages]


class Memory:
    """Anonymous memory of this process; every page has a different content, except the zero pages `zeros`."""

    def __init__(self, pages: int, zeros: tuple[int, ...] = ()) -> None:
        self.area = mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        words = np.frombuffer(self.area, dtype=np.uint64)
        words[:] = np.random.default_rng(pages).integers(0, 2**64, size=len(words), dtype=np.uint64)
        for zero in zeros:
            words[zero * 512 : (zero + 1) * 512] = 0
        self.start: int = words.ctypes.data
        self.pages = pages

    def addresses(self) -> Words:
        return np.arange(self.start, self.start + self.pages * PAGE_SIZE, PAGE_SIZE, dtype=np.uint64)

    def page(self, address: int) -> bytes:
        return self.area[address - self.start : address - self.start + PAGE_SIZE]

    def forbid(self, page: int) -> int:
        """Make a page unreadable; return its address."""
        address = self.start + page * PAGE_SIZE
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_SIZE), 0) == 0
        return address


def read(
    hasher: Hasher,
    addresses: Words,
    page_size: int = PAGE_SIZE,
    seed: int = 1,
    *,
    pid: int | None = None,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    out = np.zeros(len(addresses) * PAGE_SIZE // page_size, dtype=np.uint64)
    hasher.read_process(pid or os.getpid(), addresses, out, page_size, seed, threads=threads, stop=stop)
    return [int(one) for one in out]


# Hashes


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 2 << 20])
@pytest.mark.parametrize("seed", [0, 1, MAX_SEED])
def test_page_hash_is_xxh3(hasher: Hasher, page_size: int, seed: int) -> None:
    content = np.random.default_rng(seed).bytes(3 * page_size)
    values = [xxhash.xxh3_64_intdigest(content[i * page_size : (i + 1) * page_size], seed) for i in range(3)]
    assert hashes(hasher, content, page_size, seed) == values


@pytest.mark.parametrize("page_size", [512, 4096])
def test_zero_page_ignores_the_seed(hasher: Hasher, page_size: int) -> None:
    assert hashes(hasher, bytes(2 * page_size), page_size, 0) == [ZERO, ZERO]
    assert hashes(hasher, bytes(2 * page_size), page_size, MAX_SEED) == [ZERO, ZERO]


@pytest.mark.parametrize("page_size", [512, 4096])
def test_single_bit_is_not_zero(hasher: Hasher, page_size: int) -> None:
    for at in {0, 1, 7, 8, 9, 63, 64, 65, page_size // 2, page_size - 8, page_size - 1}:
        content = bytearray(2 * page_size)
        content[at] = 0x80
        value = xxhash.xxh3_64_intdigest(content[:page_size], 5)
        assert hashes(hasher, content, page_size, 5) == [value, ZERO], at


@pytest.mark.parametrize("value", sorted(RESERVED))
def test_reserved_hash_is_replaced(hasher: Hasher, value: int) -> None:
    content = page_of_reserved_hash(value)
    assert xxhash.xxh3_64_intdigest(content, 0) == value
    assert hashes(hasher, content, 512, 0) == [value + FIRST_HASH]


def test_unreserved_hash_is_unchanged() -> None:
    assert [avoid_reserved(value) for value in (0, 1, 2, 3, MAX_SEED)] == [3, 4, 5, 3, MAX_SEED]


@given(
    data=st.data(),
    page_size=st.sampled_from([512, 1024, 2048, 4096, 8192]),
    seed=st.integers(0, MAX_SEED),
    offset=st.integers(0, 70),
)
@pytest.mark.parametrize("make", HASHERS)
def test_any_buffer_hashes_per_page(
    make: type[Hasher], data: st.DataObject, page_size: int, seed: int, offset: int
) -> None:
    kinds = data.draw(st.lists(st.one_of(st.just(b"\0"), st.binary(min_size=1, max_size=page_size)), max_size=9))
    content = b"".join(kind.rjust(page_size, b"\0") for kind in kinds)
    unaligned = memoryview(bytes(offset) + content)[offset:]
    assert hashes(make(), unaligned, page_size, seed) == expected(content, page_size, seed)


def test_output_size_bounds_hashing(hasher: Hasher) -> None:
    content = np.random.default_rng(1).bytes(4 * 4096 + 17)
    out = np.zeros(5, dtype=np.uint64)
    hasher.hash_buffer(content, out[1:3], 4096, 9)
    assert [int(one) for one in out] == [0, *expected(content[:8192], 4096, 9), 0, 0]


def test_no_pages_are_no_hashes(hasher: Hasher) -> None:
    assert hashes(hasher, b"", 4096, 0) == []
    assert read(hasher, np.empty(0, dtype=np.uint64)) == []


@native
def test_the_native_module_is_preferred() -> None:
    assert best_hasher().name == "native"


def test_python_fallback_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_pagehash", None)
    assert best_hasher().name == "python"
    with pytest.raises(ImportError, match="libxxhash-dev"):
        NativeHasher()


# Memory of another process; this process stands for it


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_is_hashed_per_page(hasher: Hasher, page_size: int, threads: int) -> None:
    memory = Memory(1031, zeros=(0, 7, 8, 1030))
    got = read(hasher, memory.addresses(), page_size, seed=MAX_SEED, threads=threads)
    assert got == expected(memory.area[:], page_size, MAX_SEED)


def test_pages_are_hashed_in_given_order(hasher: Hasher) -> None:
    memory = Memory(3100, zeros=(17,))
    addresses = np.random.default_rng(2).permutation(memory.addresses())[:2500]
    assert read(hasher, addresses) == [expected(memory.page(int(one)), 4096, 1)[0] for one in addresses]


def test_many_ranges_need_several_calls(hasher: Hasher) -> None:
    memory = Memory(2 * os.sysconf("SC_IOV_MAX") + 200)
    addresses = memory.addresses()[::2].copy()
    assert len(addresses) > os.sysconf("SC_IOV_MAX")
    assert read(hasher, addresses) == [expected(memory.page(int(one)), 4096, 1)[0] for one in addresses]


def test_repeated_page_is_read_twice(hasher: Hasher) -> None:
    memory = Memory(2)
    first, second = expected(memory.area[:], 4096, 1)
    assert read(hasher, memory.addresses()[[1, 1, 0, 1, 0, 0]]) == [second, second, first, second, first, first]


@native
def test_implementations_agree_beyond_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "STEP_PAGES", 700)
    monkeypatch.setattr(hashing, "MIN_STEP_PAGES", 3)
    memory = Memory(9001, zeros=(256, 700, 4096))
    one, many = (read(NativeHasher(), memory.addresses(), threads=threads) for threads in (1, 4))
    assert one == many == read(PythonHasher(), memory.addresses(), threads=2)


@native
@given(
    picked=st.lists(st.integers(0, 299), max_size=400),
    page_size=st.sampled_from([512, 1024, 2048, 4096]),
    seed=st.integers(0, MAX_SEED),
    threads=st.integers(1, 3),
)
def test_implementations_agree_on_any_pages(picked: list[int], page_size: int, seed: int, threads: int) -> None:
    addresses = MEMORY.addresses()[np.array(picked, dtype=np.intp)]
    got = read(NativeHasher(), addresses, page_size, seed, threads=threads)
    assert got == read(PythonHasher(), addresses, page_size, seed)


MEMORY = Memory(300, zeros=(3, 4, 5, 299))


# Unreadable memory


def test_ended_process_is_esrch(hasher: Hasher) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} at 0x1000: No such process") as caught:
        read(hasher, np.array([0x1000], dtype=np.uint64), pid=process.pid)
    assert caught.value.errno == errno.ESRCH


@pytest.mark.parametrize("bad", [0, 1, 255, 256, 257, 599])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_unreadable_page_is_named(hasher: Hasher, bad: int, step: int) -> None:
    memory = Memory(600)
    address = memory.forbid(bad)
    start = bad % step if step > 0 else None
    addresses = memory.addresses()[start::step].copy()
    with pytest.raises(OSError, match=f"process {os.getpid()} at {address:#x}: Bad address") as caught:
        read(hasher, addresses)
    assert caught.value.errno == errno.EFAULT


def test_last_address_is_unreadable(hasher: Hasher) -> None:
    with pytest.raises(OSError, match="at 0xffffffffffffe000: Bad address"):
        read(hasher, np.array([2**64 - 8192], dtype=np.uint64))


def test_thread_error_ends_all_threads(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "MIN_STEP_PAGES", 1)
    monkeypatch.setattr(hashing, "STEP_PAGES", 1)
    memory = Memory(2000)
    memory.forbid(0)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        time.sleep(0.001)
        return False

    with pytest.raises(OSError, match="Bad address"):
        read(hasher, memory.addresses(), threads=2, stop=stop)
    assert asked < 2000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hashing")]


# Stopping


@pytest.mark.parametrize("threads", [1, 2])
def test_read_stops_on_request(hasher: Hasher, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "STEP_PAGES", 10)
    monkeypatch.setattr(hashing, "MIN_STEP_PAGES", 10)
    memory = Memory(200)
    out = np.zeros(200, dtype=np.uint64)
    asked = count()
    with pytest.raises(Interrupted):
        hasher.read_process(
            os.getpid(), memory.addresses(), out, 4096, 1, threads=threads, stop=lambda: next(asked) >= 3
        )
    assert np.count_nonzero(out) == 30


def test_immediate_stop_reads_nothing(hasher: Hasher) -> None:
    out = np.zeros(5, dtype=np.uint64)
    with pytest.raises(Interrupted):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:5], out, 4096, 1, stop=lambda: True)
    assert not out.any()


def test_signal_handler_exception_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(PythonHasher(), MEMORY.addresses())


def test_buffers_stay_out_of_core_dumps(hasher: Hasher) -> None:
    def undumped() -> int:
        with open("/proc/self/smaps", encoding="ascii", errors="replace") as smaps:  # noqa: PTH123  as text, by line
            return sum(line.startswith("VmFlags:") and " dd " in line for line in smaps)

    memory = Memory(1)
    gc.collect()  # frees the buffers of other tests
    before, during = undumped(), 0

    def stop() -> bool:
        nonlocal during
        during = undumped()
        return False

    read(hasher, memory.addresses(), stop=stop)
    assert (during, undumped()) == (before + 1, before)


# Invalid arguments


@pytest.mark.parametrize("page_size", [-4096, 0, 1, 256, 511, 513, 4095, 4096 + 512, 6144])
def test_page_size_must_be_power_of_two(hasher: Hasher, page_size: int) -> None:
    with pytest.raises(ValueError, match="a page size must be a power of two"):
        hasher.hash_buffer(bytes(8192), np.empty(1, dtype=np.uint64), page_size, 0)
    with pytest.raises(ValueError, match="a page size must be a power of two"):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:1], np.empty(1, dtype=np.uint64), page_size, 0)


def test_page_size_is_limited_by_scratch(hasher: Hasher) -> None:
    with pytest.raises(ValueError, match="a page size must be a power of two"):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:2], np.empty(1, dtype=np.uint64), 8192, 0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(hasher: Hasher, seed: int) -> None:
    with pytest.raises(ValueError, match="a seed must be"):
        hasher.hash_buffer(bytes(4096), np.empty(1, dtype=np.uint64), 4096, seed)
    with pytest.raises(ValueError, match="a seed must be"):
        read(hasher, MEMORY.addresses(), seed=seed)


@pytest.mark.parametrize("length", [0, 4095, 8191])
def test_short_buffer_is_refused(hasher: Hasher, length: int) -> None:
    with pytest.raises(ValueError, match=f"a buffer of {length} bytes"):
        hasher.hash_buffer(bytes(length), np.empty(length // 4096 + 1, dtype=np.uint64), 4096, 0)


@pytest.mark.parametrize("room", [0, 9, 11, 20])
def test_hashes_must_fit_exactly(hasher: Hasher, room: int) -> None:
    with pytest.raises(ValueError, match="out has room for"):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:10], np.empty(room, dtype=np.uint64), 4096, 0)
    with pytest.raises(ValueError, match="out has room for"):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:10], np.empty(room * 2, dtype=np.uint64), 2048, 0)


@pytest.mark.parametrize("address", [1, 4095, 4097, 2**64 - 4096, 2**64 - 1])
def test_addresses_must_be_page_aligned(hasher: Hasher, address: int) -> None:
    with pytest.raises(ValueError, match="is not the address of a page"):
        read(hasher, np.array([MEMORY.start, address], dtype=np.uint64))


@pytest.mark.parametrize("pid", [-1, 0])
def test_a_process_has_a_positive_id(hasher: Hasher, pid: int) -> None:
    with pytest.raises(ValueError, match="is not the id of a process"):
        hasher.read_process(pid, MEMORY.addresses()[:1], np.empty(1, dtype=np.uint64), 4096, 0)


def unfit() -> list[NDArray[np.generic]]:
    """Arrays that must not be accepted as uint64 of shape (2,)."""
    readonly = np.empty(2, dtype=np.uint64)
    readonly.flags.writeable = False
    return [
        np.empty(2, dtype=np.int64),
        np.empty(2, dtype=np.float64),
        np.empty(4, dtype=np.uint32),
        np.empty(2, dtype=">u8"),
        np.empty((2, 1), dtype=np.uint64),
        np.empty(4, dtype=np.uint64)[::2],
        np.empty(2, dtype=np.uint64)[::-1],
        np.empty(17, dtype=np.uint8)[1:].view(np.uint64),
        readonly,
    ]


@pytest.mark.parametrize("index", range(len(unfit())))
def test_output_must_be_uint64(hasher: Hasher, index: int) -> None:
    out: Words = unfit()[index]  # type: ignore[assignment]  # the test passes a wrong type
    with pytest.raises((TypeError, ValueError)):
        hasher.hash_buffer(bytes(8192), out, 4096, 0)
    with pytest.raises((TypeError, ValueError)):
        hasher.read_process(os.getpid(), MEMORY.addresses()[:2], out, 4096, 0)


@pytest.mark.parametrize("index", range(len(unfit()) - 1))
def test_addresses_must_be_uint64(hasher: Hasher, index: int) -> None:
    addresses: Words = unfit()[index]  # type: ignore[assignment]  # the test passes a wrong type
    with pytest.raises((TypeError, ValueError)):
        hasher.read_process(os.getpid(), addresses, np.empty(2, dtype=np.uint64), 4096, 0)


# The native module checks its arguments itself, for any caller


@native
@pytest.mark.parametrize(
    ("pid", "out", "scratch", "page_size", "seed"),
    [
        (0, 2, bytearray(4096), 4096, 0),
        (None, 1, bytearray(4096), 4096, 0),
        (None, 3, bytearray(4096), 4096, 0),
        (None, 5, bytearray(4096), 2048, 0),
        (None, 2, bytearray(4095), 4096, 0),
        (None, 2, bytearray(), 4096, 0),
        (None, 2, bytearray(4096), 8192, 0),
        (None, 2, bytearray(4096), 0, 0),
        (None, 2, bytearray(4096), -(2**63), 0),
        (None, 2, bytearray(4096), 4096, -1),
    ],
)
def test_native_module_validates_arguments(
    pid: int | None, out: int, scratch: bytearray, page_size: int, seed: int
) -> None:
    hashed = np.zeros(out, dtype=np.uint64)
    with pytest.raises(ValueError, match=" "):
        _pagehash.hash_process(
            os.getpid() if pid is None else pid, MEMORY.addresses()[:2], hashed, scratch, page_size, seed
        )
    assert not hashed.any()


@native
@pytest.mark.parametrize("size", [4096, 4097, 8192, 3 * 4096, 1 << 20, (1 << 20) + 4096, 3 << 20])
def test_any_scratch_size_works(size: int) -> None:
    addresses = MEMORY.addresses()
    out = np.zeros(len(addresses), dtype=np.uint64)
    _pagehash.hash_process(os.getpid(), addresses, out, bytearray(size), 4096, 1)
    assert [int(one) for one in out] == expected(MEMORY.area[:], 4096, 1)


@native
def test_readonly_scratch_is_refused() -> None:
    scratch: bytearray = bytes(4096)  # type: ignore[assignment]  # the test passes a wrong type
    with pytest.raises((TypeError, ValueError)):
        _pagehash.hash_process(os.getpid(), MEMORY.addresses()[:1], np.empty(1, dtype=np.uint64), scratch, 4096, 1)


@native
def test_hashing_releases_the_gil() -> None:
    content = bytes(range(1, 256)) * (1 << 18)
    out = np.zeros(len(content) // 4096, dtype=np.uint64)
    seen, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if out[0] and not out[-1]:
                seen.set()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        # On a busy machine the other thread may not run during the first call.
        for _ in range(100):
            out[:] = 0
            NativeHasher().hash_buffer(content, out, 4096, 1)
            if seen.is_set():
                break
    finally:
        over.set()
        watching.join()
    assert seen.is_set()
