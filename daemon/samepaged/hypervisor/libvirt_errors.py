"""libvirt's errors as those of samepaged."""

from __future__ import annotations

from typing import Final

import libvirt

from samepaged.errors import GuestError, HypervisorError, Reason, SamepagedError

__all__ = ["failure", "lost", "one_line"]

# What a call on one domain can end in, and whose fault that is.
GUEST_REASONS: Final = {
    libvirt.VIR_ERR_NO_DOMAIN: Reason.GONE,
    libvirt.VIR_ERR_OPERATION_INVALID: Reason.NOT_RUNNING,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Reason.IN_JOB,
    libvirt.VIR_ERR_ACCESS_DENIED: Reason.NO_PERMISSION,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Reason.NO_PERMISSION,
    libvirt.VIR_ERR_OPERATION_DENIED: Reason.NO_PERMISSION,
}


def one_line(text: object) -> str:
    """The text with each run of white space as one space."""
    return " ".join(str(text).split())


def lost(what: str, error: object) -> HypervisorError:
    """The error of a connection that was lost."""
    return HypervisorError(
        f"the connection to libvirt was lost while {what}: {one_line(error)}", "check that libvirtd or virtqemud runs"
    )


def failure(what: str, error: libvirt.libvirtError, *, alive: bool, names_domain: bool = True) -> SamepagedError:
    """The error of a call: a GuestError, or HypervisorError if the connection was lost. `what` names the act and, with
    `names_domain`, the domain; `alive` says whether the connection is open.
    """
    code = error.get_error_code()
    if (error.get_error_domain() == libvirt.VIR_FROM_RPC or not alive) and code not in GUEST_REASONS:
        return lost(what, error)
    reason = GUEST_REASONS.get(code, Reason.LIBVIRT)
    return GuestError(reason, f"{what}: libvirt says: {one_line(error)}", names_domain=names_domain)
