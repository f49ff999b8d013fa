"""Access control: basic authentication with bcrypt, and a rate limit."""

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
MAX_PASSWORD_BYTES: Final = 72  # bcrypt ignores further bytes
DEFAULT_COST: Final = 10
# One thread, because a hash deliberately uses a core for 0.1 s. bcrypt releases the interpreter lock.
_hashing: Final = ThreadPoolExecutor(1, "bcrypt")


class Busy(Exception):  # noqa: N818 - a state of the load, not an error
    """Too many other passwords are waiting for their check."""


class Authenticator:
    """Admits the users of the web configuration file. `users` maps names to bcrypt hashes; if empty, every request is
    admitted.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {name.encode(): hashed.encode() for name, hashed in users.items()}
        # The check of an unknown user takes as long as that of a known user.
        cost = max((int(hashed.split("$")[2]) for hashed in users.values()), default=DEFAULT_COST)
        self._dummy_hash = f"$2b${cost:02}${'.' * 53}".encode()
        self._key = os.urandom(32)
        self._cached_logins: OrderedDict[bytes, None] = OrderedDict()
        self._waiting = 0

    async def admits(self, authorization: bytes) -> bool:
        """Return whether the value of an Authorization header has the name and password of a user. Raises Busy."""
        if not self._users:
            return True
        credentials = _basic_credentials(authorization)
        if credentials is None:
            return False
        name, password = credentials
        hashed = self._users.get(name, self._dummy_hash)
        # Cache valid logins only: an unlimited number of wrong passwords could evict them.
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
        except RuntimeError:  # the host cannot start another thread
            raise Busy from None
        finally:
            self._waiting -= 1


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], hashed)
    except ValueError:  # some versions of bcrypt refuse a NUL byte
        return False


def _basic_credentials(authorization: bytes) -> tuple[bytes, bytes] | None:
    """Return name and password by RFC 7617, or None if the header has another form."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (name, password) if colon else None


class RateLimit:
    """A token bucket: one request per `interval` seconds (0: unlimited), with bursts of up to `burst` requests."""

    def __init__(self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._seen = clock()

    def admits(self) -> bool:
        """Return whether another request is within the limit now, and count it."""
        if self._interval == 0:
            return True
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) / self._interval)
        self._seen = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
