from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import ConfigError, Fault, GuestError, InvalidValueError, Reason, SamepagedError, TraceError

REMEDIES = st.none() | st.text()


@given(st.text(), REMEDIES)
def test_error_is_problem_and_remedy(problem: str, remedy: str | None) -> None:
    error = SamepagedError(problem, remedy)
    assert (error.problem, error.remedy) == (problem, remedy)
    assert str(error) == (problem if remedy is None else f"{problem}; {remedy}")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own


@pytest.mark.parametrize(
    ("error", "problem", "line"),
    [
        (GuestError(Reason.IN_JOB, "is in a job", domain="a"), "domain 'a' is in a job", "domain 'a' is in a job"),
        (GuestError(Reason.READ, "it failed", "try again"), "it failed", "domain 'a': it failed; try again"),
        (
            GuestError(Reason.LIBVIRT, "suspending domain 'a'", names_domain=True),
            "suspending domain 'a'",
            "suspending domain 'a'",
        ),
        (GuestError(Reason.READ, "'a' is odd"), "'a' is odd", "domain 'a': 'a' is odd"),
    ],
)
def test_guest_error_names_domain_once(error: GuestError, problem: str, line: str) -> None:
    assert (error.problem, error.about("a")) == (problem, line)


def test_config_error_has_a_line_per_fault() -> None:
    one = ConfigError(Fault("a", "b"))
    assert (one.problem, one.remedy, str(one), one.problems) == ("a", "b", "a; b", ("a; b",))
    two = ConfigError(Fault("a", "b"), Fault("c"))
    assert (str(two), two.problems, two.remedy) == ("a; b\nc", ("a; b", "c"), None)


def test_other_errors_carry_both_fields() -> None:
    trace = TraceError("t", "is bad", "mend it")
    assert (trace.problem, trace.remedy, str(trace)) == ("t: is bad", "mend it", "t: is bad; mend it")
    assert str(InvalidValueError("is bad", "mend it")) == "is bad; mend it"
