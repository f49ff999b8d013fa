"""Placement plans: distance from the optimum, and cost for a fleet of 200 guests on 20 hosts.

The large fleet is measured in a process of its own, because a process's peak of memory never falls. Its guests are of
20 images, in no order on the hosts; each has 70% of its image's contents, 90% of a base's, and its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np

from samepaged.analysis.placement.plan import Guest, Host, plan_placement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench.row import Row

__all__ = ["rows"]

SLACKS: Final = (0.02, 0.1, 0.3, 1, 3)
SMALL_FLEETS: Final = 30
MIDDLE_FLEETS: Final = 8
GUESTS: Final = 200
HOSTS: Final = 20
GUEST_PAGES: Final = 1 << 18
MIB_PAGES: Final = 256


class Cost(TypedDict):
    """Cost and gain of a large plan; `broken` counts moves that break a limit."""

    seconds: float
    mib: float
    gain_gib: float
    of_bound: float
    moves: int
    broken: int


def large_fleet(random: np.random.Generator) -> list[NDArray[np.uint64]]:
    """U(V) of each guest."""
    image_of = random.permutation(np.arange(GUESTS) % HOSTS)

    def fresh(share: float) -> NDArray[np.uint64]:
        return random.integers(3, 2**64, int(GUEST_PAGES * share), dtype=np.uint64)

    base, images = fresh(0.15), [fresh(0.5) for _ in range(HOSTS)]
    sets = []
    for guest in range(GUESTS):
        image = images[image_of[guest]]
        parts = (base[random.random(len(base)) < 0.9], image[random.random(len(image)) < 0.7], fresh(0.35))
        sets.append(np.sort(np.concatenate(parts)))
    return sets


def measure() -> Cost:
    """Plan for the large fleet, in this process: a tenth of each host is free, which is one guest."""
    guests = [Guest(f"guest{number}", f"host{number % HOSTS}", GUEST_PAGES) for number in range(GUESTS)]
    most = GUESTS // HOSTS + 1
    hosts = [Host(f"host{number}", most * GUEST_PAGES, "--memory") for number in range(HOSTS)]
    sets = large_fleet(np.random.default_rng(1))
    start = time.perf_counter()
    placement = plan_placement(guests, hosts, sets, threads=2)
    seconds = time.perf_counter() - start
    held = dict.fromkeys((host.name for host in hosts), GUESTS // HOSTS)
    broken = 0
    for move in placement.moves:
        held[move.origin] -= 1
        held[move.target] += 1
        broken += held[move.target] > most
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {
        "seconds": seconds,
        "mib": peak / 1024,
        "gain_gib": placement.gain_pages / MIB_PAGES / 1024,
        "of_bound": placement.gain_pages / placement.upper_bound_pages,
        "moves": len(placement.moves),
        "broken": broken,
    }


def small_ratios(count: int = SMALL_FLEETS) -> tuple[list[float], list[float]]:
    """Our gain over the best that can be reached by moves, and over the best arrangement where it can be reached."""
    from bench.exact_placement import best_gain, best_in_reach, found_gain, small_fleet  # noqa: PLC0415 - with HiGHS

    random = np.random.default_rng(6)
    reach, exact = [], []
    for number in range(count):
        incidence, terms = small_fleet(random, int(random.integers(8, 10)), 3, SLACKS[number % len(SLACKS)])
        gained, reachable = found_gain(incidence, terms), best_in_reach(incidence, terms)
        best = best_gain(incidence, terms)
        reach.append(gained / reachable if reachable else 1.0)
        if reachable == best:
            exact.append(gained / best if best else 1.0)
    return reach, exact


def middle_ratios(count: int = MIDDLE_FLEETS) -> list[float]:
    """Our gain over the best arrangement of 14 guests on 4 hosts, whether it can be reached or not."""
    from bench.exact_placement import best_gain, found_gain, small_fleet  # noqa: PLC0415 - with HiGHS

    ratios = []
    for number in range(count):
        incidence, terms = small_fleet(np.random.default_rng(number + 1), 14, 4, SLACKS[1 + number % 3])
        best = best_gain(incidence, terms)
        ratios.append(found_gain(incidence, terms) / best if best else 1.0)
    return ratios


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    reach, exact = small_ratios()
    name = f"placement: gain ÷ best of HiGHS, {len(exact)} small fleets, worst"
    yield {"name": name, "value": round(min(exact), 4), "unit": "ratio", "at_least": 0.95}
    name = "placement: that, mean"
    yield {"name": name, "value": round(sum(exact) / len(exact), 4), "unit": "ratio", "at_least": 0.95}
    name = f"placement: gain ÷ best in reach of moves, {len(reach)} fleets, worst"
    yield {"name": name, "value": round(min(reach), 4), "unit": "ratio", "at_least": 0.95}
    middle = middle_ratios()
    name = f"placement: gain ÷ best of HiGHS, {len(middle)} fleets of 14 guests, worst"
    yield {"name": name, "value": round(min(middle), 4), "unit": "ratio", "at_least": 0.95}
    cost: Cost = json.loads(subprocess.check_output([sys.executable, __file__]))
    name = "placement of 200 guests of 1 GiB on 20 hosts"
    yield {"name": name, "value": round(cost["seconds"], 1), "unit": "s", "at_most": 120}
    yield {"name": "peak memory of that plan", "value": round(cost["mib"]), "unit": "MiB", "at_most": 4096}
    yield {"name": "gain of that plan", "value": round(cost["gain_gib"], 2), "unit": "GiB"}
    yield {"name": "gain of that plan ÷ upper bound", "value": round(cost["of_bound"], 4), "unit": "ratio"}
    yield {"name": "moves of that plan", "value": cost["moves"], "unit": "moves", "at_most": 3 * GUESTS}
    yield {"name": "moves of that plan beyond a limit", "value": cost["broken"], "unit": "moves", "at_most": 0}


if __name__ == "__main__":  # a measurement is a process of its own
    print(json.dumps(measure()))
