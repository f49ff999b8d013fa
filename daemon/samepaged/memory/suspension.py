"""How long a scan suspends a guest in all, predicted before the first pause, and whether its drift budget has room."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from samepaged.drift.budget import budget_error
from samepaged.memory.modes import FallbackReason, Plan
from samepaged.memory.sliced import AIM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.modes import ThroughputModel

__all__ = ["DRIFT", "Workload", "totals", "within_budget"]

DRIFT: Final = FallbackReason("drift", "precopy would suspend it for longer than scan.max_drift leaves for this hour")
# Times that precopy looks at the bits: to find what is left to read, and to find that little was written meanwhile.
LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Pages of a guest's memory, those that a scan would read now, and whether precopy has no scan to begin from."""

    pages: int
    backed: int
    first: bool


def totals(work: Workload, pace: ThroughputModel, max_pause: float) -> dict[str, float]:
    """Seconds for which a scan suspends the guest in all, by mode."""
    read = pace.seconds(work.backed)
    looking, clearing = pace.looking * work.pages, pace.clearing * work.pages
    slices = max(1, math.ceil(read / (AIM * max_pause)))
    predicted = {
        "snapshot": pace.overhead + read,
        "precopy": work.first * pace.overhead + LOOKS * (pace.overhead + looking) + clearing,
        "sliced": slices * pace.overhead + read,
    }
    return {mode: pace.correction * seconds for mode, seconds in predicted.items()} | {"live": 0.0}


def within_budget(
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
