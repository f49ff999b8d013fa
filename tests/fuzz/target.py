"""What is fuzzed: a parser, what it may refuse an input with, and what must hold of what it takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.errors import GuestError, SamepagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

__all__ = ["ACCEPTED", "Outcomes", "Target", "seed_files"]

ACCEPTED = "accepted"
SEEDS = Path(__file__).parent / "seeds"


def seed_files(name: str) -> tuple[bytes, ...]:
    """The real inputs below seeds/`name`, in the order of their names."""
    return tuple(path.read_bytes() for path in sorted((SEEDS / name).iterdir()))


@dataclass(frozen=True)
class Target:
    """`check` parses an input and asserts what must hold of the result. It may raise one of `refusals`, nothing else.
    All of `seeds` are taken; `words` are what the format's inputs are made of, unless it is `binary`; `grow` makes an
    input of the format's structure, where changing texts would seldom keep to it. `longest` is in bytes.
    """

    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (SamepagedError,)
    longest: int = 2048
    binary: bool = False
    grow: Callable[[Random], bytes] | None = None


@dataclass
class Outcomes:
    """Gives inputs to a target, and counts what becomes of them. What is a finding is raised."""

    target: Target
    counts: Counter[str] = field(default_factory=Counter)

    def give(self, data: bytes) -> None:
        """One input."""
        try:
            self.target.check(data)
        except self.target.refusals as refusal:
            for line in _lines(refusal):
                assert line.isprintable(), line
            self.counts[_name(refusal)] += 1
        else:
            self.counts[ACCEPTED] += 1

    @property
    def total(self) -> int:
        return self.counts.total()


def _lines(refusal: Exception) -> Iterator[str]:
    """Return the message for the user: a ConfigError has a line for each problem."""
    yield from getattr(refusal, "problems", (str(refusal),))


def _name(refusal: Exception) -> str:
    kind = type(refusal).__name__
    return f"{kind}({refusal.reason.value})" if isinstance(refusal, GuestError) else kind
