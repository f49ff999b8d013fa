"""Checks of the libvirt connection and of this user's privileges in libvirt."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.doctor.check import Check, failure, from_error, ok, warning
from samepaged.errors import GuestError, HypervisorError
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.hypervisor.protocol import Hypervisor

__all__ = ["Access", "connect", "connection_checks", "probe_access"]

NAME: Final = "libvirt"
RIGHTS: Final = "libvirt rights"


@dataclass(frozen=True, slots=True)
class Access:
    """Result of a connection attempt. `versions`: those of libvirt and QEMU, None without a connection. `may_change`:
    whether libvirt accepts calls that change state. `error`: the error of the read-write connection, if any.
    """

    uri: str
    versions: tuple[str, str] | None
    may_change: bool
    error: Exception | None = None


def connection_checks(access: Access, user: str) -> list[Check]:
    """Check whether libvirt responds with the QEMU driver, and whether this user may suspend guests, as far as libvirt
    reports it without a suspend.
    """
    if access.versions is None:
        error = access.error or HypervisorError(f"libvirt at {access.uri!r} cannot be reached")
        return [
            from_error(NAME, error, "systemctl start libvirtd (or virtqemud), and check libvirt.uri"),
            warning(
                RIGHTS,
                "not checked, like the guests, because libvirt is not connected",
                "fix the libvirt connection first",
            ),
        ]
    libvirt, qemu = access.versions
    first = ok(NAME, f"{access.uri}: libvirt {libvirt}, QEMU {qemu}")
    if access.may_change:
        return [
            first,
            ok(
                RIGHTS,
                f"user {user} may suspend guests; if an access driver of libvirt is enabled (access_drivers), it can "
                "still refuse single guests at the suspend",
            ),
        ]
    why = "" if access.error is None else f" ({' '.join(str(access.error).split())})"
    return [
        first,
        failure(
            RIGHTS,
            f"user {user} has read-only access, and may not suspend guests{why}",
            "run it as root (sudo) or as the unit's user samepaged, a member of group libvirt. If libvirt.uri names a "
            "socket, use the read-write socket",
        ),
    ]


@contextmanager
def connect(uri: str) -> Iterator[tuple[Hypervisor | None, Access]]:
    """Connect; if libvirt refuses a read-write connection, connect read-only. The connection is closed on exit."""
    hypervisor = LibvirtHypervisor(uri)
    refused: Exception | None = None
    try:
        hypervisor.connect()
    except HypervisorError as error:
        refused = error
        hypervisor = LibvirtHypervisor(uri, read_only=True)
        try:
            hypervisor.connect()
        except HypervisorError:
            yield None, Access(uri, None, may_change=False, error=refused)
            return
    try:
        yield hypervisor, probe_access(hypervisor, refused)
    finally:
        hypervisor.close()


def probe_access(hypervisor: Hypervisor, read_only_error: Exception | None) -> Access:
    """Return the access of an open connection. `read_only_error`: the reason for a read-only connection, or None."""
    try:
        versions = hypervisor.versions()
        may_change = read_only_error is None and hypervisor.may_change()
    except (GuestError, HypervisorError) as error:
        return Access(hypervisor.uri, None, may_change=False, error=error)
    return Access(hypervisor.uri, versions, may_change=may_change, error=read_only_error)
