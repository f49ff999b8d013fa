"""Optimal placement by an exact solver, and small fleets for the comparison.

Binary x[g, h]: guest g is on host h. y[c, h] >= x[g, h] for each guest g that has a content of class c: host h has it.
Minimise Σ weight[c] · y[c, h], with each guest on one host, and memory within each host's limit. The order of moves is
not part of it, nor whether there is one: what it finds may be out of reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import highspy
import numpy as np

from samepaged.analysis.placement.constraints import Constraints, is_feasible
from samepaged.analysis.placement.contents import incidence_of
from samepaged.analysis.placement.gain import count_gains
from samepaged.analysis.placement.search import Effort, find_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.analysis.placement.contents import Incidence

__all__ = ["best_gain", "best_in_reach", "found_gain", "small_fleet"]


def small_fleet(random: np.random.Generator, guests: int, hosts: int, slack: float) -> tuple[Incidence, Constraints]:
    """Guests of three images and unrelated contents; each host has room for its part of all memory and `slack` more,
    or what it has.
    """
    memory = random.integers(1, 9, guests)
    origin = random.integers(0, hosts, guests)
    load = np.bincount(origin, memory, minlength=hosts).astype(np.int64)
    limits = np.maximum(load, int(np.ceil(memory.sum() / hosts * (1 + slack))))
    image = random.integers(0, 3, guests)
    classes: dict[tuple[int, ...], int] = {}
    for _ in range(random.integers(10, 60)):
        of_image = np.where(image == random.integers(3), 0.8, 0.1)
        chance = of_image if random.random() < 0.5 else np.full(guests, random.random() * 0.6)
        owners = tuple(np.flatnonzero(random.random(guests) < chance).tolist())
        if len(owners) > 1:
            classes[owners] = classes.get(owners, 0) + int(random.integers(1, 2000))
    terms = Constraints(origin, memory, limits, np.ones(guests, dtype=np.bool_), ((),) * guests)
    return incidence_of(list(classes.items())), terms


def sharing(incidence: Incidence, hosts_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Σ S_inter over the hosts of arrangements, one a row: int64 (rows,)."""
    found = np.zeros(len(hosts_of), dtype=np.int64)
    for number, weight in enumerate(incidence.weights.tolist()):
        owners = incidence.guests[incidence.starts[number] : incidence.starts[number + 1]]
        on = np.sort(hosts_of[:, owners], axis=1)
        found += weight * np.count_nonzero(on[:, 1:] == on[:, :-1], axis=1)
    return found


def found_gain(incidence: Incidence, terms: Constraints, effort: Effort | None = None) -> int:
    """Return the gain of our search, by moves within the limits."""
    effort = effort or Effort.for_guests(len(terms.origin))
    steps = find_steps(incidence, terms, effort=effort)
    assert is_feasible(terms, steps), "a plan breaks a limit"
    return int(count_gains(incidence, terms, steps).step_gains.sum())


def best_gain(incidence: Incidence, terms: Constraints, seconds: float = 60) -> int:
    """Return the gain of the optimal arrangement within the limits, or of the best one HiGHS finds in `seconds`."""
    guests, hosts = range(len(terms.origin)), range(len(terms.limits))
    solver = highspy.Highs()  # type: ignore[no-untyped-call]  # untyped
    solver.silent()
    solver.setOptionValue("time_limit", seconds)
    solver.setOptionValue("threads", 1)
    x = [[solver.addBinary() for _ in hosts] for _ in guests]
    y = [[solver.addVariable(0, 1) for _ in hosts] for _ in incidence.weights]
    for guest in guests:
        solver.addConstr(solver.qsum(x[guest]) == 1)
    for host in hosts:
        used = solver.qsum(int(terms.memory[guest]) * x[guest][host] for guest in guests)
        solver.addConstr(used <= int(terms.limits[host]))
    for number, on in zip(incidence.class_of_entries().tolist(), incidence.guests.tolist(), strict=True):
        for host in hosts:
            solver.addConstr(y[number][host] >= x[on][host])
    weights = incidence.weights.tolist()
    solver.minimize(solver.qsum(weight * has for weight, row in zip(weights, y, strict=True) for has in row))
    at = np.array([[int(np.argmax([solver.val(on) for on in x[guest]])) for guest in guests]])
    assert (terms.load_of(at[0]) <= terms.limits).all(), "HiGHS found nothing"
    return int((sharing(incidence, at) - sharing(incidence, terms.origin[None]))[0])


def best_in_reach(incidence: Incidence, terms: Constraints) -> int:
    """Return the gain of the best arrangement reachable by moves within the limits, by exhaustive search."""
    start = tuple(terms.origin.tolist())
    memory, limits = terms.memory.tolist(), terms.limits.tolist()
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        free = list(limits)
        for guest, host in enumerate(at):
            free[host] -= memory[guest]
        for guest, here in enumerate(at):
            for host, room in enumerate(free):
                there = (*at[:guest], host, *at[guest + 1 :])
                if host != here and memory[guest] <= room and there not in seen:
                    seen.add(there)
                    todo.append(there)
    found = sharing(incidence, np.array(list(seen)))
    return int(found.max() - sharing(incidence, terms.origin[None])[0])
