"""Plans of small fleets against exact optima; bench/placement.py has more."""

from __future__ import annotations

import numpy as np
import pytest

from bench.exact_placement import best_gain, best_in_reach, found_gain, small_fleet
from samepaged.analysis.placement.search import Effort


@pytest.mark.parametrize("slack", [0.02, 0.1, 0.3, 3])
def test_plan_is_near_the_best_reachable(slack: float) -> None:
    random = np.random.default_rng(int(slack * 100))
    for _ in range(2):
        incidence, terms = small_fleet(random, 6, 3, slack)
        best = best_in_reach(incidence, terms)
        assert 0.95 * best <= found_gain(incidence, terms, Effort(steps=400)) <= best


def test_plan_is_near_the_exact_optimum() -> None:
    random = np.random.default_rng(1)
    for _ in range(2):
        incidence, terms = small_fleet(random, 7, 3, 1)
        best = best_gain(incidence, terms)
        assert 0.95 * best <= found_gain(incidence, terms, Effort(steps=200)) <= best
