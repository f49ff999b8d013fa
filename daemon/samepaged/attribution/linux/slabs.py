"""Slab pages, by slab cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.struct_page import StructPages

__all__ = ["label_slabs"]

# A kernel has a few hundred caches; the slabs of further ones get no cache name.
MAX_CACHES: Final = 4096
MAX_NAME_BYTES: Final = 64


def label_slabs(kernel: Kernel, frames: StructPages, ledger: PageLabels) -> None:
    """Label all slab pages, as "slab dentry" if the cache's name is readable. Raises Unreadable after the pages are
    labelled, if the names cannot be read.
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
