"""Base class of the configuration's sections, and types of their texts and patterns for domain names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, WithJsonSchema

from samepaged.errors import InvalidValueError

__all__ = ["MAX_TEXT_CHARS", "Patterns", "Section", "SomePatterns", "Text", "matches"]

MAX_TEXT_CHARS: Final = 1000


def _reasonable(text: str) -> str:
    if not text.strip():
        raise InvalidValueError("is empty", "write a text")
    # Names and URIs are much shorter, and a pattern's cost grows with the square of its length.
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidValueError(f"has {len(text)} characters", f"use at most {MAX_TEXT_CHARS}")
    return text


def _not_empty(patterns: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's min_length counts items after validation: it would report a list with one bad item twice.
    if not patterns:
        raise InvalidValueError("is an empty list", "write at least one pattern")
    return patterns


Text = Annotated[StrictStr, AfterValidator(_reasonable)]
Pattern = Annotated[Text, WithJsonSchema({"format": "pattern"})]
Patterns = tuple[Pattern, ...]
SomePatterns = Annotated[Patterns, AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]


class Section(BaseModel):
    """A mapping of the configuration: immutable, unknown keys refused. Docstrings of keys are the reference
    documentation, in Markdown (tools/generate/configuration.py); a path such as docs/operate/web.md becomes a link.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell patterns matches the domain `name`, case-sensitively."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
