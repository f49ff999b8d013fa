"""Who may clear a process's soft-dirty bits: they are one for all who do."""

from __future__ import annotations

import errno
import socket
import weakref

from samepaged.errors import GuestError, Reason
from samepaged.os_errors import exhausted, no_resources

__all__ = ["LockHeld", "SoftDirtyLock"]


class LockHeld(Exception):  # noqa: N818 - no error: the caller takes another mode
    """Another samepaged holds the soft-dirty bits of this process."""


class SoftDirtyLock:
    """Holds the soft-dirty bits of a process against any other samepaged on this host (a `scan` beside the daemon, with
    whatever configuration), until it is released or forgotten. Raises Claimed, and GuestError.

    It is a name among the abstract sockets (unix(7)): one process can have it, it needs no directory and no right, and
    it ends with its holder. Two that run in network namespaces of their own do not see each other's; and whoever else
    takes such a name gains nothing but that the guest is read in another mode.
    """

    def __init__(self, pid: int) -> None:
        try:
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise _failed(error) from error
        try:
            holder.bind(f"\0samepaged-soft-dirty-{pid}")
        except OSError as error:
            holder.close()
            if error.errno == errno.EADDRINUSE:
                raise LockHeld from error
            raise _failed(error) from error
        self.release = weakref.finalize(self, holder.close)


def _failed(error: OSError) -> GuestError:
    if exhausted(error):
        return no_resources("the socket that locks the soft-dirty bits", error)
    return GuestError(Reason.READ, f"its soft-dirty bits cannot be claimed ({error.strerror})", "use `--mode snapshot`")
