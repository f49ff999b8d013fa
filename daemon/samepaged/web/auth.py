"""Who may ask, and how often: basic authentication with bcrypt, and a rate limit."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Authenticator", "Busy", "RateLimit"]

MAX_CACHED_LOGINS: Final = 128
MAX_WAITING_PASSWORDS: Final = 16
MAX_PASSWORD_BYTES: Final = 72  # bytes that bcrypt looks at
DEFAULT_COST: Final = 10
# One at a time, as a hash takes a core for a tenth of a second on purpose; it does not hold the interpreter meanwhile.
_hashing: Final = ThreadPoolExecutor(1, "bcrypt")


class Busy(Exception):  # noqa: N818 - no error of ours: there are too many passwords to be looked at
    """Too many other passwords wait to be checked."""


class Authenticator:
    """Admits the users of the web configuration file. `users` maps names to bcrypt hashes; none: everybody may ask."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {name.encode(): hashed.encode() for name, hashed in users.items()}
        # An unknown user is told so after as long a time as one who is known.
        cost = max((int(hashed.split("$")[2]) for hashed in users.values()), default=DEFAULT_COST)
        self._dummy_hash = f"$2b${cost:02}${'.' * 53}".encode()
        self._key = os.urandom(32)
        self._cached_logins: OrderedDict[bytes, None] = OrderedDict()
        self._waiting = 0

    async def admits(self, authorization: bytes) -> bool:
        """Whether the value of an Authorization header has a user's name and password. Raises Busy."""
        if not self._users:
            return True
        credentials = _basic_credentials(authorization)
        if credentials is None:
            return False
        name, password = credentials
        hashed = self._users.get(name, self._dummy_hash)
        # Only what was right is remembered: wrong passwords, of which there is no end, could push it out.
        proof = hmac.digest(self._key, hashlib.sha256(name).digest() + hashed + password, "sha256")
        if proof in self._cached_logins:
            self._cached_logins.move_to_end(proof)
            return True
        if not await self._check(password, hashed) or name not in self._users:
            return False
        self._cached_logins[proof] = None
        while len(self._cached_logins) > MAX_CACHED_LOGINS:
            self._cached_logins.popitem(last=False)
        return True

    async def _check(self, password: bytes, hashed: bytes) -> bool:
        if self._waiting >= MAX_WAITING_PASSWORDS:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(_hashing, _matches, password, hashed)
        except RuntimeError:  # the host has no room for a thread
            raise Busy from None
        finally:
            self._waiting -= 1


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], hashed)
    except ValueError:  # a NUL, which some versions refuse
        return False


def _basic_credentials(authorization: bytes) -> tuple[bytes, bytes] | None:
    """Name and password of RFC 7617, if these they are."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (name, password) if colon else None


class RateLimit:
    """A token bucket: one request each `interval` seconds, and `burst` at once after a quiet time; 0: no limit."""

    def __init__(self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._seen = clock()

    def admits(self) -> bool:
        """Whether one more request may be replied to now."""
        if self._interval == 0:
            return True
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) / self._interval)
        self._seen = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
