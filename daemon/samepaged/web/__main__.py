"""python -I -m samepaged.web: the web process.

Without arguments, it is a child process of the scanner: standard input is the feed, and the process exits when the feed
closes. With `--feed PATH`, it is a separate service: it listens on that socket for scanners, and continues after a
scanner disconnects.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import contextlib
import gc
import logging
import os
import pwd
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Final

from samepaged import privileges
from samepaged.errors import SamepagedError, UsageError
from samepaged.sd_notify import notify
from samepaged.web.config_reload import ReloadingConfig
from samepaged.web.ipc_server import IpcServer, accept_scanners, feed_socket
from samepaged.web.routes import Routes
from samepaged.web.server import Server, max_connections

USER: Final = "samepaged-web"
# Python imports codecs at their first use, and this user may be unable to read their files then.
CODECS: Final = ("ascii", "idna", "latin-1", "unicode_escape", "utf-8")


def main() -> int:
    """Run the web process until the feed closes or, as a service, until SIGTERM. Return the exit status."""
    logging.basicConfig(format="samepaged-web: %(levelname)s: %(message)s", stream=sys.stderr, level=logging.INFO)
    parser = argparse.ArgumentParser(prog="samepaged.web", description="The web process of samepaged.")
    parser.add_argument("--feed", metavar="PATH", type=Path, help="listen on this Unix socket for the scanner")
    path: Path | None = parser.parse_args().feed
    try:
        feed = _inherited_socket() if path is None else feed_socket(path)
        _drop_privileges()
    except SamepagedError as error:
        print(f"samepaged-web: {error}", file=sys.stderr)  # noqa: T201 - an error at the start of a program
        return error.exit_status
    gc.collect()
    gc.freeze()  # full collections then skip the modules, and delay a scrape by milliseconds less
    asyncio.run(_child(feed) if path is None else _service(feed))
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()
    return 0


def _inherited_socket() -> socket.socket:
    """Return the feed of a child process. Programs started from here do not inherit it."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise UsageError("standard input is not a socket", "start `samepaged run`, or use --feed PATH")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it exits after the scanner, which may need to resume a guest first
    feed = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    feed.setblocking(False)
    return feed


def _drop_privileges() -> None:
    for codec in CODECS:
        codecs.lookup(codec)
    privileges.seal()
    if os.geteuid() == 0:
        # Only root can empty the capability bounding set.
        privileges.drop(("CAP_SETGID", "CAP_SETUID"))
        try:
            pwd.getpwnam(USER)
        except KeyError:
            privileges.become("nobody")
        else:
            privileges.become(USER)
    privileges.drop()


def _ipc_server() -> IpcServer:
    site = Routes()
    return IpcServer(site, Server(site, ReloadingConfig(None), max_connections()))


async def _child(feed: socket.socket) -> None:
    await _ipc_server().serve(feed)


async def _service(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    scanners = loop.create_task(accept_scanners(listener, _ipc_server()))
    notify("READY=1")
    await stopped.wait()
    notify("STOPPING=1")
    scanners.cancel()


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Do not wait for threads that hash a password or compress a page.
    os._exit(status)
