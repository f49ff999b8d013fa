"""The web configuration file, in the exporter-toolkit's format."""

from __future__ import annotations

from typing import Final

import bcrypt

from samepaged.errors import ConfigError, Fault
from samepaged.escape import printable
from samepaged.web.auth import Authenticator, RateLimit
from samepaged.web.config_file import parse
from samepaged.web.config_schema import CIPHERS, COSTS, CURVES, HEADERS
from samepaged.web.tls import Unusable
from tests.fuzz.target import Target

HASH: Final = b"$2b$04$abcdefghijklmnopqrstuuAbCdEfGhIjKlMnOpQrStUvWxYz01234"
CHEAP: Final = f"${COSTS[0]:02}$"
TLS: Final = b"tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n"
WORDS: Final = (
    *(
        b"tls_server_config:\n",
        b"http_server_config:\n",
        b"basic_auth_users:\n",
        b"rate_limit:\n",
        b"  cert_file: ",
        b"  key: ",
    ),
    *(
        b"  client_ca_file: ca.pem\n",
        b"  client_auth_type: ",
        b"RequireAndVerifyClientCert",
        b"VerifyClientCertIfGiven",
    ),
    *(
        b"  client_allowed_sans: [a, '::1']\n",
        b"  min_version: TLS12\n",
        b"  max_version: TLS13\n",
        b"TLS10",
        b"NoClientCert",
    ),
    *(
        b"  cipher_suites: [",
        b"  curve_preferences: [",
        b"  http2: ",
        b"  headers:\n",
        b"    ",
        b"interval: ",
        b"burst: ",
    ),
    *(name.encode() for name in (*CIPHERS, *CURVES, *HEADERS)),
    *(
        b"1m30s",
        b"9" * 400 + b"h",
        b"500ms",
        b"nosniff",
        HASH,
        b"$2y$17$",
        b"null",
        b"true",
        b"- ",
        b"? ",
        b": ",
        b"{",
        b"}",
    ),
    *(
        b"!!int ''",
        b"!!bool x",
        b"!!float ''",
        b"!!timestamp x",
        b"!!binary =",
        b"!!set {a}",
        b"!!python/none ''",
        b"<<: {}",
    ),
    *(
        b'"\\UFFFFFFFF"',
        b'"\\ud800"',
        b'"\\0"',
        b"2001-99-99",
        b"1:1:1",
        b"0b_",
        b".inf",
        b"=",
        b"&a",
        b"*a",
        b"[" * 30,
        b"%YAML 1.1\n---\n",
    ),
)


def check(data: bytes) -> None:
    try:
        config = parse(data)
    except Unusable as unusable:
        raise ConfigError(Fault(printable(unusable.problem), unusable.remedy)) from None  # as config_file.load does
    tls = config.tls_server_config
    if tls is not None:
        assert tls.cert or tls.cert_file
        assert tls.key or tls.key_file
        assert set(tls.cipher_suites) <= set(CIPHERS)
        assert set(tls.curve_preferences) <= set(CURVES)
        assert tls.min_version <= tls.max_version
        assert (tls.client_auth_type == "NoClientCert") == (not tls.client_ca and not tls.client_ca_file)
    for name, value in config.http_server_config.headers.items():
        assert name in HEADERS
        assert value.isascii()
        assert value.isprintable()
    limit = config.rate_limit
    assert 0 <= limit.interval <= 86400
    assert RateLimit(limit.interval, limit.burst, lambda: 0.0).admits()
    users = config.basic_auth_users
    Authenticator(users)
    for name, hashed in users.items():
        assert ":" not in name
        assert hashed not in repr(config)
        if CHEAP in hashed:
            assert not bcrypt.checkpw(b"", hashed.encode())


TARGET = Target(
    check,
    seeds=(
        b"",
        TLS,
        TLS + b"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  client_allowed_sans: [a]\n",
        TLS + b"  min_version: TLS13\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  curve_preferences: [X25519]\n",
        b"tls_server_config:\n  cert: |\n    -----BEGIN CERTIFICATE-----\n  key: 'a'\n  client_auth_type: ''\n",
        b"http_server_config:\n  http2: false\n  headers: {X-Frame-Options: deny, Strict-Transport-Security: a}\n",
        b"basic_auth_users:\n  alice: " + HASH + b"\n  bob: " + HASH + b"\n",
        b"rate_limit:\n  interval: 1m30s\n  burst: 20\n",
        b"basic_auth_users:\nrate_limit: {interval: 0}\nhttp_server_config:\n",
    ),
    words=WORDS,
    refusals=(ConfigError,),
    longest=768,
)
