"""The number of modules that one line of /metrics passes through, from the listing of a domain to the socket.

    python -m bench.modules            the figure
    python -m bench.modules --list     the modules as well, with the functions that ran, and the modules left out

A real guest runs under a libvirtd of its own. The daemon scans it in this process; the web process runs in a
thread, on a socket pair. From the call that lists the running domains until the reply, a profile hook records the
modules in which a function or method runs. Import time does not count: all modules are imported before. Methods
that dataclasses generate do not count either: a module in which only these run holds a value type, not a step.
Modules that serve another purpose than this line are left out, by name below: `sd_notify` among them, which serves the
service manager. A module that serves the line as well as another purpose counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import inspect
import logging
import re
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import libvirt

from samepaged.config import Config
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.service.loop import Service
from samepaged.service.signals import Signals
from samepaged.web.config_reload import ReloadingConfig
from samepaged.web.ipc_server import IpcServer
from samepaged.web.routes import Routes
from samepaged.web.server import Server
from tests.support.guests import Spec, running
from tests.support.libvirtd import private_libvirtd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from bench.row import Row

__all__ = ["rows"]

GUEST: Final = "modules-bench"
LINE: Final = f'samepage_domain_self_sharing_bytes{{domain="{GUEST}"}}'
FIRST: Final = LibvirtHypervisor.running
MOST_MODULES: Final = 45
# Qualified names of the methods that dataclasses generate begin with it (dataclasses.py).
GENERATED: Final = "__create_fn__."
TIMEOUT_SECONDS: Final = 120.0

OTHER_PURPOSES: Final = {
    "page attribution": r"attribution(\..*)?|scan\.attribution\w*",
    "traces": r"traces(\..*)?|scan\.trace_recorder",
    "configuration, signals, the service manager, the log": (
        r"config(\..*)?|service\.signals|sd_notify|scan\.audit|web\.config_\w+|journald"
    ),
    "KSM": r"ksm(\..*)?|metrics\.merging\w*",
    "recovery after a crash": r"guard\.(recover|resume|resume_queue)",
    "the guests' clocks": r"drift(\..*)?|scan\.clocks|atomic_write",
    "other documents of the web process, and the textfile": (
        r"page(\..*)?|report(\..*)?|service\.(textfile|history)|templating|formatting|text_layout"
    ),
    "other lines of /metrics": r"metrics\.(health|scans|sources\w*)|sharing\.page_sizes",
}


class ModuleRecorder:
    """A profile hook (sys.setprofile) that records the functions of samepaged that run, by module: from the first
    call of `FIRST` until `finished` is set.
    """

    def __init__(self) -> None:
        self.functions: defaultdict[str, set[str]] = defaultdict(set)
        self.finished = False
        self._began = False
        self._seen: dict[int, object] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not self._began:
            if code.co_name != FIRST.__name__ or code is not FIRST.__code__:
                return
            self._began = True
        if event != "call" or self.finished or id(code) in self._seen:
            return
        self._seen[id(code)] = code
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        body = not code.co_flags & inspect.CO_OPTIMIZED  # of a module or class
        generated = code.co_qualname.startswith(GENERATED)
        if package == "samepaged" and not body and not generated:
            self.functions[module].add(code.co_qualname)


class WebThread:
    """The web process's part in a thread: a WebProcess (samepaged.web.process) of this process."""

    def open(self) -> socket.socket:
        """The scanner's end of the feed."""
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        threading.Thread(target=asyncio.run, args=(self._serve(theirs),), daemon=True).start()
        return ours

    async def _serve(self, feed: socket.socket) -> None:
        routes = Routes()
        server = Server(routes, ReloadingConfig(None), 4)
        try:
            await IpcServer(routes, server).serve(feed)
        finally:
            server.close()

    def close(self, feed: socket.socket) -> str:
        """Close the feed; the thread ends."""
        feed.close()
        return ""


def _scrape(port: int) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
        client.request("GET", "/metrics")
        return client.getresponse().read().decode()


def _wait_for_line(port: int, recorder: ModuleRecorder, signals: Signals) -> None:
    """Scrape until the line is there, then end the recording and the service."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if LINE in _scrape(port):
                recorder.finished = True
                break
        time.sleep(0.1)
    signals.stopping = True
    signals.wake()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def record() -> dict[str, set[str]]:
    """The functions that ran, by module (without the package's name), from a start of the service to one scrape."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    recorder = ModuleRecorder()
    with tempfile.TemporaryDirectory(prefix="spb-") as directory, private_libvirtd(Path(directory)) as libvirtd:
        root, port = Path(directory), _free_port()
        config = Config.model_validate(
            {
                "libvirt": {"uri": libvirtd.uri},
                "scan": {"mode": "snapshot", "reader": "process", "max_pause": "30s", "max_drift": 1},
                "export": {"listen": f"127.0.0.1:{port}"},
                "runtime_directory": str(root / "runtime"),
                "state_directory": str(root / "state"),
            }
        )
        with (
            contextlib.closing(libvirt.open(libvirtd.uri)) as connection,
            running(connection, root, Spec(GUEST, memory=96)),
            Signals() as signals,
        ):
            service = Service(config, None, signals, WebThread())
            client = threading.Thread(target=_wait_for_line, args=(port, recorder, signals))
            threading.setprofile(recorder)
            sys.setprofile(recorder)
            try:
                client.start()
                service.run()
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
            client.join()
    if not recorder.finished:
        raise SystemExit(f"no scrape had {LINE} within {TIMEOUT_SECONDS:.0f} s")
    return dict(recorder.functions)


def purpose(module: str) -> str | None:
    """The purpose of a module that does not serve the line; None for a module that the line passes through."""
    return next((name for name, pattern in OTHER_PURPOSES.items() if re.fullmatch(pattern, module)), None)


def rows() -> Iterator[Row]:
    """The figure of this part."""
    passed = [module for module in record() if purpose(module) is None]
    yield _row(len(passed))


def _row(count: int) -> Row:
    name = "modules that one line of /metrics passes through"
    return {"name": name, "value": count, "unit": "modules", "at_most": MOST_MODULES}


def main() -> None:
    """Print the figure, and the modules with `--list`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the modules and the functions that ran")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    functions = record()
    passed = sorted(module for module in functions if purpose(module) is None)
    if arguments.list:
        for number, module in enumerate(passed, start=1):
            print(f"{number:3}  {module:<30} {', '.join(sorted(functions[module]))}")
        for name in OTHER_PURPOSES:
            others = sorted(module for module in functions if purpose(module) == name)
            print(f"left out, {name}: {', '.join(others)}")
    print(f"{len(passed)} modules that one line of /metrics passes through (at most {MOST_MODULES})")


if __name__ == "__main__":
    main()
