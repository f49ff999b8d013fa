"""The idioms that a reader stumbles over, and the highest rate of each that documentation may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SENTENCE_END: Final = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])[\"')]*\s+")
WORD: Final = re.compile(r"[A-Za-z0-9][\w'./%+-]*")


@dataclass(frozen=True)
class Pattern:
    """An idiom with its highest rate per 1,000 words. `banned`: each occurrence outside the exceptions is an error."""

    name: str
    regex: re.Pattern[str]
    at_most: float
    banned: bool = False


def _pattern(name: str, regex: str, at_most: float, *, banned: bool = False) -> Pattern:
    return Pattern(name, re.compile(regex, re.IGNORECASE), at_most, banned)


PATTERNS: Final = (
    _pattern("who, whoever", r"\b(?:who|whoever|whom(?<!of whom))\b", 0.2, banned=True),
    _pattern("nobody, somebody, everybody", r"\b(?:nobody|somebody|everybody|anybody)\b", 0.1, banned=True),
    _pattern("whose, of which, of whom", r"\b(?:whose|of which|of whom)\b", 0.6),
    _pattern("is/has/are no X", r"\b(?:is|are|was|were|be|been|has|have|had) no\b(?! longer| more than)", 0.8),
    _pattern("what", r"\bwhat(?:ever)?\b", 2),
    _pattern("where", r"\bwhere(?:ver)?\b", 2),
    _pattern(
        "say, tell, know, think, hear",
        r"\b(?:say(?:s|ing)?|said|tell(?:s|ing)?|told|know(?:s|n|ing)?|knew|think(?:s|ing)?|thought|hear(?:s|d|ing)?)\b",
        1.2,
    ),
    _pattern("archaic", r"\b(?:anew|by and by|lest|hence|thereof|therein|whereby)\b", 0.1, banned=True),
)


def words(text: str) -> int:
    """The number of words in plain text."""
    return len(WORD.findall(text))


def sentence_lengths(text: str) -> list[int]:
    """The words of each sentence in plain text."""
    return [length for part in SENTENCE_END.split(text) if (length := words(part))]
