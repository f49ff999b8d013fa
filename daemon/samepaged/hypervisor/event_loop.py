"""libvirt's event loop, one a process, in a thread of its own."""

from __future__ import annotations

import logging
import threading

import libvirt

from samepaged import threads
from samepaged.errors import HypervisorError

__all__ = ["start_event_loop"]

log = logging.getLogger(__name__)

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _ignore_error(_context: object, _error: object) -> None:
    """Print nothing, unlike libvirt's own error handler: what it would print reaches us as exceptions."""


def _run_event_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:  # a callback on a dying connection; the loop itself goes on
            log.debug("libvirt's event loop: %s", error)


def start_event_loop() -> None:
    """Start libvirt's event loop, once a process: it must be registered before the first connection is opened."""
    global _loop  # noqa: PLW0603 - libvirt's event implementation is one a process, too
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(_ignore_error, None)
            try:
                libvirt.virEventRegisterDefaultImpl()
            except libvirt.libvirtError as error:
                raise HypervisorError(
                    f"libvirt's event loop cannot be started ({error})", "raise LimitNOFILE= or `ulimit -n`"
                ) from error
            loop = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
            threads.start(loop, HypervisorError)
            _loop = loop
