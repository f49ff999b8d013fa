"""Escapes for text from outside, such as names of domains: libvirt allows nearly any character in them."""

from __future__ import annotations

import json

__all__ = ["printable", "quoted", "valid"]


def printable(text: str) -> str:
    """`text` with each character that cannot be printed as an escape: control, unassigned and format characters, such
    as right-to-left override.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quoted(text: str) -> str:
    """`text` as a JSON string that fits on one line: it cannot end the line, nor the quotation."""
    string = json.dumps(text, ensure_ascii=False)
    return string if string.isprintable() else json.dumps(text).replace("\x7f", "\\u007f")


def valid(text: str) -> str:
    r"""`text` as valid Unicode, which JSON and Prometheus require: a lone surrogate (how Python carries a byte that is
    not UTF-8) becomes the six characters of its escape, `\udcff`.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
