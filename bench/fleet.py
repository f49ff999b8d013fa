"""Time of a fleet query: all pairs of sharing hosts among 1,000 hosts with 32 guests each.

The traces are as `samepaged traces export --sample 256 --newest` leaves them: a file a host. The guests are synthetic,
of 4 GiB: each has nine tenths of one of 20 images, 95% of two applications, each of which some 50 guests of the fleet
have, and contents of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bench.synthetic import FIRST_SCAN, trace_info
from samepaged.arch import PAGE_SIZE
from samepaged.traces import Trace
from samepaged.traces.parquet import write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench.row import Row

__all__ = ["rows"]

SAMPLE: Final = 256
GUESTS: Final = 32
IMAGES: Final = 20
GUEST_BYTES: Final = 4 << 30


class Kind(IntEnum):
    """A kind of contents of a guest; the number is part of the seed."""

    IMAGE = 0
    APPLICATION = 1
    OWN = 2

    @property
    def count(self) -> int:
        """Contents of one image, application or guest in the sample."""
        return (2400, 500, 950)[self]


def contents(kind: Kind, number: int) -> NDArray[np.uint64]:
    """Hashes of the sample (as signed integers, the lowest), always the same for the same thing."""
    lowest = 1 << 63
    return np.random.default_rng([kind, number]).integers(
        lowest, lowest + (1 << 64) // SAMPLE, kind.count, dtype=np.uint64
    )


def guest(number: int, host: str, applications: int) -> Trace:
    random = np.random.default_rng([3, number])
    parts = [contents(Kind.IMAGE, int(random.integers(IMAGES)))]
    parts[0] = parts[0][random.random(Kind.IMAGE.count) < 0.9]
    for application in random.choice(applications, 2, replace=False):
        own = contents(Kind.APPLICATION, int(application))
        parts.append(own[random.random(Kind.APPLICATION.count) < 0.95])
    hashes = np.unique(np.concatenate([*parts, contents(Kind.OWN, number)]))
    pages = (1 + (random.random(len(hashes)) < 0.05)).astype(np.int32)
    about = trace_info(
        host=host,
        domain=f"guest-{number}",
        uuid=f"00000000-0000-4000-8000-{number:012}",
        scanned_at=FIRST_SCAN + number,
        zero_pages=0,
        hashed_pages=GUEST_BYTES // PAGE_SIZE,
        distinct_pages=len(hashes) * SAMPLE,
    )
    return Trace(about, hashes, pages, SAMPLE)


def write_host(place: Path, number: int, applications: int) -> None:
    host = f"host-{number:04}"
    write(
        place / f"{host}.parquet",
        [guest(number * GUESTS + one, host, applications) for one in range(GUESTS)],
    )


def write_fleet(place: Path, hosts: int) -> None:
    place.mkdir()
    applications = max(2, hosts * GUESTS * 2 // 50)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_host, place, applications=applications), range(hosts), chunksize=8))


def ask(place: Path) -> tuple[float, int]:
    """Return the seconds of `samepaged fleet sharing` and the number of host pairs found."""
    command = [
        str(Path(sys.executable).with_name("samepaged")),
        "fleet",
        "sharing",
        "--json",
        "--engine",
        "duckdb",
        str(place),
    ]
    start = time.perf_counter()
    said = subprocess.check_output(command)
    took = time.perf_counter() - start
    return took, len(json.loads(said)["host_pairs"])


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    took: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for hosts in (10, 100, 1000):
            place = Path(scratch) / str(hosts)
            write_fleet(place, hosts)
            took[hosts], pairs = ask(place)
            assert pairs == hosts * (hosts - 1) // 2
            name = f"fleet of {hosts} hosts of {GUESTS} guests at 1/{SAMPLE}, all pairs, DuckDB"
            row: Row = {"name": name, "value": round(took[hosts], 2), "unit": "s"}
            yield row | {"at_most": 60} if hosts == 1000 else row
    name = "time a host, 1,000 hosts ÷ 100 hosts"
    yield {"name": name, "value": round(took[1000] / took[100] / 10, 2), "unit": "ratio", "at_most": 1.5}


if __name__ == "__main__":
    write_fleet(Path(sys.argv[1]), int(sys.argv[2]))
