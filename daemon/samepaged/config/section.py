"""What sections of the configuration are made of: texts, and patterns for names of domains."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, StrictStr

from samepaged.errors import InvalidValueError

__all__ = ["LONGEST_TEXT", "Patterns", "Section", "SomePatterns", "Text", "matches"]

LONGEST_TEXT: Final = 1000


def _reasonable(text: str) -> str:
    if not text.strip():
        raise InvalidValueError("is empty", "write a text")
    # No name or URI comes near it, and a pattern's cost grows with the square of its length.
    if len(text) > LONGEST_TEXT:
        raise InvalidValueError(f"has {len(text)} characters", f"use at most {LONGEST_TEXT}")
    return text


def _not_empty(patterns: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's own min_length counts items after validation: it would blame a list whose one item is bad twice.
    if not patterns:
        raise InvalidValueError("is an empty list", "write at least one pattern")
    return patterns


Text = Annotated[StrictStr, AfterValidator(_reasonable)]
Patterns = tuple[Text, ...]
SomePatterns = Annotated[Patterns, AfterValidator(_not_empty)]


class Section(BaseModel):
    """A mapping of the configuration: its keys are these and no others, and it is never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell's patterns is for the domain `name`; case counts."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
