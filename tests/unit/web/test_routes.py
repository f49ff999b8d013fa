from __future__ import annotations

import asyncio
import gzip

import pytest

from samepaged.web import auth as gates
from samepaged.web.auth import Authenticator, RateLimit
from samepaged.web.config_file import LoadedConfig
from samepaged.web.config_reload import ActiveConfig
from samepaged.web.config_schema import WebConfig
from samepaged.web.protocol import Document
from samepaged.web.request import Reply, Request
from samepaged.web.routes import STALE_SECONDS, Routes
from tests.support.clock import Clock
from tests.unit.web.client import OPENMETRICS, PAGES

ALICE = "$2b$04$" + "." * 53
OPEN = ActiveConfig(LoadedConfig(WebConfig(), None), Authenticator({}), RateLimit(0, 0))
PATHS = ("/", "/metrics", "/-/ready", "/-/healthy", "/nothing")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(clock: Clock) -> Routes:
    site = Routes(clock)
    site.show(PAGES)
    return site


def ask(site: Routes, path: str, now: ActiveConfig = OPEN, method: str = "GET", **headers: str) -> Reply:
    request = Request(method, path, headers.get("accept", ""), headers.get("accept_encoding", ""))
    return asyncio.run(site.reply(request, now))


def test_documents_have_status_and_type(site: Routes) -> None:
    assert (ask(site, "/metrics").status, ask(site, "/metrics").body) == (200, b"text\n")
    assert ask(site, "/metrics", accept="application/openmetrics-text").media_type == OPENMETRICS
    assert ask(site, "/-/ready").status == 503
    assert ask(site, "/-/healthy").status == 200


def test_negotiated_replies_have_vary(site: Routes) -> None:
    assert ("Vary", "Accept, Accept-Encoding") in ask(site, "/metrics").headers
    assert ("Vary", "Accept-Encoding") in ask(site, "/").headers


def test_unknown_path_lists_paths(site: Routes) -> None:
    reply = ask(site, "/nothing")
    assert reply.status == 404
    for path in PATHS[:-1]:
        assert path.encode() in reply.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"])
def test_only_get_and_head_are_allowed(site: Routes, method: str) -> None:
    reply = ask(site, "/metrics", method=method)
    assert reply.status == 405
    assert ("Allow", "GET, HEAD") in reply.headers


def test_large_document_is_compressed_once() -> None:
    site = Routes()
    body = b"samepage_up 1\n" * 1000
    site.show([Document("/metrics", "text/plain", body)])

    async def twice() -> tuple[Reply, Reply]:
        request = Request("GET", "/metrics", "", "gzip")
        return await site.reply(request, OPEN), await site.reply(request, OPEN)

    first, second = asyncio.run(twice())
    assert ("Content-Encoding", "gzip") in first.headers
    assert gzip.decompress(first.body) == body
    assert second.body is first.body
    assert ask(site, "/metrics", accept_encoding="gzip;q=0").body is body


def test_document_update_keeps_others(site: Routes) -> None:
    site.show([Document("/metrics", "text/plain", b"newer\n")])
    assert ask(site, "/metrics", accept="application/openmetrics-text").body == b"newer\n"
    assert ask(site, "/").body == b"<html>"


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/-/healthy"])
def test_disconnected_scanner_is_unhealthy(site: Routes, path: str) -> None:
    site.scanner_left()
    reply = ask(site, path)
    assert reply.status == 503
    assert reply.body == b"samepaged's scanner is not connected\n"
    assert ask(site, "/-/healthy").status == 200


def test_silent_scanner_is_stale(site: Routes, clock: Clock) -> None:
    clock.now += STALE_SECONDS
    assert ask(site, "/metrics").status == 200
    clock.now += 0.1
    assert ask(site, "/metrics").status == 503
    site.show(())
    assert ask(site, "/metrics").body == b"text\n"


def test_no_documents_before_scanner_connects() -> None:
    assert ask(Routes(), "/metrics").status == 503


def with_users(**more: object) -> ActiveConfig:
    config = WebConfig.model_validate({"basic_auth_users": {"alice": ALICE}, **more})
    return ActiveConfig(LoadedConfig(config, None), Authenticator(config.basic_auth_users), RateLimit(0, 0))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_path_needs_a_password(site: Routes, path: str, method: str) -> None:
    reply = ask(site, path, with_users(), method)
    assert reply.status == 401
    assert ("WWW-Authenticate", 'Basic realm="samepaged", charset="UTF-8"') in reply.headers
    assert b"text" not in reply.body


def test_password_overload_is_unavailable(site: Routes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MAX_WAITING_PASSWORDS", 0)
    request = Request("GET", "/metrics", authorization=b"Basic YTpi")
    assert asyncio.run(site.reply(request, with_users())).status == 503


def test_configured_headers_are_on_replies(site: Routes) -> None:
    headers = {"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'"}
    for path in PATHS:
        reply = ask(site, path, with_users(http_server_config={"headers": headers}))
        assert headers.items() <= dict(reply.headers).items()


def test_replies_forbid_type_sniffing(site: Routes) -> None:
    for path in PATHS:
        assert ("X-Content-Type-Options", "nosniff") in ask(site, path).headers


def test_policy_allows_only_inline_style(site: Routes) -> None:
    for path in PATHS:
        policy = dict(ask(site, path).headers)["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "style-src 'unsafe-inline'", "frame-ancestors 'none'"} <= set(policy)


def test_rate_limit_precedes_authentication(site: Routes) -> None:
    config = with_users()
    limited = ActiveConfig(config.loaded, config.gate, RateLimit(3600, 2))
    assert [ask(site, "/metrics", limited).status for _ in range(3)] == [401, 401, 429]
