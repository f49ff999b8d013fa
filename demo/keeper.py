"""`python -m demo.keeper ROOT`: runs a private libvirtd until its standard input is closed.

A process of its own, in a session of its own: the terminal's Ctrl-C does not reach libvirtd, which is ended after its
guests and not before them; and the libvirtd of a demo that was killed ends all the same.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import libvirt

from tests.support.libvirtd import private_libvirtd


def main(root: Path) -> None:
    """Print the URI once libvirtd answers; end it, and its guests, when the standard input is at its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        with private_libvirtd(root) as libvirtd:
            print(libvirtd.uri, flush=True)  # noqa: T201  # the parent reads it
            sys.stdin.read()
    except Exception as error:  # noqa: BLE001  # clean up after any error
        print(error, flush=True)  # noqa: T201  # likewise
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
