"""Slab pages, by the cache that they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["label_slabs"]

# A kernel has a few hundred caches; a guest that makes up more has the rest without names.
MAX_CACHES: Final = 4096
MAX_NAME_BYTES: Final = 64


def label_slabs(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """All slab pages, with "slab dentry" where the cache's name is to be had. Raises Unreadable when all that is left
    is to name them.
    """
    pages = np.flatnonzero(frames.slab)
    ledger.set_kind(pages, "slab", "slab")
    if not kernel.profile.has_types:
        return
    name = kernel.profile.offset("kmem_cache.name")
    caches, inverse = np.unique(frames.cache[frames.head[pages]], return_inverse=True)
    asked = np.flatnonzero(is_kernel(caches))[:MAX_CACHES]
    (pointers,), ok = read_members(kernel, caches[asked], (name,))
    labels = np.full(len(caches), ledger.label("slab"), dtype=np.int32)
    texts = kernel.strings(pointers[ok], MAX_NAME_BYTES)
    labels[asked[ok]] = ledger.labels_of([f"slab {text}" if text else "slab" for text in texts])
    ledger.labels[pages] = labels[inverse]
