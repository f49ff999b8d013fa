"""Time and memory of the sharing analysis of a large host: from its guests' digests to the report of all pairs.

Each measurement is a process of its own, because a process's peak of memory never falls. The guests are synthetic:
15% zero pages, 10% duplicates, 10% in every guest, 30% in the guests of one of four images, the rest their own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.sharing import ZERO, Member, PageDigest, analyse, count_all
from samepaged.sharing.digest import FIRST_HASH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench.row import Row

__all__ = ["rows"]

IMAGES: Final = 4
THREADS: Final = 2
ROUNDS: Final = 3


class Cost(TypedDict):
    """Cost of one analysis: `page_bytes` is the peak, the digests' own 8 bytes included, for each page."""

    seconds: float
    page_bytes: float


def fill(pages: NDArray[np.uint64], seed: int) -> None:
    """Random hashes, the same for the same seed, without an array beside `pages` that would count in the peak."""
    random = np.random.default_rng(seed)
    for start in range(0, len(pages), 1 << 18):
        block = pages[start : start + (1 << 18)]
        block[:] = random.integers(FIRST_HASH, 2**64, len(block), dtype=np.uint64)


def guest_digest(guest: int, pages: int) -> PageDigest:
    """The digest of one guest: `pages` is a multiple of 20."""
    twentieth = pages // 20
    digest = np.empty(pages, dtype=np.uint64)
    zero, copies, everywhere, image, own = np.split(digest, np.cumsum([3, 2, 2, 6]) * twentieth)
    zero[:] = ZERO
    fill(everywhere, 0)
    fill(image, 1 + guest % IMAGES)
    fill(own, 1 + IMAGES + guest)
    copies[:] = own[: len(copies)]
    return PageDigest(digest, PAGE_SIZE)


def status(key: str) -> int:
    """A size in bytes from /proc/self/status. VmHWM, and not getrusage: that one's peak includes the parent's size."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure(guests: int, guest_pages: int, *, in_place: bool) -> Cost:
    """Analyse `guests` of `guest_pages` each, in this process."""
    memory = status("VmRSS")
    digests = [guest_digest(guest, guest_pages) for guest in range(guests)]
    start = time.perf_counter()
    contents = count_all(digests, threads=THREADS, in_place=in_place)
    members = [Member(f"guest{number}", f"group{number % 3}", content) for number, content in enumerate(contents)]
    report = analyse(members, PAGE_SIZE, threads=THREADS)
    seconds = time.perf_counter() - start
    memory = status("VmHWM") - memory
    twentieth = guest_pages // 20
    assert report.inter_sharing_pages == twentieth * (2 * (guests - 1) + 6 * (guests - IMAGES))
    assert report.self_sharing_pages == twentieth * 2 * guests
    assert len(report.pairs) == guests * (guests - 1) // 2
    return {"seconds": seconds, "page_bytes": memory / (guests * guest_pages)}


def cost(guests: int, million_pages: int, *, in_place: bool = True, rounds: int = ROUNDS) -> Cost:
    """`measure` in processes of its own: the median time, the largest peak."""
    guest_pages = million_pages * 1_000_000 // guests
    command = [sys.executable, __file__, str(guests), str(guest_pages), str(int(in_place))]
    found: list[Cost] = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    return {
        "seconds": statistics.median(one["seconds"] for one in found),
        "page_bytes": max(one["page_bytes"] for one in found),
    }


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    large = cost(32, 64)
    name = "analysis of 64 M pages of 32 guests, all pairs, 2 threads"
    yield {"name": name, "value": round(large["seconds"], 2), "unit": "s", "at_most": 10}
    name = "peak memory of that, digests included"
    yield {"name": name, "value": round(large["page_bytes"], 2), "unit": "bytes a page", "at_most": 16}
    kept = cost(32, 64, in_place=False, rounds=1)
    name = "peak memory of that when the digests are kept"
    yield {"name": name, "value": round(kept["page_bytes"], 2), "unit": "bytes a page", "at_most": 16}
    small = cost(32, 4)
    name = "time a page, 64 M pages ÷ 4 M pages"
    yield {"name": name, "value": round(large["seconds"] / small["seconds"] / 16, 2), "unit": "ratio", "at_most": 1.5}
    many = cost(200, 64, rounds=1)
    name = "analysis of 64 M pages of 200 guests, all pairs, 2 threads"
    yield {"name": name, "value": round(many["seconds"], 2), "unit": "s", "at_most": 10}


if __name__ == "__main__":  # a measurement is a process of its own
    guests, guest_pages, in_place = map(int, sys.argv[1:])
    print(json.dumps(measure(guests, guest_pages, in_place=bool(in_place))))
