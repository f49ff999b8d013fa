"""Run a target with many inputs in this process: guided by coverage if atheris is installed, otherwise random."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.limits import bounded_memory, bounded_time
from tests.fuzz.mutate import mutated, mutations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.target import Outcomes, Target

__all__ = ["GUIDED", "Trial", "load", "run"]

GUIDED: Final = importlib.util.find_spec("atheris") is not None
INSTRUMENTED: Final = ("samepaged", "yaml")
# Python's signals do not interrupt a parser in C that hangs. libFuzzer's own alarm uses wall-clock time, so its limit
# is generous.
LAST_RESORT_SECONDS: Final = 60


@dataclass
class Trial:
    """A target's outcomes. They are kept in a file, because the engine ends the process without returning."""

    outcomes: Outcomes
    inputs: int
    directory: Path
    started: float

    def give(self, data: bytes) -> None:
        """Run one input within its bounds. The file is written after the last input, and after a finding."""
        try:
            with bounded_time():
                self.outcomes.give(data)
        except BaseException:
            self.save()
            raise
        if self.outcomes.total == self.inputs:
            self.save()

    def save(self) -> None:
        """Write the file."""
        seconds = time.monotonic() - self.started
        found = {"inputs": self.outcomes.total, "seconds": seconds, "outcomes": self.outcomes.counts}
        (self.directory / "outcomes.json").write_text(json.dumps(found))


def load(module: str) -> Target:
    """Return the target in a module, instrumented if possible."""
    if not GUIDED:
        target: Target = importlib.import_module(module).TARGET
        return target
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        guided: Target = importlib.import_module(module).TARGET
        return guided


def run(trial: Trial) -> None:
    """Run all inputs. A finding is raised, with its input in the directory's `findings`."""
    bounded_memory()
    (_guided if GUIDED else _by_chance)(trial)


def _by_chance(trial: Trial) -> None:
    for data in mutations(trial.outcomes.target, Random(), trial.inputs):
        try:
            trial.give(data)
        except BaseException:
            (trial.directory / "findings" / f"crash-{time.time_ns():x}").write_bytes(data)
            raise


def _guided(trial: Trial) -> None:
    atheris: Any = importlib.import_module("atheris")
    target = trial.outcomes.target
    corpus = trial.directory / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    words = trial.directory / "words"
    escaped = ("".join(f"\\x{octet:02x}" for octet in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped))

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        if random.getrandbits(1):
            made: bytes = atheris.Mutate(data, longest)
            return made
        return mutated(data, random.choice(target.seeds), target, random)[:longest]

    arguments = [
        sys.argv[0],
        f"-runs={trial.inputs}",
        f"-max_len={target.longest}",
        *([f"-dict={words}"] if target.words else []),  # libFuzzer refuses an empty dictionary
        f"-artifact_prefix={trial.directory}/findings/",
        f"-timeout={LAST_RESORT_SECONDS}",
        str(corpus),
    ]
    atheris.Setup(arguments, trial.give, custom_mutator=mutator)
    atheris.Fuzz()
