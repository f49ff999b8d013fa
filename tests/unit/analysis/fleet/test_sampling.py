"""The reported error of a sample against its real error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.analysis.fleet.sampling import confidence_bounds, relative_error

samples = st.integers(0, 16).map(lambda halvings: 1 << halvings)


@pytest.mark.parametrize("sample", [2, 16, 256])
@pytest.mark.parametrize("count", [300, 5_000, 400_000])
def test_bounds_cover_95_percent(sample: int, count: int) -> None:
    found = np.random.default_rng([sample, count]).binomial(count, 1 / sample, 2_000)
    within = [low <= count <= high for low, high in (confidence_bounds(int(one), sample) for one in found)]
    assert 0.92 < np.mean(within) < 0.98


@pytest.mark.parametrize("sample", [2, 16, 256])
def test_relative_error_equals_spread(sample: int) -> None:
    found = np.random.default_rng(sample).binomial(1_000_000, 1 / sample, 4_000)
    stated = relative_error(1_000_000 // sample, sample)
    assert stated is not None
    assert math.isclose(np.std(found * sample) / 1_000_000, stated, rel_tol=0.05)


@given(st.integers(0, 10**12))
def test_full_count_has_no_error(found: int) -> None:
    assert confidence_bounds(found, 1) == (found, found)
    assert relative_error(found, 1) == 0


def test_zero_count_has_bounds_without_error() -> None:
    assert relative_error(0, 256) is None
    low, high = confidence_bounds(0, 256)
    assert low == 0
    assert high > 256


@given(st.integers(0, 10**9), samples)
def test_bounds_enclose_the_estimate(found: int, sample: int) -> None:
    low, high = confidence_bounds(found, sample)
    assert found <= low <= found * sample <= high
