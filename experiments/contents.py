"""Most copied contents in a trace, identified by hash if one byte or one pixel fills the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.memory.hashing import best_hasher

if TYPE_CHECKING:
    from samepaged.traces.trace import Trace

__all__ = ["RepeatedContent", "filled_pages", "most_repeated_contents"]

# The most frequent colours of GTK's theme, as blue, green, red, alpha in memory.
THEME: Final = {"pixels #f6f5f4": bytes.fromhex("f4f5f6ff")}


@dataclass(frozen=True, slots=True)
class RepeatedContent:
    """A content of a guest, its copies, their part in the guest's self-sharing, and its fill value, if known."""

    domain: str
    copies: int
    self_sharing_ratio: float
    fill: str


def filled_pages(seed: int, page_size: int) -> dict[int, str]:
    """Return fill values by page hash: every byte except 0, and every grey as 32-bit pixels.

    With the seed, the hash of any known page reveals whether a guest holds it.
    """
    patterns = {f"0x{byte:02x}": bytes([byte]) for byte in range(1, 256)}
    patterns |= {
        f"pixels #{grey:02x}{grey:02x}{grey:02x}": bytes([grey, grey, grey, 255]) for grey in range(255)
    } | THEME
    buffer = b"".join(pattern * (page_size // len(pattern)) for pattern in patterns.values())
    hashes = np.zeros(len(patterns), dtype=np.uint64)
    best_hasher().hash_buffer(buffer, hashes, page_size, seed)
    return dict(zip(hashes.tolist(), patterns, strict=True))


def most_repeated_contents(trace: Trace, fills: dict[int, str], max_contents: int) -> list[RepeatedContent]:
    """Return at most `number` of the contents with most copies, the most repeated first."""
    order = np.argsort(-trace.pages, kind="stable")[:max_contents].tolist()
    own = max(1, trace.info.duplicate_pages)
    found = []
    for at in order:
        copies = int(trace.pages[at])
        what = fills.get(int(trace.hashes[at]), "-")
        found.append(RepeatedContent(trace.info.domain, copies, (copies - 1) / own, what))
    return found
