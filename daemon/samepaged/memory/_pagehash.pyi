# ruff: noqa: PYI021  this stub is the only documentation of the native module
"""The native implementation for hashing.py. Both functions release the GIL and cannot be interrupted: the caller bounds
the number of pages.

`addresses` and `out` are contiguous, aligned uint64 arrays of one dimension. TypeError and ValueError name the wrong
argument, and are raised before the first read.
"""

import numpy as np
from _typeshed import ReadableBuffer, WriteableBuffer
from numpy.typing import NDArray

def hash_buffer(buffer: ReadableBuffer, out: NDArray[np.uint64], page_size: int, seed: int, /) -> None:
    """Hash the first len(out) pages of `buffer`, of `page_size` bytes each: a power of two, at least 512."""

def hash_process(
    pid: int,
    addresses: NDArray[np.uint64],
    out: NDArray[np.uint64],
    scratch: WriteableBuffer,
    page_size: int,
    seed: int,
    /,
) -> None:
    """Read the 4 KiB pages at `addresses` of process `pid` and hash them in parts of `page_size` bytes, a power of two
    from 512 to 4096, so that len(out) == len(addresses) * 4096 // page_size.

    `scratch` is writable, at least a page, and contains guest memory afterwards. Raises OSError with the errno of
    process_vm_readv (EFAULT if an address is not mapped) and the address of the first page that was not read.
    """
