"""Time and memory of a study of the paper's data set: 1,700 traces of seven guests.

The traces are synthetic. Four guests have 2 GiB, three have 1, 4 and 8, as the paper's machines had (section 4.1), and
each has 150 to 350 traces. Of a guest's pages 10% are zero and 14% further copies; some of its contents are an image's,
that guests of a kind have in common, and from each trace to the next 1% are replaced. `SAMEPAGED_STUDY_SCALE` divides
the sizes of the guests and the numbers of traces, for a look at it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bench.synthetic import FIRST_SCAN, trace_info
from samepaged.arch import PAGE_SIZE
from samepaged.sharing.digest import FIRST_HASH
from samepaged.traces import Trace, TraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench.row import Row

__all__ = ["rows"]

PROCESSES: Final = 2
TICK: Final = 0.1
HALF_AN_HOUR: Final = 1800
ZERO, COPIES, IMAGE, REPLACED = 0.10, 0.14, 0.08, 0.01


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the paper's machines: memory in GiB, traces, and the image that it has in common with others."""

    name: str
    memory: int
    traces: int
    image: int


MACHINES: Final = (
    Machine("mac-1", 2, 220, 0),
    Machine("mac-2", 2, 250, 0),
    Machine("mac-3", 2, 180, 0),
    Machine("mac-4", 2, 250, 0),
    Machine("linux-1", 1, 350, 1),
    Machine("linux-2", 4, 300, 1),
    Machine("linux-3", 8, 150, 2),
)


def hashes(count: int, seed: list[int]) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(FIRST_HASH, 2**64, count, dtype=np.uint64)


def record(machine: Machine, place: Path, scale: int) -> int:
    """Write the machine's traces; how many there are."""
    pages = machine.memory * (1 << 30) // PAGE_SIZE // scale
    zero, copies = int(pages * ZERO), int(pages * COPIES)
    distinct = pages - zero - copies
    number = max(2, machine.traces // scale)
    seed = MACHINES.index(machine) + 10
    contents = np.concatenate(
        [hashes(int(pages * IMAGE), [machine.image]), hashes(distinct - int(pages * IMAGE), [seed])]
    )
    store = TraceStore(place)
    for at in range(number):
        new = int(distinct * REPLACED)
        where = np.random.default_rng([seed, at]).integers(0, distinct, new)
        contents[where] = hashes(new, [seed, at, 1])
        found = np.sort(contents)
        found = found[np.append(True, found[1:] != found[:-1])]
        counts = np.ones(len(found), dtype=np.int32)
        counts[: copies // 8] += 8
        about = trace_info(
            host="kvm-1",
            domain=machine.name,
            uuid=None,
            scanned_at=FIRST_SCAN + HALF_AN_HOUR * at,
            zero_pages=zero,
            hashed_pages=int(counts.sum()),
            distinct_pages=len(found),
        )
        store.write(Trace(about, found, counts))
    return number


def resident(process: int) -> int:
    """Bytes of a process and of those that it started, as long as it is there."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
    return own + sum(resident(int(child)) for child in children)


def watch(child: subprocess.Popen[str], most: list[int]) -> None:
    while child.poll() is None:
        most.append(resident(child.pid))
        time.sleep(TICK)


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    scale = int(os.environ.get("SAMEPAGED_STUDY_SCALE", "1"))
    # Not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        place = Path(directory)
        with ProcessPoolExecutor(PROCESSES) as pool:
            largest = sorted(MACHINES, key=lambda machine: -machine.memory * machine.traces)
            count = sum(pool.map(record, largest, [place] * len(largest), [scale] * len(largest)))
        command = [sys.executable, "-m", "samepaged", "study", "--json", str(place)]
        most: list[int] = []
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            watcher = threading.Thread(target=watch, args=(child, most))
            watcher.start()
            output, _ = child.communicate()
            watcher.join()
        seconds = time.perf_counter() - start
        assert child.returncode == 0
        found = json.loads(output)
        assert found["traces"] == count
        assert len(found["pairs"]) == len(MACHINES) * (len(MACHINES) - 1) // 2
        assert {one["trace_pairs"] for one in found["pairs"]} == {300} or scale > 1
    name = f"study of {count:,} traces of {len(MACHINES)} guests of 1 to 8 GiB"
    yield {"name": name, "value": round(seconds, 1), "unit": "s", "at_most": 300}
    yield {"name": "peak memory of that study", "value": round(max(most) / (1 << 30), 2), "unit": "GiB", "at_most": 4}
