"""The kernel's virtual memory: reads through its page tables, for one address or many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.guest_ram import GuestRam
    from samepaged.attribution.linux.paging import PageTableLeaves

__all__ = ["Memory", "VirtualMemory"]

# Limit of one read: more than any kernel table that is read at once.
MAX_READ_BYTES: Final = 32 << 20
# Bytes of a string read at a time, and strings read together.
STRIDE_BYTES: Final = 64
BATCH_STRINGS: Final = 1 << 14


class Memory(Protocol):
    """The kernel's virtual memory."""

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at a virtual address. Raises Unreadable."""


@dataclass(frozen=True, slots=True)
class VirtualMemory:
    """The guest's memory through the kernel's tables (`page_tables`, the upper half)."""

    ram: GuestRam
    page_tables: PageTableLeaves

    def translate(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return guest-physical addresses of virtual ones, -1 if unmapped; any shape."""
        return self.page_tables.translate(addresses.view(np.int64))

    def gather(self, addresses: NDArray[np.uint64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read `size` bytes (a multiple of 8) at each address (a multiple of 8; may span pages): uint64 of shape
        (n, size // 8), and a mask of the readable ones (bool, (n,)); the others are zeros.
        """
        over = (addresses & np.uint64(PAGE_SIZE - 1)) + np.uint64(size) > PAGE_SIZE
        if not over.any():
            return self.ram.gather(self.translate(addresses), size)
        found = np.zeros((len(addresses), size >> 3), dtype=np.uint64)
        ok = np.zeros(len(addresses), dtype=np.bool_)
        found[~over], ok[~over] = self.ram.gather(self.translate(addresses[~over]), size)
        steps = np.arange(0, size, 8, dtype=np.uint64)
        words, each = self.ram.gather(self.translate((addresses[over, None] + steps).reshape(-1)), 8)
        whole: NDArray[np.bool_] = np.all(each.reshape(-1, len(steps)), axis=1)
        found[over] = np.where(whole[:, None], words.reshape(-1, len(steps)), 0)
        ok[over] = whole
        return found, ok

    def words(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read the 8 bytes at each address (a multiple of 8): uint64 (n,), and a mask of the readable ones."""
        found, ok = self.ram.gather(self.translate(addresses), 8)
        return found[:, 0], ok

    def word(self, address: int) -> int | None:
        """Read the 8 bytes at one address (0 to 2**64 - 1, a multiple of 8); None if unreadable."""
        physical = self.page_tables.translate_one(address - (address >> 63 << 64))
        return None if physical < 0 else self.ram.word(physical)

    def words32(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Read the 4 bytes at each address (a multiple of 4): uint32 (n,), and a mask of the readable ones."""
        found, ok = self.words(addresses & ~np.uint64(7))
        ok &= addresses & np.uint64(3) == 0
        high = (found >> ((addresses & np.uint64(4)) << np.uint64(3))).astype(np.uint32)
        return np.where(ok, high, np.uint32(0)), ok

    def strings(self, addresses: NDArray[np.uint64], most: int = 256) -> list[str | None]:
        """Read the zero-terminated UTF-8 string at each address (invalid bytes are replaced), cut at `most` bytes; None
        if unreadable.
        """
        distinct, place = np.unique(addresses, return_inverse=True)
        texts: list[str | None] = []
        for first in range(0, len(distinct), BATCH_STRINGS):
            texts += self._strings(distinct[first : first + BATCH_STRINGS], most)
        return [texts[number] for number in place.tolist()]

    def _strings(self, addresses: NDArray[np.uint64], most: int) -> list[str | None]:
        begun: list[bytes] = [b""] * len(addresses)
        found: list[str | None] = [None] * len(addresses)
        # Reads start at a multiple of the stride, so they do not span pages.
        skip = (addresses & np.uint64(STRIDE_BYTES - 1)).astype(np.int64)
        at = addresses & ~np.uint64(STRIDE_BYTES - 1)
        open_ = np.arange(len(addresses))
        while len(open_):
            rows, ok = self.ram.gather(self.translate(at[open_]), STRIDE_BYTES)
            raw = rows.tobytes()
            going = []
            for number, (owner, readable) in enumerate(zip(open_.tolist(), ok.tolist(), strict=True)):
                if not readable:
                    continue
                text, end, _ = raw[number * STRIDE_BYTES + int(skip[owner]) : (number + 1) * STRIDE_BYTES].partition(
                    b"\0"
                )
                begun[owner] += text
                if end or len(begun[owner]) >= most:
                    found[owner] = begun[owner][:most].decode(errors="replace")
                else:
                    going.append(owner)
            skip[:] = 0
            at += np.uint64(STRIDE_BYTES)
            open_ = np.array(going, dtype=np.int64)
        return found

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes at a virtual address. Raises Unreadable."""
        if not 0 <= size <= MAX_READ_BYTES or not 0 <= address <= (1 << 64) - max(size, 1):
            raise Unreadable(f"cannot read {size} bytes at {address:#x}")
        if not size:
            return b""
        start = address & (PAGE_SIZE - 1)
        count = (start + size + PAGE_SIZE - 1) >> PAGE_SHIFT
        pages = np.uint64(address - start) + np.arange(count, dtype=np.uint64) * np.uint64(PAGE_SIZE)
        slots = self.ram.ensure_copied(self.ram.layout.page_of(self.translate(pages)))
        if np.any(slots < 0):
            raise Unreadable(f"cannot read {size} bytes at {address:#x}")
        return self.ram.words[slots].reshape(count * PAGE_WORDS).tobytes()[start : start + size]

    def u64(self, address: int) -> int:
        """Read the 8 bytes at a virtual address. Raises Unreadable."""
        return int.from_bytes(self.read(address, 8), "little")

    def u32(self, address: int) -> int:
        """Read the 4 bytes at a virtual address. Raises Unreadable."""
        return int.from_bytes(self.read(address, 4), "little")
