from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.web import auth
from samepaged.web.auth import Authenticator, Busy, RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable


def hashed(password: bytes, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).replace(b"$2b$", b"$%s$" % prefix, 1).decode()


ALICE = hashed(b"wonderland")


def basic(user: str, password: bytes, scheme: str = "Basic") -> bytes:
    return scheme.encode() + b" " + base64.b64encode(user.encode() + b":" + password)


def admits(one: Authenticator, authorization: bytes) -> bool:
    return asyncio.run(one.admits(authorization))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the hashes passed to bcrypt."""
    used: list[bytes] = []
    real: Callable[[bytes, bytes], bool] = bcrypt.checkpw

    def checkpw(password: bytes, against: bytes) -> bool:
        used.append(against)
        return real(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return used


def test_no_users_means_open_access() -> None:
    assert admits(Authenticator({}), b"")


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_correct_password_is_admitted(scheme: str) -> None:
    assert admits(Authenticator({"alice": ALICE}), basic("alice", b"wonderland", scheme))


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        basic("alice", b"Wonderland"),
        basic("alice", b""),
        basic("Alice", b"wonderland"),
        basic("", b"wonderland"),
        basic("bob", b"wonderland"),
        basic("alice", b"wonderland", "Bearer"),
        b"Basic " + base64.b64encode(b"alicewonderland"),
        b"Basic !!!",
        b"Basic",
        b"Basic " + basic("alice", b"wonderland"),
    ],
)
def test_nobody_else_is(authorization: bytes) -> None:
    assert not admits(Authenticator({"alice": ALICE}), authorization)


@pytest.mark.parametrize("prefix", [b"2a", b"2b", b"2y"])
def test_every_bcrypt_variant_is_accepted(prefix: bytes) -> None:
    assert admits(Authenticator({"a": hashed(b"x", prefix)}), basic("a", b"x"))


def test_password_colons_and_72_bytes() -> None:
    assert admits(Authenticator({"a": hashed(b"x:y")}), basic("a", b"x:y"))
    assert admits(Authenticator({"a": hashed(b"x" * 72)}), basic("a", b"x" * 100))


@given(st.binary(max_size=100))
def test_no_header_is_too_strange(authorization: bytes) -> None:
    assert not admits(Authenticator({"alice": ALICE}), authorization)
    assert not admits(Authenticator({"alice": ALICE}), b"Basic " + base64.b64encode(authorization))


def test_only_successful_logins_are_cached(checks: list[bytes]) -> None:
    one = Authenticator({"alice": ALICE})
    for _ in range(3):
        assert admits(one, basic("alice", b"wonderland"))
    assert len(checks) == 1
    for _ in range(3):
        assert not admits(one, basic("alice", b"x"))
    assert len(checks) == 4
    assert admits(one, basic("alice", b"wonderland"))
    assert len(checks) == 4


def test_unknown_user_takes_equal_time(checks: list[bytes]) -> None:
    one = Authenticator({"alice": ALICE})
    assert not admits(one, basic("alice", b"x"))
    assert not admits(one, basic("nobody", b"x"))
    known, unknown = checks
    assert known != unknown
    assert known[:7] == unknown[:7] == b"$2b$04$"  # bcrypt, and its cost


def test_dummy_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: True)
    assert not admits(Authenticator({"alice": ALICE}), basic("nobody", b"x"))


def test_password_queue_is_bounded() -> None:
    one = Authenticator({"alice": ALICE})

    async def storm() -> list[bool | BaseException]:
        assert await one.admits(basic("alice", b"wonderland"))
        guesses = [one.admits(basic("alice", b"%d" % number)) for number in range(3 * auth.MAX_WAITING_PASSWORDS)]
        gathered = asyncio.gather(*guesses, return_exceptions=True)
        await asyncio.sleep(0)
        assert await one.admits(basic("alice", b"wonderland"))
        return list(await gathered)

    answers = asyncio.run(storm())
    assert sum(isinstance(answer, Busy) for answer in answers) == 2 * auth.MAX_WAITING_PASSWORDS
    assert answers.count(False) == auth.MAX_WAITING_PASSWORDS


def test_what_is_remembered_is_bounded(checks: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_CACHED_LOGINS", 2)
    one = Authenticator({name: hashed(b"x") for name in "abc"})
    for name in "abc":
        assert admits(one, basic(name, b"x"))
    assert len(checks) == 3
    assert admits(one, basic("c", b"x"))
    assert len(checks) == 3
    assert admits(one, basic("a", b"x"))
    assert len(checks) == 4


def test_rate_limit_allows_a_burst() -> None:
    now = 100.0
    limit = RateLimit(2.0, 3, lambda: now)
    assert [limit.admits() for _ in range(4)] == [True, True, True, False]
    now += 1.9
    assert not limit.admits()
    now += 0.2
    assert [limit.admits(), limit.admits()] == [True, False]
    now += 1000
    assert [limit.admits() for _ in range(4)] == [True, True, True, False]


def test_no_interval_means_no_limit() -> None:
    limit = RateLimit(0.0, 0)
    assert all(limit.admits() for _ in range(1000))
