"""`python -m demo`, run by `make demo`: boot, measure, show, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from demo.guests import PREFIX, UPDATE_AFTER, Machines, booted, ours
from demo.host import KVM_SECONDS, MACHINE, boots_with_kvm, hypervisor
from demo.progress import elapsed, say
from demo.stop import Stop, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

# If the demo is killed, its child processes end too.
SAMEPAGED = ("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "samepaged")
INTERVAL = 5
# As long as the first scan of three small guests may take on a busy machine.
FIRST_SCAN_SECONDS = 60.0
# Between two lines of the minute in which the daemon measures.
PROGRESS_SECONDS = 15.0


class DemoError(Exception):
    """The demo cannot go on; the message is for people."""


def free_port() -> int:
    """Return an unused port of the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_config(directory: Path, uri: str, port: int) -> Path:
    """A configuration for the demo's guests alone. JSON is YAML."""
    state, runtime = directory / "state", directory / "run"
    for path in (state, runtime):
        path.mkdir(mode=0o700)
    path = directory / "config.yaml"
    content = {
        "libvirt": {"uri": uri},
        "guests": {"include": [f"{PREFIX}*"]},
        # For a minute only, so that the guests' clocks may drift.
        "scan": {"interval": f"{INTERVAL}s", "max_drift": 1},
        "export": {"listen": f"127.0.0.1:{port}"},
        "state_directory": str(state),
        "runtime_directory": str(runtime),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def finish(process: subprocess.Popen[bytes]) -> None:
    """End `process` and wait for it: kindly first."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def show_table(config: Path, stop: Stop) -> None:
    """The output of `samepaged scan`."""
    say(f"\n$ samepaged scan --config {config}")
    # In a session of its own, here as for the daemon: Ctrl-C is the demo's, which then ends them in its order.
    process = subprocess.Popen([*SAMEPAGED, "scan", "--config", str(config)], start_new_session=True)
    try:
        while process.poll() is None:
            stop.wait(0.1)
    finally:
        finish(process)
    stop.check()
    if process.returncode != 0:
        message = f"samepaged scan ended with status {process.returncode}"
        raise DemoError(message)


@contextlib.contextmanager
def daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`samepaged run` in the background; its output goes to `log`."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*SAMEPAGED, "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        finish(process)


def wait_while_alive(process: subprocess.Popen[bytes], seconds: float, log: Path, stop: Stop) -> None:
    """Wait for `seconds`, or until the daemon ends, which it must not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            message = (
                f"samepaged run ended with status {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}"
            )
            raise DemoError(message)
        stop.wait(min(0.2, max(0.0, deadline - time.monotonic())))


def first_scan(process: subprocess.Popen[bytes], url: str, log: Path, stop: Stop) -> str:
    """The metrics as soon as there is a guest in them."""
    deadline = time.monotonic() + FIRST_SCAN_SECONDS
    while time.monotonic() < deadline:
        wait_while_alive(process, 0.2, log, stop)
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own
            text: str = answer.read().decode()
            if f'domain="{PREFIX}' in text:
                return text
    message = f"{url} shows no guest:\n{log.read_text(errors='replace')[-2000:]}"
    raise DemoError(message)


def show(uri: str, seconds: float, directory: Path, stop: Stop) -> None:
    """A table, the daemon for `seconds`, and a table again."""
    port = free_port()
    config, log = write_config(directory, uri, port), directory / "samepaged.log"
    url = f"http://127.0.0.1:{port}/metrics"
    show_table(config, stop)
    say("\nstarting samepaged run, and waiting for its first scan")
    with daemon(config, log) as process:
        started = time.monotonic()
        text = first_scan(process, url, log, stop)
        samples = sum(line.startswith("samepage_") for line in text.splitlines())
        say(f"samepaged run scans every {INTERVAL} s; {samples} samples are at:\n$ curl -s {url}")
        say(f"\nweb-2 replaces its site {UPDATE_AFTER} s after its boot. {seconds:g} s (DEMO_SECONDS), or Ctrl-C:")
        while (left := seconds - (time.monotonic() - started)) > 0:
            wait_while_alive(process, min(left, PROGRESS_SECONDS), log, stop)
            if left > PROGRESS_SECONDS:
                say(f"  {left - PROGRESS_SECONDS:.0f} s left")
    show_table(config, stop)


def demo(seconds: float, stop: Stop) -> None:
    """Run the demo, from the images to the last table. All child processes are ended on every exit path."""
    with contextlib.ExitStack() as stack:
        # Not below /tmp: QEMU's user need not see root's, nor an AppArmor profile allow it.
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="samepaged-demo-", dir="/var/tmp"))
        directory = Path(path)
        say("preparing the guests' kernel and images")
        machines = Machines(directory)
        say("connecting to libvirt")
        uri = stack.enter_context(hypervisor(directory / "libvirt", stop))
        stop.check()
        connection = stack.enter_context(contextlib.closing(libvirt.open(uri)))
        there = ours(connection)
        if there:
            message = f"{uri} already has {', '.join(there)}; is another demo running? If not: virsh destroy NAME"
            raise DemoError(message)
        whose = "the machine's own" if uri == MACHINE else "started for the demo alone"
        say(f"libvirt: {uri} ({whose})")
        say(f"trying KVM, for {KVM_SECONDS:.0f} s at most")
        kvm = boots_with_kvm(connection, machines.kernel, machines.web, stop)
        say(f"booting three guests, {'under KVM' if kvm else 'emulated, since KVM boots none here'}")
        stack.enter_context(booted(connection, machines, "kvm" if kvm else "qemu", stop))
        say(f"all guests are up after {elapsed()}")
        show(uri, seconds, directory, stop)
        say("\nending the guests")


def refused() -> str | None:
    """Why the demo cannot start at all."""
    if os.geteuid() != 0:
        return "guests and their memory are root's; run make demo as root"
    try:
        float(os.environ.get("DEMO_SECONDS", "60"))
    except ValueError:
        return f"DEMO_SECONDS is {os.environ['DEMO_SECONDS']!r}; it must be a number of seconds"
    return None


def main() -> int:
    """The exit status: 0 shown, or left when asked to; 1 something failed; 2 refused."""
    if why := refused():
        say(f"demo: {why}")
        return 2
    stop = Stop()
    try:
        demo(float(os.environ.get("DEMO_SECONDS", "60")), stop)
    except Stopped:
        pass
    except BrokenPipeError:
        # The reader closed the pipe (`make demo | head`); the interpreter's final flush still needs a valid target.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, OSError, RuntimeError, libvirt.libvirtError, subprocess.SubprocessError) as error:
        say(f"demo: {error}")
        return 1
    say("\nNothing of it is left.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
