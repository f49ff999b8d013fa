from __future__ import annotations

import pytest

from samepaged.errors import GuestError, Reason
from samepaged.scan.circuit_breaker import OPEN_SECONDS, CircuitBreaker
from tests.support.results import guest_id

GUEST, OTHER = guest_id("web"), guest_id("db")


def note(breaker: CircuitBreaker, now: float, *, failed: bool = False, longest: float = 0.1) -> bool:
    return breaker.record(GUEST, now, failed=failed, longest_pause=longest, max_pause=0.25)


def test_three_failures_open_the_breaker() -> None:
    breaker = CircuitBreaker()
    assert [note(breaker, 1, failed=True), note(breaker, 2, longest=0.6), note(breaker, 3, failed=True)] == [
        False,
        False,
        True,
    ]
    with pytest.raises(GuestError, match=r"'web'.*60 more minutes") as caught:
        breaker.check(GUEST, "web", 4)
    assert caught.value.reason is Reason.LEFT_ALONE
    breaker.check(OTHER, "db", 4)
    breaker.check(GUEST, "web", 3 + OPEN_SECONDS)


def test_success_resets_the_failure_count() -> None:
    breaker = CircuitBreaker()
    for now, failed in enumerate([True, True, False, True, True]):
        assert not note(breaker, now, failed=failed)
    breaker.check(GUEST, "web", 9)


def test_breaker_closes_after_an_hour() -> None:
    breaker = CircuitBreaker()
    for now in range(3):
        note(breaker, now, failed=True)
    later = 2 + OPEN_SECONDS
    breaker.check(GUEST, "web", later)
    assert not note(breaker, later, failed=True)
    breaker.check(GUEST, "web", later)


def test_slightly_long_pause_is_no_failure() -> None:
    breaker = CircuitBreaker()
    assert not any(note(breaker, now, longest=0.3) for now in range(9))


def test_breaker_forgets_departed_guest() -> None:
    breaker = CircuitBreaker()
    for now in range(3):
        note(breaker, now, failed=True)
    breaker.forget(set())
    breaker.check(GUEST, "web", 4)
