"""Log lines: a lower-case phrase, then details as `key=value`, as Prometheus' exporters have them."""

from __future__ import annotations

import re
from typing import Final

from samepaged.escape import printable, quoted

__all__ = ["details"]

PLAIN: Final = re.compile(r"[\w.:/@%+-]+", re.ASCII)
# Its value is always a JSON string, so that one `grep` finds all lines of a domain.
DOMAIN: Final = "domain"


def details(**values: object) -> str:
    """The values as ` key=value`, each with a space before it, in this order; None is left out.

    Text that is more than a word is a JSON string, so that no value can end the line or look like another detail.
    Numbers have at most six significant digits.
    """
    return "".join(f" {key}={_value(key, value)}" for key, value in values.items() if value is not None)


def _value(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(str(value))
    return text if key != DOMAIN and PLAIN.fullmatch(text) else quoted(str(value))
