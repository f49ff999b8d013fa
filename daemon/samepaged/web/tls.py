"""SSL contexts from certificates and settings, and the check of a client certificate's names."""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import TYPE_CHECKING, Any, Final

from samepaged.errors import SamepagedError
from samepaged.web.config_schema import CIPHERS, CURVES

if TYPE_CHECKING:
    from samepaged.web.config_schema import TlsServer

__all__ = ["Unusable", "admitted", "context"]

VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
VERIFY: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


class Unusable(SamepagedError):  # noqa: N818 - ConfigError, once the file's name is added
    """The web configuration file is not usable; `problem` lacks its name."""


def context(tls: TlsServer, *, cert: bytes, key: bytes, client_ca: bytes) -> ssl.SSLContext:
    """Return the context for new connections; certificates and key in PEM. Raises Unusable."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version, made.maximum_version = VERSIONS[tls.min_version], VERSIONS[tls.max_version]
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if not tls.prefer_server_cipher_suites:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # Without session resumption in TLS 1.3, a client cannot use an older session after its certificate is rejected.
    made.num_tickets = 0
    made.set_alpn_protocols(["http/1.1"])
    _choose_ciphers(made, tls)
    _choose_curves(made, tls)
    made.verify_mode = VERIFY[tls.client_auth_type]
    if client_ca:
        try:
            made.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise Unusable(
                f"tls_server_config.client_ca: no certificates in PEM{_reason(error)}", "correct the file"
            ) from None
    _load_certificate(made, cert, key)
    return made


def admitted(tls: TlsServer, connection: ssl.SSLObject) -> bool:
    """Return whether the client's certificate has a name in `client_allowed_sans`, if that is set. Call it after the
    handshake.
    """
    certificate: dict[str, Any] | None = connection.getpeercert()
    if tls.client_allowed_sans is None or not certificate:
        return True
    found = {_name(kind, value) for kind, value in certificate.get("subjectAltName", ())}
    return not found.isdisjoint(tls.client_allowed_sans)


def _name(kind: str, value: str) -> str:
    """Return a name in Go's form. Only IPv6 addresses differ: ssl does not abbreviate them."""
    if kind == "IP Address":
        try:
            return str(ipaddress.ip_address(value.strip()))
        except ValueError:
            return ""
    return value


def _choose_ciphers(made: ssl.SSLContext, tls: TlsServer) -> None:
    if not tls.cipher_suites:
        return
    names = [name for suite in tls.cipher_suites if (name := CIPHERS[suite])]
    if names:
        try:
            made.set_ciphers(":".join(names))
        except ssl.SSLError:
            raise Unusable("tls_server_config.cipher_suites: OpenSSL supports none of them", "use others") from None
    elif tls.max_version == "TLS13":
        made.minimum_version = ssl.TLSVersion.TLSv1_3  # no suite of TLS 1.2 is allowed
    else:
        raise Unusable(
            "tls_server_config.cipher_suites: none of them is for TLS 1.2", "add one, or set max_version to TLS13"
        )


def _choose_curves(made: ssl.SSLContext, tls: TlsServer) -> None:
    names = [CURVES[name] for name in tls.curve_preferences]
    if not names:
        return
    set_groups = getattr(made, "set_groups", None)  # Python 3.15
    if set_groups is not None:
        set_groups(":".join(names))
    elif len(names) == 1:
        made.set_ecdh_curve(names[0])
    else:
        raise Unusable(
            "tls_server_config.curve_preferences: this Python supports only one curve",
            "use one curve, or remove the key to allow all secure curves",
        )


def _load_certificate(made: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    # ssl reads certificates from files only. An anonymous file has exactly the content that was read before.
    descriptor = os.memfd_create("certificate")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(cert + b"\n" + key + b"\n")
        # Without a password function, OpenSSL would prompt for the password of an encrypted key on the terminal.
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise Unusable(
            f"tls_server_config: certificate and key are not a pair in PEM, or the key is encrypted{_reason(error)}",
            "correct cert_file or key_file",
        ) from None
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """Return OpenSSL's reason, if any. It does not contain data of the file."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return f" ({reason.lower().replace('_', ' ')})" if reason else ""
