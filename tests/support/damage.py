"""Damage to the bytes of a file."""

from __future__ import annotations

__all__ = ["damaged"]


def damaged(content: bytes, place: float, damage: int | None) -> bytes:
    """The bytes, one of them changed by `damage` (0: none), or cut there if that is None. `place` is the part of the
    bytes before it, as a ratio from 0 to 1.
    """
    at = int(place * len(content))
    return content[:at] if damage is None else content[:at] + bytes((content[at] ^ damage,)) + content[at + 1 :]
