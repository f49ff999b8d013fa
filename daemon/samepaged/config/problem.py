"""One thing that is wrong with a configuration, and how user text is shown in a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from samepaged.escape import printable as one_line

__all__ = ["Path", "Position", "Problem", "dotted_path", "one_line", "quote_value"]

Path = tuple[str | int, ...]
"""Where a value is in a configuration: keys of mappings and indices of lists, from the top."""

_MAX_VALUE_CHARS: Final = 60
_YAML_WORDS: Final = {None: "null", True: "true", False: "false"}
# What may be the seed of the hashes, wherever a slip of the pen has put it.
_SECRET_NUMBER: Final = re.compile(r"0x[0-9a-f]{6,}|[0-9]{10,}|[0-9a-f]{14,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A line and a column of a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a place; `text` is "what; remedy", and `path` is empty where no key is concerned."""

    position: Position
    path: Path
    text: str

    def describe(self, name: str) -> str:
        """`FILE:LINE:COLUMN: key.path: what; remedy`, for the file `name`: always one line, and without long numbers,
        of which any may be the seed.
        """
        key = f"{dotted_path(self.path)}: " if self.path else ""
        what = _SECRET_NUMBER.sub("...", f"{key}{self.text}")
        return f"{one_line(name)}:{self.position.line}:{self.position.column}: {what}"


def quote_value(value: object) -> str:
    """`value` as a message quotes it: one line, and short however long the value is."""
    if isinstance(value, str | list):
        value = value[: _MAX_VALUE_CHARS + 1]
    text = _YAML_WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 3]}..."


def dotted_path(path: Path) -> str:
    """`path` as people write it: `groups[0].name`."""
    steps = []
    for step in path:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            plain = (
                step.replace("_", "a").replace("-", "a").isalnum()
                and step.isprintable()
                and len(step) <= _MAX_VALUE_CHARS
            )
            steps.append(f".{step if plain else quote_value(step)}")
    return "".join(steps).removeprefix(".")
