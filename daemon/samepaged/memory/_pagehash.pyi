# ruff: noqa: PYI021  this stub is all the documentation that the native module has
"""The native half of hashing.py. Both functions release the GIL and cannot be interrupted: bound what you ask for.

`addresses` and `out` are contiguous, aligned uint64 arrays of one dimension. TypeError and ValueError name the argument
that is wrong; nothing has been read by then.
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

    `scratch` is writable, at least a page, and ends up with guest memory in it. Raises OSError with the errno of
    process_vm_readv (EFAULT where no memory can be read) and the address of the first page that was not read.
    """
