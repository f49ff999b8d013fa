"""Three small guests: two web servers of one image and a database of another, with content that can be shared."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import libvirt

from demo.host import UP
from demo.progress import elapsed, say
from tests.support import images
from tests.support.guests import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from demo.stop import Stop

__all__ = ["PREFIX", "UPDATE_AFTER", "Machines", "booted", "ours"]

PREFIX = "samepaged-demo-"
MEMORY = 128
UPDATE_AFTER = 20
# Under emulation on a busy machine; KVM and an idle machine take a tenth of it.
BOOT_SECONDS = 180.0

# `seq` writes the same pages in every guest. A web server holds its site and a cached copy of a part of it, and
# some memory that is its alone; with `update` on the kernel command line, it replaces its site after a while.
WEB = f"""\
/bin/busybox mount -t devtmpfs devtmpfs /dev
seq 1000000 2200000 > /tmp/site
dd if=/tmp/site of=/tmp/cache bs=4096 count=768 2>/dev/null
dd if=/dev/urandom of=/tmp/sessions bs=4096 count=512 2>/dev/null
read words < /proc/cmdline
case $words in
  *update*) ( /bin/busybox sleep {UPDATE_AFTER}; seq 5000000 6200000 > /tmp/site ) & ;;
esac
"""
# A database holds the first part of the site's pages, and records of its own.
DATABASE = """\
/bin/busybox mount -t devtmpfs devtmpfs /dev
seq 1000000 1500000 > /tmp/pages
dd if=/dev/urandom of=/tmp/records bs=4096 count=1024 2>/dev/null
"""


class Machines:
    """The guests to boot, with their kernel and images in `directory`, where QEMU's user can read them."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.kernel = _readable(images.kernel(), directory)
        self.web = _readable(images.busybox_image("demo-web", WEB), directory)
        self.database = _readable(images.busybox_image("demo-db", DATABASE), directory)

    def specs(self, accel: str) -> list[Spec]:
        """The three guests; `accel` is libvirt's domain type."""
        return [
            Spec(PREFIX + "web-1", MEMORY, self.web, accel),
            Spec(PREFIX + "web-2", MEMORY, self.web, accel, cmdline="update"),
            Spec(PREFIX + "db", MEMORY, self.database, accel),
        ]

    def xml(self, spec: Spec) -> str:
        """The domain's XML for any libvirt: a kernel that QEMU's user can read, a console that needs no file, and the
        security label that the host wants.
        """
        domain = ET.fromstring(spec.xml(self.kernel.with_name("console")))  # noqa: S314  # written by ourselves
        _one(domain, "os/kernel").text = str(self.kernel)
        # The tests' guests touch all their memory at boot, to be predictable; these leave it as a guest does.
        cmdline = _one(domain, "os/cmdline")
        cmdline.text = (cmdline.text or "").replace("init_on_free=1 ", "")
        domain.remove(_one(domain, "seclabel"))
        serial = _one(domain, "devices/serial")
        serial.set("type", "pty")
        serial.remove(_one(serial, "source"))
        return ET.tostring(domain, encoding="unicode")


def _one(element: ET.Element, path: str) -> ET.Element:
    found = element.find(path)
    if found is None:
        message = f"the testbed's domain XML has no {path}"
        raise LookupError(message)
    return found


def _readable(path: Path, directory: Path) -> Path:
    copy = directory / path.name
    shutil.copyfile(path, copy)
    copy.chmod(0o644)
    return copy


def ours(connection: Any) -> list[str]:  # noqa: ANN401  # untyped libvirt
    """Names of the demo guests that are there, defined or running."""
    return sorted(domain.name() for domain in connection.listAllDomains() if domain.name().startswith(PREFIX))


@contextlib.contextmanager
def booted(connection: Any, machines: Machines, accel: str, stop: Stop) -> Iterator[None]:  # noqa: ANN401  # as above
    """The three guests, up; destroyed on leaving, and by libvirt itself should we be killed."""
    domains, consoles = [], {}
    try:
        for spec in machines.specs(accel):
            stop.check()
            domain = connection.createXML(machines.xml(spec), libvirt.VIR_DOMAIN_START_AUTODESTROY)
            domains.append(domain)
            # Connect at once: guest output before the connection is lost, and the first output takes a second.
            path = _one(ET.fromstring(domain.XMLDesc()), "devices/console").get("tty")  # noqa: S314  # libvirt's own
            consoles[spec.name] = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        _wait_until_up(consoles, stop)
        yield
    finally:
        for console in consoles.values():
            os.close(console)
        # Together: libvirt takes two seconds for each.
        with ThreadPoolExecutor() as pool:
            list(pool.map(_destroy, domains))


def _destroy(domain: Any) -> None:  # noqa: ANN401  # as above
    # By the object that createXML gave, which is bound to the uuid: never another's guest of that name.
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()


def _wait_until_up(consoles: dict[str, int], stop: Stop) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    heard = dict.fromkeys(consoles, b"")
    while waiting := [name for name, said in heard.items() if UP not in said]:
        stop.wait(0.1)
        if time.monotonic() > deadline:
            message = f"{', '.join(waiting)} did not come up in {BOOT_SECONDS:.0f} s; said {heard[waiting[0]][-500:]!r}"
            raise TimeoutError(message)
        for name in waiting:
            # EIO: QEMU has not opened its end, or has exited; the deadline decides.
            with contextlib.suppress(OSError):
                heard[name] += os.read(consoles[name], 4096)
            if UP in heard[name]:
                say(f"  {name.removeprefix(PREFIX)} is up after {elapsed()}")
