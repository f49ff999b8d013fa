"""The short version of `make fuzz`: some thousand inputs for each parser, the same in each run."""

from __future__ import annotations

import importlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.limits import bounded_time
from tests.fuzz.mutate import mutations
from tests.fuzz.target import ACCEPTED, Outcomes, Target

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = 3000


def target(name: str) -> Target:
    found: Target = importlib.import_module(f"tests.fuzz.targets.{name}").TARGET
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_real_inputs(name: str) -> None:
    outcomes = Outcomes(target(name))
    for seed in outcomes.target.seeds:
        outcomes.give(seed)
    assert set(outcomes.counts) == {ACCEPTED}


@pytest.mark.parametrize("name", TARGETS)
def test_parser_accepts_or_refuses_any_input(name: str) -> None:
    outcomes = Outcomes(target(name))
    for data in mutations(outcomes.target, Random(name), INPUTS):
        with bounded_time():
            outcomes.give(data)
    assert len(outcomes.counts) > 1  # some are taken, some are not
    assert outcomes.counts[ACCEPTED] > INPUTS // 50


def crash(_: bytes) -> None:
    raise KeyError


def hang(_: bytes) -> None:
    while True:
        pass


def ramble(_: bytes) -> None:
    raise ValueError("two\nlines")


@pytest.mark.parametrize("check", [crash, hang, ramble])
def test_fuzzer_finds_faults(check: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.limits.SECONDS", 0.05)
    outcomes = Outcomes(Target(check, seeds=(b"",), words=(), refusals=(ValueError,)))
    with pytest.raises(BaseException) as found, bounded_time():  # noqa: PT011 - each of them another
        outcomes.give(b"")
    assert type(found.value).__name__ in {"KeyError", "HangError", "AssertionError"}
    assert outcomes.counts.total() == 0
