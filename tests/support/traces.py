"""Hand-made traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.sharing import PageDigest
from samepaged.traces import Trace, seed_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["WHEN", "trace"]

WHEN: Final = 1_700_000_000.25


def trace(
    pages: PageDigest | Sequence[int] | NDArray[np.uint64],
    *,
    host: str = "kvm-1",
    domain: str = "web-1",
    at: float = WHEN,
    seed: int | str = 7,
    mode: str = "snapshot",
    **details: Any,
) -> Trace:
    """Return a trace of a guest that has pages of 4096 bytes with these hashes. `seed` is a seed or its id; `details`
    are further arguments of `Trace.of`.
    """
    digest = pages if isinstance(pages, PageDigest) else PageDigest(np.array(pages, dtype=np.uint64), 4096)
    name = seed if isinstance(seed, str) else seed_id(seed)
    return Trace.of(digest, host=host, domain=domain, scanned_at=at, seed=name, mode=mode, **details)
