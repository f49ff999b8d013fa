"""The keys of the web configuration file, in the format of the Prometheus exporter-toolkit (web-configuration.md).

Settings that Python's ssl does not support are errors, with an alternative as the remedy (docs/operate/web.md).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic import model_validator as whole

from samepaged.errors import InvalidValueError

__all__ = ["CIPHERS", "CURVES", "HttpServer", "RateLimiting", "TlsServer", "TlsVersion", "WebConfig"]

# Names in Go of the cipher suites that crypto/tls lists as secure, and OpenSSL's names for them. The suites of TLS 1.3
# are not configurable, neither in Go nor in Python's ssl.
CIPHERS: Final = {
    "TLS_AES_128_GCM_SHA256": None,
    "TLS_AES_256_GCM_SHA384": None,
    "TLS_CHACHA20_POLY1305_SHA256": None,
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
# Configurable headers, and their valid values if the toolkit restricts them.
HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
UNVERIFIED: Final = {
    "RequestClientCert": "VerifyClientCertIfGiven",
    "RequireAnyClientCert": "RequireAndVerifyClientCert",
    "RequireClientCert": "RequireAndVerifyClientCert",
}
BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
COSTS: Final = range(4, 17)
GO_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_INTERVAL_SECONDS: Final = 86400.0


def _verified(name: str) -> str:
    if name in UNVERIFIED:
        raise InvalidValueError(f"{name} accepts unverified certificates", f"use {UNVERIFIED[name]}")
    known = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
    if name not in ("", *known):
        raise InvalidValueError("is unknown", f"use {', '.join(known[:-1])} or {known[-1]}")
    return name or known[0]


def _cipher(name: str) -> str:
    if name not in CIPHERS:
        raise InvalidValueError("is unknown or insecure", f"use some of {', '.join(CIPHERS)}")
    return name


def _curve(name: str) -> str:
    if name not in CURVES:
        raise InvalidValueError("is unknown", f"use {', '.join(CURVES)}")
    return name


def _version(name: str) -> str:
    if name in {"TLS10", "TLS11"}:
        raise InvalidValueError(f"{name} is not supported", "use TLS12 or TLS13")
    if name not in {"TLS12", "TLS13"}:
        raise InvalidValueError("is unknown", "use TLS12 or TLS13")
    return name


def _header_values(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name not in HEADERS:
            raise InvalidValueError("a header is not configurable", f"use some of {', '.join(HEADERS)}")
        if HEADERS[name] and value not in ("", *HEADERS[name]):
            raise InvalidValueError(f"{name} has an invalid value", f"use {' or '.join(HEADERS[name])}")
        if not (value.isascii() and value.isprintable()):
            raise InvalidValueError(f"{name} has a character that is invalid in a header", "use ASCII, on one line")
    return {name: value.strip() for name, value in headers.items() if value.strip()}


def _hashes(users: dict[str, str]) -> dict[str, str]:
    for number, (name, hashed) in enumerate(users.items(), start=1):
        if ":" in name:
            raise InvalidValueError(f"the name of user {number} has a colon", "use another name")
        found = BCRYPT.fullmatch(hashed)
        if not found:
            raise InvalidValueError(
                f"the value of user {number} is not a bcrypt hash", "create one with `htpasswd -nBC 10 NAME`"
            )
        if int(found[1]) not in COSTS:
            raise InvalidValueError(
                f"the hash of user {number} has a cost outside {COSTS[0]} to {COSTS[-1]}", "use 10 to 12"
            )
    return users


def _seconds(value: object) -> float:
    """Parse a duration in Go's form ("1s", "1m30s"), or 0."""
    if isinstance(value, str) and value != "0":
        parts = GO_DURATION.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise InvalidValueError("is not a duration", "use for example 1s, 500ms or 1m30s")
        seconds = sum(float(number) * GO_UNITS[unit] for number, unit in parts)
        if not seconds <= MAX_INTERVAL_SECONDS:
            raise InvalidValueError("is longer than a day", "use less")
        return seconds
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    raise InvalidValueError("is not a duration", "use for example 1s, 500ms or 1m30s")


TlsVersion = Literal["TLS12", "TLS13"]
Version = Annotated[StrictStr, AfterValidator(_version)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TlsServer(_Section):
    """Encryption of connections, and verification of client certificates."""

    cert: StrictStr = Field(default="", repr=False)
    key: StrictStr = Field(default="", repr=False)
    client_ca: StrictStr = ""
    cert_file: StrictStr = ""
    key_file: StrictStr = ""
    client_ca_file: StrictStr = ""
    client_auth_type: Annotated[StrictStr, AfterValidator(_verified)] = "NoClientCert"
    client_allowed_sans: tuple[StrictStr, ...] | None = None
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Annotated[StrictStr, AfterValidator(_cipher)], ...] = ()
    prefer_server_cipher_suites: StrictBool = True
    curve_preferences: tuple[Annotated[StrictStr, AfterValidator(_curve)], ...] = ()

    @whole(mode="after")
    def _check_tls(self) -> Self:
        for name in ("cert", "key"):
            inline, file = getattr(self, name), getattr(self, f"{name}_file")
            if not inline and not file:
                raise InvalidValueError(f"{name}_file is missing", "set it, or remove tls_server_config")
            if inline and file:
                raise InvalidValueError(f"{name} and {name}_file are both set", "remove one of them")
        authority = self.client_ca or self.client_ca_file
        if self.client_ca and self.client_ca_file:
            raise InvalidValueError("client_ca and client_ca_file are both set", "remove one of them")
        if authority and self.client_auth_type == "NoClientCert":
            raise InvalidValueError(
                "client_ca_file has no effect with client_auth_type NoClientCert", "use RequireAndVerifyClientCert"
            )
        if not authority and self.client_auth_type != "NoClientCert":
            raise InvalidValueError(f"client_auth_type {self.client_auth_type} needs a client_ca_file", "set it")
        if self.client_allowed_sans is not None and self.client_auth_type == "NoClientCert":
            raise InvalidValueError("client_allowed_sans needs client_auth_type RequireAndVerifyClientCert", "set it")
        if self.min_version > self.max_version:
            raise InvalidValueError("max_version is below min_version", "raise it")
        return self


class HttpServer(_Section):
    """Headers of every reply. `http2` is ignored: the server uses HTTP/1.1."""

    http2: StrictBool = True
    headers: Annotated[dict[StrictStr, StrictStr], AfterValidator(_header_values)] = {}


class RateLimiting(_Section):
    """One request per `interval` (seconds; 0: unlimited), with bursts of up to `burst` requests."""

    interval: Annotated[float, BeforeValidator(_seconds)] = 0.0
    burst: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0

    @whole(mode="after")
    def _check_burst(self) -> Self:
        if self.interval and not self.burst:
            raise InvalidValueError("burst is 0, so every request is refused", "use at least 1")
        return self


def _none_as_default(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Treat a section without a value as an absent section, as the toolkit does."""
    return {} if value is None else value


class WebConfig(_Section):
    """The whole file. `WebConfig()`: without encryption and authentication."""

    tls_server_config: TlsServer | None = None
    http_server_config: Annotated[HttpServer, BeforeValidator(_none_as_default)] = HttpServer()
    basic_auth_users: Annotated[
        dict[StrictStr, StrictStr], BeforeValidator(_none_as_default), AfterValidator(_hashes), Field(repr=False)
    ] = {}
    rate_limit: Annotated[RateLimiting, BeforeValidator(_none_as_default)] = RateLimiting()
