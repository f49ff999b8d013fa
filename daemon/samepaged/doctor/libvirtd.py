"""libvirt: whether it answers, and what it lets this user do."""

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
    """What came of connecting: libvirt's and QEMU's versions (None: no connection at all), whether calls that change
    something are taken, and the error of the connection for reading and writing, where there was one.
    """

    uri: str
    versions: tuple[str, str] | None
    may_change: bool
    error: Exception | None = None


def connection_checks(access: Access, user: str) -> list[Check]:
    """Whether libvirt answers with QEMU's driver, and whether this user may suspend guests, as far as it tells without
    doing it.
    """
    if access.versions is None:
        error = access.error or HypervisorError(f"libvirt at {access.uri!r} cannot be reached")
        return [
            from_error(NAME, error, "systemctl start libvirtd (or virtqemud), and check libvirt.uri"),
            warning(
                RIGHTS,
                "could not be checked, and neither could the guests: there is no connection",
                "make libvirt reachable first",
            ),
        ]
    libvirt, qemu = access.versions
    first = ok(NAME, f"{access.uri}: libvirt {libvirt}, QEMU {qemu}")
    if access.may_change:
        return [
            first,
            ok(
                RIGHTS,
                f"user {user} may suspend guests; which of them, libvirt tells only when asked to, where its access "
                "driver is on (access_drivers)",
            ),
        ]
    why = "" if access.error is None else f" ({' '.join(str(access.error).split())})"
    return [
        first,
        failure(
            RIGHTS,
            f"user {user} may only read, and not suspend guests{why}",
            "run it as root (sudo), or as the unit does: as user samepaged, a member of group libvirt. A socket that "
            "libvirt.uri names must not be the read-only one",
        ),
    ]


@contextmanager
def connect(uri: str) -> Iterator[tuple[Hypervisor | None, Access]]:
    """Connect, for reading only where that is all that may be: the connection is closed on leaving."""
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
    """What an open connection is good for; `read_only_error` is why it is one for reading only."""
    try:
        versions = hypervisor.versions()
        may_change = read_only_error is None and hypervisor.may_change()
    except (GuestError, HypervisorError) as error:
        return Access(hypervisor.uri, None, may_change=False, error=error)
    return Access(hypervisor.uri, versions, may_change=may_change, error=read_only_error)
