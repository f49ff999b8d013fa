"""One thing that is wrong with a configuration, and how user text is shown in a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from samepaged.escape import printable as one_line

__all__ = ["Path", "Place", "Problem", "dotted", "one_line", "shown"]

Path = tuple[str | int, ...]
"""Where a value is in a configuration: keys of mappings and indices of lists, from the top."""

_LONGEST: Final = 60
_YAML_WORDS: Final = {None: "null", True: "true", False: "false"}
# What may be the seed of the hashes, wherever a slip of the pen has put it.
_LONG_NUMBER: Final = re.compile(r"0x[0-9a-f]{6,}|[0-9]{10,}|[0-9a-f]{14,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and a column of a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a place; `text` is "what; remedy", and `path` is empty where no key is concerned."""

    place: Place
    path: Path
    text: str

    def described(self, name: str) -> str:
        """`FILE:LINE:COLUMN: key.path: what; remedy`, for the file `name`: always one line, and without long numbers,
        of which any may be the seed.
        """
        key = f"{dotted(self.path)}: " if self.path else ""
        what = _LONG_NUMBER.sub("...", f"{key}{self.text}")
        return f"{one_line(name)}:{self.place.line}:{self.place.column}: {what}"


def shown(value: object) -> str:
    """`value` as a message quotes it: one line, and short however long the value is."""
    if isinstance(value, str | list):
        value = value[: _LONGEST + 1]
    text = _YAML_WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def dotted(path: Path) -> str:
    """`path` as people write it: `groups[0].name`."""
    steps = []
    for step in path:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            plain = step.replace("_", "a").replace("-", "a").isalnum() and step.isprintable() and len(step) <= _LONGEST
            steps.append(f".{step if plain else shown(step)}")
    return "".join(steps).removeprefix(".")
