from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import Reason
from samepaged.scan.host import HostRound
from samepaged.scan.results import SkippedGuest
from samepaged.scan.snapshot import HistoryPoint
from samepaged.service.history import HISTORY_SECONDS, MIN_STEP_SECONDS, history_point, with_counts, with_point
from tests.support.results import STARTED, guest_id, host_scan, merging, snapshot

WEB, NEW = guest_id("web"), guest_id("new")


def at(ended: float) -> HistoryPoint:
    return HistoryPoint(ended, 1, 1, 1, 1, None)


def test_history_point_has_bytes() -> None:
    found = history_point(host_scan("a", "b"), merging("a", "b"))
    page = 4096
    assert found == HistoryPoint(STARTED + 2.5, 2000 * page, 180 * page, 40 * page, 400 * page, 110 * page)
    assert history_point(host_scan("a"), None).merged is None


def test_history_keeps_one_day() -> None:
    history: tuple[HistoryPoint, ...] = ()
    for number in range(300):
        history = with_point(history, at(number * 900.0))
    assert [one.ended_at for one in history] == [number * 900.0 for number in range(300 - 96, 300)]


@given(st.lists(st.floats(0.5, 4000), min_size=1, max_size=400))
def test_history_is_ordered_and_bounded(gaps: list[float]) -> None:
    history: tuple[HistoryPoint, ...] = ()
    now = 0.0
    for gap in gaps:
        now += gap
        history = with_point(history, at(now))
        assert history[-1].ended_at == now
    assert all(a.ended_at < b.ended_at for a, b in pairwise(history))
    assert all(one.ended_at > now - HISTORY_SECONDS for one in history)
    assert len(history) <= HISTORY_SECONDS / MIN_STEP_SECONDS + 2


def test_frequent_scans_are_thinned() -> None:
    history: tuple[HistoryPoint, ...] = ()
    for number in range(2000):
        history = with_point(history, at(float(number)))
    assert len(history) < 12
    assert all(b.ended_at - a.ended_at >= MIN_STEP_SECONDS for a, b in pairwise(history[:-1]))


def test_clock_set_back_drops_later_points() -> None:
    history = with_point(with_point((), at(5000.0)), at(1000.0))
    assert [one.ended_at for one in history] == [1000.0]


def test_counters_cover_running_domains() -> None:
    before = snapshot(domains=("web", "gone"))
    round_ = HostRound(
        STARTED,
        running_names={WEB: "web", NEW: "new"},
        pauses={WEB: [0.03], NEW: [0.2, 0.3]},
        skipped=[
            SkippedGuest("web", Reason.READ, "unreadable", WEB),
            SkippedGuest("new", Reason.EXCLUDED, "excluded", NEW),
        ],
    )
    after = with_counts(before, round_, {WEB}, 7.0)
    assert {guest: sum(one.counts) for guest, one in after.pauses.items()} == {WEB: 2, NEW: 2}
    assert after.failures == {(WEB, Reason.READ): 4}
    assert after.last_success == {WEB: STARTED + 2}
    assert after.scan_durations is not None
    assert sum(after.scan_durations.counts) == 3
    assert (after.config, after.latest) == (before.config, before.latest)
