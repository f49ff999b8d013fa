"""A fuzz target: a parser, the errors that it may raise, and the invariants of its results."""

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
    """Return the real inputs below seeds/`name`, in the order of their names."""
    return tuple(path.read_bytes() for path in sorted((SEEDS / name).iterdir()))


@dataclass(frozen=True)
class Target:
    """`check` parses an input and asserts the invariants of the result. It may raise only the errors in `refusals`. It
    accepts all `seeds`. `words` are typical parts of inputs, unless the format is `binary`. `grow` makes an input with
    the structure of the format, for formats that random changes of texts would usually break. `longest` is in bytes.
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
    """Runs inputs on a target, and counts the outcomes. A finding is raised."""

    target: Target
    counts: Counter[str] = field(default_factory=Counter)

    def give(self, data: bytes) -> None:
        """Run one input."""
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
    """Yield the lines of the user's message: a ConfigError has one line for each problem."""
    yield from getattr(refusal, "problems", (str(refusal),))


def _name(refusal: Exception) -> str:
    kind = type(refusal).__name__
    return f"{kind}({refusal.reason.value})" if isinstance(refusal, GuestError) else kind
