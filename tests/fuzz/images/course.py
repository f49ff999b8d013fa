"""The test of one image, derived from its number: its damage, and the form of its analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.messages import BLOCK_PAGES
from tests.fuzz.images import lies, trial
from tests.fuzz.images.bases import KERNELS
from tests.fuzz.images.crowds import CROWDS
from tests.fuzz.images.damage import DAMAGE
from tests.fuzz.images.lies import LIES

if TYPE_CHECKING:
    from tests.fuzz.images.scene import Scene
    from tests.fuzz.images.trial import Outcome, Plan

__all__ = ["attempt", "kernel_of"]

WAYS: Final = {**DAMAGE, **LIES, **CROWDS}
WEIGHTS: Final = np.array(list(WAYS.values())) / sum(WAYS.values())
# Fractions of the images: those with an unknown kernel, about half of them with damage to memory that only the first
# analysis reads; those with a full analysis in spite of a known kernel; and those with only the previously needed pages
# copied.
UNKNOWN: Final = 1 / 80
COLD: Final = 1 / 30
COPIED: Final = 1 / 4
LIED: Final = 1 / 12
OF_THE_UNKNOWN: Final = ("bits_of_the_cold", "symbol_table", "types", "note")


def kernel_of(number: int) -> str:
    """Return the kernel for the image of a number."""
    return KERNELS[number % len(KERNELS)]


def attempt(scene: Scene, number: int, *, tell: bool = False) -> tuple[Outcome, str]:
    """Damage the scene's image as its number determines, analyse it, and restore it. Return the outcome, and a
    description of the damage.
    """
    random = np.random.default_rng(number)
    try:
        unknown, plan = _plan(scene, random)
        ways = list(random.choice(len(WAYS), size=int(random.choice([1, 1, 2, 3])), p=WEIGHTS))
        chosen = [list(WAYS)[way] for way in ways]
        if unknown and random.random() < 0.6:
            named = str(random.choice(OF_THE_UNKNOWN))
            chosen[0] = next(way for way in WAYS if way.__name__ == named)
        for way in chosen:
            way(scene, random)
        notes = scene.find_notes()
        damage = ", ".join(way.__name__ for way in chosen) + (
            ", a lying profile" if plan.profile not in (b"", scene.profile) else ""
        )
        return trial.attempt(scene.image.words, scene.layout, notes, plan, trial.Telling() if tell else None), damage
    finally:
        scene.image.mend()


def _plan(scene: Scene, random: np.random.Generator) -> tuple[bool, Plan]:
    unknown = random.random() < UNKNOWN
    cold = unknown or random.random() < COLD
    known = b"" if unknown else scene.profile
    if known and random.random() < LIED:
        known = lies.profile(known, random)
    others = scene.warm if random.random() < COPIED else None
    blocks = random.random(-(-scene.image.pages // BLOCK_PAGES)) < random.choice([1, 1, 1, 0.5])
    return unknown, trial.Plan(known, others, cold, bool(random.random() < 0.7), blocks)
