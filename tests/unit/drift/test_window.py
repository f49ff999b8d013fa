from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.drift.budget import FixedBudget, budget_error, hourly_limit, min_drift_ppm
from samepaged.drift.window import (
    BUCKET_SECONDS,
    WINDOW_SECONDS,
    Pauses,
    bucket_number,
    format_pauses,
    merge,
    parse_pauses,
    seconds_until,
    spent_seconds,
    unexpired,
)
from samepaged.errors import Reason

GUEST = "3f0c1e0a-0000-0000-0000-000000000001"
OTHER = "3f0c1e0a-0000-0000-0000-000000000002"
WRITER = "0123456789abcdef"
NOW = 100_000.0

KEYS = st.tuples(
    st.sampled_from([GUEST, OTHER]),
    st.sampled_from([WRITER, WRITER[::-1]]),
    st.integers(bucket_number(NOW - 2 * WINDOW_SECONDS), bucket_number(NOW)),
)
PAUSES = st.dictionaries(KEYS, st.floats(0.001, 10), max_size=20)


@given(PAUSES)
def test_pauses_of_the_window_survive_the_file(pauses: Pauses) -> None:
    assert parse_pauses(format_pauses(pauses, "boot"), "boot", NOW) == unexpired(pauses, NOW)


def test_another_boot_has_no_pauses() -> None:
    content = format_pauses({(GUEST, WRITER, bucket_number(NOW)): 1.0}, "boot")
    assert parse_pauses(content, "another", NOW) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


def damaged(rows: Any) -> bytes:
    return json.dumps({"schema": 1, "boot_id": "boot", "pauses": rows}).encode()


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | st.lists(JSON).map(damaged))
@example(damaged([]))
def test_damaged_files_are_refused(content: bytes) -> None:
    try:
        assert parse_pauses(content, "boot", NOW) == {}
    except ValueError as error:
        assert str(error)
        assert content != damaged([])


@pytest.mark.parametrize(
    "row",
    [
        ["web-1", WRITER, 1, 1.0],
        [GUEST.upper(), WRITER, 1, 1.0],
        [GUEST + "\n", WRITER, 1, 1.0],
        [GUEST, "x", 1, 1.0],
        [GUEST, WRITER, -1, 1.0],
        [GUEST, WRITER, True, 1.0],
        [GUEST, WRITER, bucket_number(NOW) + 1, 1.0],
        [GUEST, WRITER, 10**30, 1.0],
        [GUEST, WRITER, 1, -1.0],
        [GUEST, WRITER, 1, math.nan],
        [GUEST, WRITER, 1, math.inf],
        [GUEST, WRITER, 1, 1e9],
        [GUEST, WRITER, 1, "1"],
        [GUEST, WRITER, 1],
        {},
    ],
)
def test_entries_of_other_values_are_refused(row: Any) -> None:
    good = [GUEST, WRITER, bucket_number(NOW), 1.0]
    with pytest.raises(ValueError, match="pause"):
        parse_pauses(damaged([good, row]), "boot", NOW)
    with pytest.raises(ValueError, match="nested"):
        parse_pauses(b"[" * 100_000, "boot", NOW)


@given(PAUSES, PAUSES, PAUSES)
def test_copies_merge_in_any_order(one: Pauses, two: Pauses, three: Pauses) -> None:
    assert merge(one, merge(two, three)) == merge(merge(three, one), two)
    assert merge(one, one) == one


def test_a_pause_counts_for_an_hour() -> None:
    pauses = {(GUEST, WRITER, bucket_number(NOW)): 1.5}
    assert spent_seconds(pauses, GUEST, NOW + WINDOW_SECONDS - 1) == 1.5
    assert spent_seconds(pauses, OTHER, NOW) == 0
    assert spent_seconds(pauses, GUEST, NOW + WINDOW_SECONDS + BUCKET_SECONDS) == 0


@given(PAUSES, st.floats(0.01, 20), st.floats(0.01, 20))
def test_wait_is_exact(pauses: Pauses, limit: float, seconds: float) -> None:
    needed = seconds_until(pauses, GUEST, NOW, limit=limit, seconds=seconds)
    if seconds > limit:
        assert needed == math.inf
        return
    assert 0 <= needed <= WINDOW_SECONDS + BUCKET_SECONDS
    assert spent_seconds(pauses, GUEST, NOW + needed) + seconds <= limit + 1e-9
    if needed:
        assert spent_seconds(pauses, GUEST, NOW + needed - 0.001) + seconds > limit - 1e-9


def test_the_refusal_names_a_bound_that_is_enough() -> None:
    error = budget_error(FixedBudget(hourly_limit(0.0005)), 3.7)
    assert error.reason is Reason.DRIFT_BUDGET
    assert error.reason.intended
    assert str(error) == (
        "a scan would suspend the guest for about 3.70 s in total, but scan.max_drift allows 1.80 s within an hour; "
        "set scan.max_drift to 1100ppm or more, or scan.mode to live"
    )


@given(st.floats(0.0001, 3600))
def test_the_needed_bound_fits_one_scan(seconds: float) -> None:
    ppm = min_drift_ppm(seconds)
    assert hourly_limit(ppm / 1e6) >= seconds * (1 - 1e-12)
    assert ppm <= max(1.0, seconds / WINDOW_SECONDS * 1e6 * 1.11 + 1)
