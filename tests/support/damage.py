"""Damage to the bytes of a file."""

from __future__ import annotations

__all__ = ["damaged"]


def damaged(content: bytes, place: float, damage: int | None) -> bytes:
    """Return the bytes with one of them changed by `damage` (0: none), or truncated there if `damage` is None. `place`
    is the position as a fraction of the length, from 0 to 1.
    """
    at = int(place * len(content))
    return content[:at] if damage is None else content[:at] + bytes((content[at] ^ damage,)) + content[at + 1 :]
