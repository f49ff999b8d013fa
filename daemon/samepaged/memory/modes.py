"""The consistency mode of a scan: the choice by predicted pauses and by the drift budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from samepaged.drift.budget import budget_error
from samepaged.memory.sliced import SLICE_RATIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.throughput import ThroughputModel

__all__ = [
    "DRIFT",
    "FallbackReason",
    "Plan",
    "Workload",
    "choose_mode",
    "fallback_plan",
    "fit_budget",
    "total_pause_seconds",
]

# Below this, suspending and resuming are most of a snapshot's pause, and rounds of their own would make it no shorter.
SHORT_SNAPSHOT_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class FallbackReason:
    """Why a guest cannot be read in the way that was asked for: a word for metrics, a line for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The mode to take, why it is not a better one, and for how many seconds it is predicted to suspend the guest in
    all (0 if nothing depends on that).
    """

    mode: str
    fallback: FallbackReason | None = None
    total: float = 0.0


DRIFT: Final = FallbackReason("drift", "precopy would suspend it for longer than scan.max_drift leaves for this hour")
# Times that precopy looks at the bits: to find what is left to read, and to find that little was written meanwhile.
PRECOPY_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Pages of a guest's memory, those that a scan would read now, and whether precopy has no scan to begin from."""

    pages: int
    backed: int
    first: bool


def total_pause_seconds(work: Workload, pace: ThroughputModel, max_pause: float) -> dict[str, float]:
    """Seconds for which a scan suspends the guest in all, by mode."""
    read = pace.seconds(work.backed)
    looking, clearing = pace.looking * work.pages, pace.clearing * work.pages
    slices = max(1, math.ceil(read / (SLICE_RATIO * max_pause)))
    predicted = {
        "snapshot": pace.overhead + read,
        "precopy": work.first * pace.overhead + PRECOPY_LOOKS * (pace.overhead + looking) + clearing,
        "sliced": slices * pace.overhead + read,
    }
    return {mode: pace.correction * seconds for mode, seconds in predicted.items()} | {"live": 0.0}


def fit_budget(
    chosen: Plan,
    predicted: Mapping[str, float],
    budget: DriftBudget,
    *,
    auto: bool,
    snapshot_fits: bool,
    obstacle: FallbackReason | None,
) -> Plan:
    """The chosen mode or, with `auto`, a cheaper one, with its predicted total. `snapshot_fits` says whether a snapshot
    is short enough for `auto`, `obstacle` why precopy is not possible. Raises GuestError if no mode fits the budget.
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
    """What is taken where precopy cannot be: a snapshot if it is short enough, which is as exact, else slices."""
    return Plan("snapshot" if snapshot_seconds <= max_pause else "sliced", obstacle)


def choose_mode(
    mode: str, *, paused: bool, snapshot_seconds: float, max_pause: float, obstacle: FallbackReason | None
) -> Plan:
    """The mode for a scan: the one asked for where it is possible; for `auto`, the most exact of those whose predicted
    pause fits `max_pause`, and of two as exact the shorter. `obstacle` says why precopy is not possible.
    """
    if paused:
        # It stands still anyway; reading it at once is exact, and takes nothing from it.
        return Plan("snapshot")
    if mode == "precopy":
        return Plan("precopy") if obstacle is None else fallback_plan(snapshot_seconds, max_pause, obstacle)
    if mode != "auto":
        return Plan(mode)
    if snapshot_seconds <= min(SHORT_SNAPSHOT_SECONDS, max_pause):
        return Plan("snapshot")
    if obstacle is None:
        return Plan("precopy")
    # A snapshot that fits is one of auto's own answers, and nothing to explain; slices, being less exact, are.
    return Plan("snapshot") if snapshot_seconds <= max_pause else Plan("sliced", obstacle)
