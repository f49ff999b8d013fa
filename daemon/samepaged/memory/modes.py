"""The consistency mode of a scan: the choice by predicted pauses and by the drift budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from samepaged.drift.budget import budget_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.throughput import ThroughputModel

__all__ = [
    "DRIFT",
    "SHORT_SNAPSHOT_SECONDS",
    "SLICE_RATIO",
    "FallbackReason",
    "Plan",
    "Workload",
    "choose_mode",
    "fallback_plan",
    "fit_budget",
    "total_pause_seconds",
]

# Below this, suspending and resuming are most of a snapshot's pause, and the rounds of precopy do not shorten it.
SHORT_SNAPSHOT_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """The reason for another mode or reader than the preferred one: a word for metrics, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen mode, the reason against a better one, and the predicted sum of its pauses in seconds (0 if nothing
    depends on it).
    """

    mode: str
    fallback: FallbackReason | None = None
    total: float = 0.0


DRIFT: Final = FallbackReason("drift", "precopy would suspend it for longer than scan.max_drift leaves for this hour")
# The part of scan.max_pause after which a slice ends. The rest is for resuming, and for a busy host.
SLICE_RATIO: Final = 0.5
# Looks of precopy at the soft-dirty bits: one finds the pages left to read, one finds that few were written meanwhile.
PRECOPY_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Pages of a guest's memory, pages that the host backs, and whether precopy has no earlier scan to start from."""

    pages: int
    backed: int
    first: bool


def total_pause_seconds(work: Workload, throughput: ThroughputModel, max_pause: float) -> dict[str, float]:
    """Predicted sum of a scan's pauses in seconds, by mode."""
    read = throughput.seconds(work.backed)
    looking, clearing = throughput.looking * work.pages, throughput.clearing * work.pages
    slices = max(1, math.ceil(read / (SLICE_RATIO * max_pause)))
    predicted = {
        "snapshot": throughput.overhead + read,
        "precopy": work.first * throughput.overhead + PRECOPY_LOOKS * (throughput.overhead + looking) + clearing,
        "sliced": slices * throughput.overhead + read,
    }
    return {mode: throughput.correction * seconds for mode, seconds in predicted.items()} | {"live": 0.0}


def fit_budget(
    chosen: Plan,
    predicted: Mapping[str, float],
    budget: DriftBudget,
    *,
    auto: bool,
    snapshot_fits: bool,
    obstacle: FallbackReason | None,
) -> Plan:
    """The chosen mode or, with `auto`, a cheaper one, with its predicted total. `snapshot_fits`: whether a snapshot
    is short enough for `auto`. `obstacle` is the reason against precopy. Raises GuestError if no mode fits the budget.
    """
    left = budget.remaining_seconds()
    if predicted[chosen.mode] <= left:
        return replace(chosen, total=predicted[chosen.mode])
    possible = {"snapshot": snapshot_fits, "precopy": obstacle is None, "sliced": True}
    others = [mode for mode, can in possible.items() if can] if auto else [chosen.mode]
    for mode in others:
        if predicted[mode] <= left:
            return Plan(mode, (obstacle or DRIFT) if mode == "sliced" else None, predicted[mode])
    raise budget_error(budget, min(predicted[mode] for mode in others))


def fallback_plan(snapshot_seconds: float, max_pause: float, obstacle: FallbackReason) -> Plan:
    """The plan without precopy: a snapshot, which is as exact, if it is short enough; else slices."""
    return Plan("snapshot" if snapshot_seconds <= max_pause else "sliced", obstacle)


def choose_mode(
    mode: str, *, paused: bool, snapshot_seconds: float, max_pause: float, obstacle: FallbackReason | None
) -> Plan:
    """The mode for a scan: the one asked for if it is possible; for `auto`, the most exact mode whose predicted pause
    fits `max_pause`, and of two equally exact ones the shorter. `obstacle` is the reason against precopy.
    """
    if paused:
        # A snapshot of a paused guest is exact, and costs it nothing.
        return Plan("snapshot")
    if mode == "precopy":
        return Plan("precopy") if obstacle is None else fallback_plan(snapshot_seconds, max_pause, obstacle)
    if mode != "auto":
        return Plan(mode)
    if snapshot_seconds <= min(SHORT_SNAPSHOT_SECONDS, max_pause):
        return Plan("snapshot")
    if obstacle is None:
        return Plan("precopy")
    # A snapshot that fits needs no explanation; slices, which are less exact, do.
    return Plan("snapshot") if snapshot_seconds <= max_pause else Plan("sliced", obstacle)
