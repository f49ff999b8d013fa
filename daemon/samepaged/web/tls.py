"""From certificates and settings to an SSL context, and whom a client's certificate names."""

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
    """The context for new connections; certificates and key in PEM. Raises Unusable."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version, made.maximum_version = VERSIONS[tls.min_version], VERSIONS[tls.max_version]
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if not tls.prefer_server_cipher_suites:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # No resumption in TLS 1.3: a client whose certificate is no longer taken must not come in by an older session.
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
    """Whether the client of a finished handshake is one of `client_allowed_sans`, where that is set."""
    certificate: dict[str, Any] | None = connection.getpeercert()
    if tls.client_allowed_sans is None or not certificate:
        return True
    found = {_name(kind, value) for kind, value in certificate.get("subjectAltName", ())}
    return not found.isdisjoint(tls.client_allowed_sans)


def _name(kind: str, value: str) -> str:
    """A name as Go writes it. Only addresses differ: ssl writes those of IPv6 in full."""
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
            raise Unusable("tls_server_config.cipher_suites: OpenSSL has none of them", "name others") from None
    elif tls.max_version == "TLS13":
        made.minimum_version = ssl.TLSVersion.TLSv1_3  # no suite of TLS 1.2 is allowed
    else:
        raise Unusable("tls_server_config.cipher_suites: none is of TLS 1.2", "add one, or let max_version be TLS13")


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
            "tls_server_config.curve_preferences: this Python can set one curve only",
            "name one, or leave it out for all that are secure",
        )


def _load_certificate(made: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    # ssl reads files only. What was read once stays what it is, in a file without a name.
    descriptor = os.memfd_create("certificate")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(cert + b"\n" + key + b"\n")
        # An encrypted key would have OpenSSL ask the terminal.
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise Unusable(
            f"tls_server_config: certificate and key are no pair in PEM, or the key is encrypted{_reason(error)}",
            "correct cert_file or key_file",
        ) from None
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """OpenSSL's words, where it has any; they do not repeat what the file holds."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return f" ({reason.lower().replace('_', ' ')})" if reason else ""
