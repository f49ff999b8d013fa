from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.errors import ConfigError
from samepaged.web.config_file import Identity, load, parse
from samepaged.web.config_schema import CIPHERS, WebConfig
from samepaged.web.tls import Unusable, context

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PAIR = {"cert_file": "server.crt", "key_file": "server.key"}


def refused(text: str | bytes) -> str:
    with pytest.raises(Unusable) as raised:
        parse(text.encode() if isinstance(text, str) else text)
    assert "\n" not in str(raised.value)
    assert HASH not in str(raised.value)
    return str(raised.value)


def tls(**keys: object) -> str:
    return yaml.safe_dump({"tls_server_config": PAIR | keys})


def test_exporter_toolkit_example_is_valid() -> None:
    config = parse(
        b"""
# TLS and basic authentication configuration example.
tls_server_config:
  cert_file: server.crt
  key_file: server.key
basic_auth_users:
  alice: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze
  bob: $2y$10$hLqFl9jSjoAAy95Z/zw8Ye8wkdMBM8c5Bn1ptYqP/AXyV0.oy0S8m
rate_limit:
  interval: "1s"
  burst: 20
"""
    )
    assert config.tls_server_config is not None
    assert config.tls_server_config.min_version == "TLS12"
    assert set(config.basic_auth_users) == {"alice", "bob"}
    assert (config.rate_limit.interval, config.rate_limit.burst) == (1.0, 20)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "basic_auth_users:\n", "tls_server_config:\n"])
def test_empty_file_is_valid(text: str) -> None:
    assert parse(text.encode()) == WebConfig()


def test_every_toolkit_key_is_supported() -> None:
    config = parse(
        yaml.safe_dump(
            {
                "tls_server_config": {
                    **PAIR,
                    "client_auth_type": "RequireAndVerifyClientCert",
                    "client_ca_file": "ca.crt",
                    "client_allowed_sans": ["prometheus.example", "192.0.2.1"],
                    "min_version": "TLS12",
                    "max_version": "TLS13",
                    "cipher_suites": list(CIPHERS),
                    "prefer_server_cipher_suites": False,
                    "curve_preferences": ["X25519"],
                },
                "http_server_config": {
                    "http2": False,
                    "headers": {
                        "Content-Security-Policy": "default-src 'self'",
                        "X-Frame-Options": "sameorigin",
                        "X-Content-Type-Options": "nosniff",
                        "X-XSS-Protection": "",
                        "Strict-Transport-Security": "max-age=60",
                    },
                },
                "basic_auth_users": {"alice": HASH},
                "rate_limit": {"interval": "1m30s", "burst": 1},
            }
        ).encode()
    )
    assert config.rate_limit.interval == 90
    assert "X-XSS-Protection" not in config.http_server_config.headers  # blank: not set


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "tls_server_conf: {}",
            "tls_server_conf: unknown key; remove it, or see docs/operate/web.md for the valid keys",
        ),
        (tls(certfile="x"), "tls_server_config.certfile: unknown key;"),
        ("tls_server_config: {}", "tls_server_config: cert_file is missing; set it,"),
        ("tls_server_config: {cert_file: a}", "tls_server_config: key_file is missing;"),
        ("tls_server_config: {min_version: TLS13}", "tls_server_config: cert_file is missing;"),
        (tls(cert="PEM"), "cert and cert_file are both set; remove one of them"),
        (tls(client_auth_type="Sometimes"), "is unknown; use NoClientCert, VerifyClientCertIfGiven or"),
        (tls(client_auth_type="RequestClientCert"), "use VerifyClientCertIfGiven"),
        (tls(client_auth_type="RequireAnyClientCert"), "use RequireAndVerifyClientCert"),
        (tls(client_auth_type="RequireClientCert"), "use RequireAndVerifyClientCert"),
        (tls(client_auth_type="RequireAndVerifyClientCert"), "needs a client_ca_file; set it"),
        (tls(client_ca_file="ca.crt"), "client_ca_file has no effect with client_auth_type NoClientCert"),
        (tls(client_allowed_sans=["a"]), "client_allowed_sans needs client_auth_type"),
        (tls(min_version="TLS11"), "TLS11 is not supported; use TLS12 or TLS13"),
        (tls(max_version="SSL3"), "is unknown; use TLS12 or TLS13"),
        (tls(min_version="TLS13", max_version="TLS12"), "max_version is below min_version; raise it"),
        (tls(cipher_suites=["TLS_RSA_WITH_RC4_128_SHA"]), "is unknown or insecure; use some of TLS_AES"),
        (tls(curve_preferences=["P-256"]), "is unknown; use CurveP256,"),
        (tls(cipher_suites="all"), "tls_server_config.cipher_suites: must be a list;"),
        (tls(prefer_server_cipher_suites="yes"), "must be true or false;"),
        ("http_server_config: {headers: {Server: x}}", "a header is not configurable; use some of Content-Security"),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "X-Frame-Options has an invalid value; use deny or sameorigin",
        ),
        (
            'http_server_config: {headers: {Content-Security-Policy: "a\\r\\nSet-Cookie: b"}}',
            "use ASCII, on one line",
        ),
        ("http_server_config: {http2: 1}", "http_server_config.http2: must be true or false;"),
        ("basic_auth_users: [alice]", "basic_auth_users: must be a mapping;"),
        ("basic_auth_users: {alice: secret}", "the value of user 1 is not a bcrypt hash; create one with"),
        (f"basic_auth_users: {{bob: '{HASH}', alice: '{HASH}x'}}", "the value of user 2 is not a bcrypt hash"),
        (f"basic_auth_users: {{alice: '{HASH.replace('$2y$', '$2$')}'}}", "the value of user 1 is not a bcrypt hash"),
        (f"basic_auth_users: {{alice: '{HASH.replace('$10$', '$31$')}'}}", "cost outside 4 to 16; use 10 to 12"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "the name of user 1 has a colon;"),
        ("basic_auth_users: {1: x}", "the value of user 1 is not a bcrypt hash"),
        ("rate_limit: {interval: 1}", "rate_limit.interval: is not a duration; use for example 1s,"),
        ("rate_limit: {interval: 1 s}", "rate_limit.interval: is not a duration;"),
        ("rate_limit: {interval: 9999h}", "rate_limit.interval: is longer than a day; use less"),
        ("rate_limit: {interval: 1s}", "burst is 0, so every request is refused; use at least 1"),
        ("rate_limit: {burst: -1}", "rate_limit.burst: is too small; use at least 0"),
        ("[]", "must be a mapping;"),
        ("a: [", "line 1: is not YAML; correct it"),
        (b"\xff\xfe\x00", "is not YAML; correct it"),
        ("basic_auth_users: !!python/object:os.system {}", "line 1: has a tag (!name); remove it"),
        (f"basic_auth_users: {{a: '{HASH}', a: '{HASH}'}}", "has a key twice in one mapping; remove one of them"),
        ("a: &x 1\nb: *x", "has an alias (*name); replace it with the value"),
        ("[" * 10_000, "is nested too deeply;"),
        ("a: 2001-99-99", "a: unknown key;"),
        ("a: !!timestamp x", "has a tag (!name);"),
        ("a: !!bool x", "has a tag (!name);"),
        ('a: "\\UFFFFFFFF"', "is not YAML;"),
    ],
)
def test_errors_are_one_line_with_remedy(text: str | bytes, problem: str) -> None:
    assert problem in refused(text)


ANCHOR = {"basic_auth_users": {"alice": HASH}}


@given(st.binary(max_size=300))
@example(yaml.safe_dump(ANCHOR).encode())
def test_any_bytes_load_or_raise(text: bytes) -> None:
    try:
        parse(text)
    except Unusable as unusable:
        assert "\n" not in str(unusable)
        assert text != yaml.safe_dump(ANCHOR).encode()


KEYS = [
    *WebConfig.model_fields,
    "cert_file",
    "key_file",
    "min_version",
    "headers",
    "http2",
    "interval",
    "burst",
    "alice",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1s", "TLS13", HASH, "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@example(ANCHOR)
def test_any_values_load_or_raise(data: object) -> None:
    try:
        parse(yaml.safe_dump(data).encode())
    except Unusable as unusable:
        assert "\n" not in str(unusable)
        assert data != ANCHOR


def loaded(path: Path) -> str:
    seen: dict[Path, Identity] = {}
    with pytest.raises(ConfigError) as raised:
        load(path, seen)
    assert path in seen
    assert raised.value.exit_status == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    assert loaded(path).startswith(f"{path}: cannot be read: No such file or directory; correct its name, or make")


def test_problems_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "web\nconfig.yaml"
    path.write_text("tls: {}")
    assert loaded(path) == (
        f"{tmp_path}/web\\nconfig.yaml: tls: unknown key; remove it, or see docs/operate/web.md for the valid keys"
    )


def test_non_files_are_not_read(tmp_path: Path) -> None:
    assert "is not a regular file; use a regular file" in loaded(Path("/dev/zero"))
    assert "cannot be read: invalid file name" in loaded(Path("a\0b"))
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    assert "is larger than 1048576 bytes" in loaded(large)


def test_paths_are_relative_to_config(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(tls())
    assert loaded(path).startswith(
        f"{path}: tls_server_config.cert_file: {tmp_path}/server.crt cannot be read: No such"
    )


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\0" * 100])
def test_invalid_certificate_is_refused_silently(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(tls())
    (tmp_path / "server.crt").write_bytes(content)
    (tmp_path / "server.key").write_bytes(content)
    assert "certificate and key are not a pair in PEM, or the key is encrypted" in loaded(path)


def build(**keys: object) -> str:
    """Return the error of a context with invalid certificates."""
    config = parse(tls(**keys).encode()).tls_server_config
    assert config is not None
    with pytest.raises(Unusable) as raised:
        context(config, cert=b"", key=b"", client_ca=b"not PEM" if config.client_ca_file else b"")
    return str(raised.value)


def test_invalid_client_ca_is_refused() -> None:
    said = build(client_auth_type="RequireAndVerifyClientCert", client_ca_file="ca")
    assert "tls_server_config.client_ca: no certificates in PEM" in said


def test_tls_1_2_needs_its_ciphers() -> None:
    assert "none of them is for TLS 1.2; add one" in build(
        cipher_suites=["TLS_AES_128_GCM_SHA256"], max_version="TLS12"
    )
    assert "certificate and key" in build(cipher_suites=["TLS_AES_128_GCM_SHA256"])


@pytest.mark.parametrize("name", [name for name, openssl in CIPHERS.items() if openssl])
def test_every_cipher_is_in_openssl(name: str) -> None:
    assert "certificate and key" in build(cipher_suites=[name])


@pytest.mark.parametrize("name", ["CurveP256", "CurveP384", "CurveP521", "X25519"])
def test_every_curve_is_in_openssl(name: str) -> None:
    assert "certificate and key" in build(curve_preferences=[name])
