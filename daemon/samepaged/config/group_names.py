"""Names of groups: validation, and templates that find them in names of domains."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, StrictStr, WithJsonSchema

from samepaged.config.section import MAX_TEXT_CHARS
from samepaged.errors import InvalidValueError
from samepaged.yaml_document import shown

__all__ = ["PLACEHOLDER", "GroupName", "Template", "group_in", "is_group_name"]

PLACEHOLDER: Final = "{group}"
"""Placeholder in a template for the part of a domain's name that is the group's name."""

_MAX_NAME_CHARS: Final = 128
_ADVICE: Final = f'write a template such as "{PLACEHOLDER}-*"'


def is_group_name(text: str) -> bool:
    """Whether `text` is a valid name of a group: the value of a label, readable for people."""
    return 0 < len(text) <= _MAX_NAME_CHARS and text.isprintable() and text == text.strip()


def _group_name(text: str) -> str:
    if not text.strip():
        raise InvalidValueError("is empty", "write a text")
    if len(text) > _MAX_NAME_CHARS:
        raise InvalidValueError(f"has {len(text)} characters", f"use at most {_MAX_NAME_CHARS}")
    if not is_group_name(text):
        raise InvalidValueError(
            f"{shown(text)} has a space at its end, or a character that cannot be printed", "remove it"
        )
    return text


def _template(text: str) -> str:
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidValueError(f"has {len(text)} characters", f"use at most {MAX_TEXT_CHARS}")
    if text.count(PLACEHOLDER) != 1:
        raise InvalidValueError(f"{shown(text)} does not contain {PLACEHOLDER} exactly once", _ADVICE)
    rest = text.replace(PLACEHOLDER, "")
    if odd := sorted(set("?[]{}").intersection(rest)):
        raise InvalidValueError(
            f"{shown(text)} contains {odd[0]}: only {PLACEHOLDER} and * stand for other text", _ADVICE
        )
    # With more than one, the start and end of the group are ambiguous.
    if rest.count("*") > 1:
        raise InvalidValueError(f"{shown(text)} has more than one *", _ADVICE)
    if f"*{PLACEHOLDER}" in text or f"{PLACEHOLDER}*" in text:
        raise InvalidValueError(
            f"{shown(text)} does not delimit the group", f"put a text between {PLACEHOLDER} and the *"
        )
    return text


def group_in(name: str, template: str) -> str | None:
    """The group that a template finds in the name of a domain, or None if the name does not match the template.

    The group is the shortest match: `{group}-*` ends it at the first hyphen, `*-{group}` begins it after the last one.
    Takes time in proportion to the name's length.
    """
    before, _, after = template.partition(PLACEHOLDER)
    if "*" in before:
        head, _, before = before.partition("*")
        stop = len(name) - len(after)
        start = name.rfind(before, len(head), max(stop, 0))
        matches = start >= 0 and name.startswith(head) and name.endswith(after)
    elif "*" in after:
        after, _, tail = after.partition("*")
        start, stop = 0, name.find(after, len(before))
        matches = stop >= 0 and name.startswith(before) and name.endswith(tail, stop + len(after))
    else:
        start, stop = 0, len(name) - len(after)
        matches = name.startswith(before) and name.endswith(after)
    group = name[start + len(before) : stop] if matches and start + len(before) < stop else ""
    return group if is_group_name(group) else None


GroupName = Annotated[
    StrictStr, AfterValidator(_group_name), WithJsonSchema({"type": "string", "maxLength": _MAX_NAME_CHARS})
]
"""The name of a group: printable, at most 128 characters."""

Template = Annotated[StrictStr, AfterValidator(_template), WithJsonSchema({"format": "template"})]
"""The form of a domain's name: `{group}` for its group, and at most one `*` for any other text."""
