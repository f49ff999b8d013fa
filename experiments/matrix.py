"""Matrix of the study's guests, and their counterparts in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "ARCHITECTURES",
    "BOOTS",
    "MATRIX",
    "RELEASES",
    "SETUPS",
    "Cell",
    "aslr",
    "clones",
    "platforms",
    "select_cells",
]

RELEASES: Final = ("bookworm", "bullseye")
ARCHITECTURES: Final = ("amd64", "i386")
SETUPS: Final = ("plain", "server", "desktop")
# Boots of each image with and without randomisation (the paper, section 6.2).
BOOTS: Final = 4
# The desktop without its browser and its spreadsheet, which take most of the time on an emulated processor.
FEW_PROGRAMS: Final = "field.programs=few"
# With these words, the kernel places processes (and with the second, itself) at the same addresses at every boot.
WORDS: Final = {"aslr": "", "noaslr": "norandmaps", "nokaslr": "norandmaps nokaslr"}


@dataclass(frozen=True)
class Cell:
    """One guest from boot to its last trace.

    `sets` are the sets of traces that its last trace belongs to. `trace_set` is the set of all of its traces, including
    those during its load, if they are kept.
    """

    name: str
    release: str
    architecture: str
    setup: str
    sets: tuple[str, ...]
    trace_set: str | None = None
    variant: int = 0
    kernel_words: str = ""
    memory: int = 1024
    # Seconds from boot to the last trace on a busy machine; a slower guest is aborted.
    timeout_seconds: float = 5400

    @property
    def platform(self) -> str:
        """Release and architecture."""
        return f"{self.release}-{self.architecture}"

    @property
    def attributed(self) -> bool:
        """Whether its last trace has page attribution, which does not support 32-bit kernels."""
        return "setups" in self.sets and self.architecture == "amd64"

    @property
    def words(self) -> str:
        """Return the guest's words on the kernel command line."""
        said = f"field.setup={self.setup} field.variant={self.variant} {self.kernel_words}"
        return said.strip()


def platforms() -> list[Cell]:
    """Return each release, architecture and setup once (the paper, sections 4.1 and 4.3)."""
    return [
        Cell(f"{release}-{architecture}-{setup}", release, architecture, setup, ("setups", setup), "course")
        for setup in SETUPS
        for release in RELEASES
        for architecture in ARCHITECTURES
    ]


def clones() -> list[Cell]:
    """Return two guests of one image that compile at the same time (the paper, section 2 and Fig. 2)."""
    return [
        Cell(f"compile-{number}", "bookworm", "amd64", "compile", (), "compile", variant=number) for number in (1, 2)
    ]


def aslr() -> list[Cell]:
    """Return repeated boots of one desktop with randomisation, without that of processes, and without any (the paper,
    section 6.2 and Fig. 14). The paper's kernels had no kernel randomisation except PaX's.
    """
    with_and_without = [(kind, boot) for boot in range(1, BOOTS + 1) for kind in ("aslr", "noaslr")]
    neither = [("nokaslr", boot) for boot in range(1, BOOTS + 1)]
    return [
        Cell(
            f"{kind}-{boot}",
            "bookworm",
            "amd64",
            "desktop",
            (kind,),
            variant=boot,
            kernel_words=f"{FEW_PROGRAMS} {WORDS[kind]}",
        )
        for kind, boot in (*with_and_without, *neither)
    ]


# In the order of the run: the clones are adjacent, so that they run at the same time.
MATRIX: Final = (*clones(), *platforms(), *aslr())


def select_cells(cells: tuple[Cell, ...], patterns: list[str]) -> list[Cell]:
    """Return the cells with a name prefix in `patterns`; without patterns, all cells."""
    return [cell for cell in cells if not patterns or any(cell.name.startswith(one) for one in patterns)]
