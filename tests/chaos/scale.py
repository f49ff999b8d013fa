"""How much is broken in a run: a little in `make test`, all of it in `make chaos`."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, fields, replace
from typing import Final

__all__ = ["FULL", "RANDOM", "SCALE", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Counts; `SAMEPAGED_CHAOS_KILLS=30` and the like set a single one."""

    kills: int
    dumps: int
    stops: int
    restarts: int
    qemu_kills: int
    scans: int
    scrapes: int
    half_open: int
    slow: int
    hangs: int
    long_hangs: int
    delays: int

    @property
    def hang_seconds(self) -> tuple[float, float]:
        """The least and the most that a QEMU hangs, but for the long hangs."""
        return (5, 20) if self.hangs > SHORT_HANGS else (5, 8)


SHORT_HANGS: Final = 4
WHOLE: Final = Scale(
    kills=300,
    dumps=30,
    stops=20,
    restarts=20,
    qemu_kills=20,
    scans=200,
    scrapes=500,
    half_open=2000,
    slow=200,
    hangs=95,
    long_hangs=5,
    delays=20,
)
SHORT: Final = Scale(
    kills=6,
    dumps=3,
    stops=1,
    restarts=1,
    qemu_kills=1,
    scans=0,
    scrapes=50,
    half_open=300,
    slow=50,
    hangs=SHORT_HANGS,
    long_hangs=0,
    delays=1,
)

FULL: Final = os.environ.get("SAMEPAGED_CHAOS") == "full"


def _chosen() -> Scale:
    scale = WHOLE if FULL else SHORT
    asked = {field.name: os.environ.get(f"SAMEPAGED_CHAOS_{field.name.upper()}") for field in fields(scale)}
    return replace(scale, **{name: int(count) for name, count in asked.items() if count is not None})


SCALE: Final = _chosen()
# In the environment for the workers of pytest-xdist, too.
SEED: Final = int(os.environ.setdefault("SAMEPAGED_CHAOS_SEED", str(random.randrange(2**32))))
# The moments at which something is broken. The seed does not reproduce the machine's other activity.
RANDOM: Final = random.Random(SEED)
