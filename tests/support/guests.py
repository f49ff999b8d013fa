"""Domains that boot the testbed's images, and the serial line to the writer guest's first process."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import libvirt

from tests.support import images
from tests.support.processes import Process, qemu
from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# x2apic and cmpxchg16b are not well supported by QEMU 7's TCG; without cx16, newer kernels boot under it as well.
CPU = (
    "<cpu mode='custom' match='exact' check='none'><model>qemu64</model><feature policy='disable' name='cx16'/>{}</cpu>"
)
CMDLINE = "console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off init_on_free=1 nokaslr {}"


@dataclass(frozen=True)
class Spec:
    """A guest to boot: its name, memory in MiB, and the differences from the plain guest."""

    name: str
    memory: int = 96
    image: Path | None = None
    accel: str = "qemu"
    cmdline: str = ""
    memory_backing: str = ""
    numa: str = ""
    max_memory: str = ""
    metadata: str = ""
    devices: str = ""
    machine: str = "q35"
    vcpus: int = 1
    kernel: Path | None = None
    kaslr: bool = False

    def xml(self, serial: Path) -> str:
        """Return the domain's XML; its serial port is the socket at `serial`."""
        cpu = "<cpu mode='host-passthrough'/>" if self.accel == "kvm" else CPU.format(self.numa)
        image = self.image or images.writer_image()
        cmdline = CMDLINE if not self.kaslr else CMDLINE.replace(" nokaslr", "")
        return f"""
<domain type='{self.accel}'>
  <name>{escape(self.name)}</name>
  {self.metadata}
  {self.max_memory}
  <memory unit='MiB'>{self.memory}</memory>
  {self.memory_backing}
  <vcpu>{self.vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{self.machine}'>hvm</type>
    <kernel>{self.kernel or images.kernel()}</kernel>
    <initrd>{image}</initrd>
    <cmdline>{escape(cmdline.format(self.cmdline))}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='unix'><source mode='bind' path='{serial}'/><target port='0'/></serial>
    <memballoon model='none'/>
    {self.devices}
  </devices>
  <seclabel type='none'/>
</domain>"""


def wait_until_answered(port: socket.socket, timeout: float, name: str) -> None:
    """Wait until the first process of guest `name` answers at its serial port."""
    heard = b""
    numbers = itertools.count()
    port.settimeout(0.25)

    def answered() -> bool:
        nonlocal heard
        # Data sent before the guest opened the port is lost or answered late: only the newest answer counts. A guest
        # that boots slowly does not read, so the socket can become full, which is not an error.
        number = next(numbers)
        with contextlib.suppress(TimeoutError):
            port.sendall(b"ping %d\n" % number)
            while not heard.endswith(b"pong %d\n" % number):
                heard += port.recv(4096)
            return True
        return False

    wait_for(answered, timeout, lambda: f"guest {name} answers; it sent {heard[-500:]!r}", every=0)


class Writer:
    """A running writer guest. Its first process writes the contents that the test requests (protocol: guest_init.c)."""

    def __init__(self, domain: libvirt.virDomain, serial: Path) -> None:
        self.domain = domain
        self.name: str = domain.name()
        self._port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._port.connect(str(serial))

    @property
    def suspended(self) -> bool:
        """Whether the guest is paused."""
        paused: int = libvirt.VIR_DOMAIN_PAUSED
        return bool(self.domain.state()[0] == paused)

    @property
    def runs(self) -> bool:
        """Whether the guest is running."""
        running: int = libvirt.VIR_DOMAIN_RUNNING
        return bool(self.domain.state()[0] == running)

    def process(self) -> Process:
        """Return the guest's QEMU process; the caller closes it."""
        return qemu(self.domain.UUIDString())

    def wait_until_suspended(self, seconds: float = 30, message: str | Callable[[], object] = "") -> None:
        """Wait for the next pause and return at once, because pauses are short."""
        wait_for(lambda: self.suspended, seconds, message or f"{self.name} is suspended", every=0.0005)

    def runs_within(self, seconds: float) -> bool:
        """Whether the guest runs now or within this number of seconds."""
        return happens(lambda: self.runs, seconds)

    def wait_until_up(self, timeout: float = 120) -> None:
        """Wait until the guest's first process answers."""
        wait_until_answered(self._port, timeout, self.name)

    def tell(self, command: str, timeout: float = 120) -> None:
        """Send one command and wait for its answer."""
        self._port.settimeout(timeout)
        self._port.sendall(command.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self._port.recv(4096)
        if answer != b"ok\n":
            message = f"guest {self.name} answered {answer!r} to {command!r}"
            raise RuntimeError(message)

    def clock_offset(self, probes: int = 20) -> float:
        """Return the seconds by which the guest's CLOCK_REALTIME is ahead of the host's, from the fastest of `probes`
        answers.
        """
        found: list[tuple[float, float]] = []
        for _ in range(probes):
            sent = time.time()
            self._port.sendall(b"clock\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += self._port.recv(4096)
            received = time.time()
            seconds, nanoseconds = map(int, answer.split()[1:])
            found.append((received - sent, seconds + nanoseconds / 1e9 - (sent + received) / 2))
        return min(found)[1]

    def fill(self, first: int, count: int, seed: int, distinct: int) -> None:
        """Fill the pages first … first+count of the region with `distinct` contents in turn (0: zeros)."""
        self.tell(f"fill {first} {count} {seed} {distinct}")

    def close(self) -> None:
        self._port.close()


def start(connection: libvirt.virConnect, spec: Spec, directory: Path) -> Writer:
    """Create the transient domain. Returns before the guest has booted."""
    serial = directory / f"{abs(hash(spec.name)):x}.serial"
    domain = connection.createXML(spec.xml(serial))
    return Writer(domain, serial)


@contextlib.contextmanager
def running(connection: libvirt.virConnect, directory: Path, *specs: Spec) -> Iterator[list[Writer]]:
    """Boot writer guests and wait until they answer. They are destroyed on exit."""
    writers: list[Writer] = []
    try:
        writers.extend(start(connection, spec, directory) for spec in specs)
        for writer in writers:
            writer.wait_until_up()
        yield writers
    finally:
        for writer in writers:
            writer.close()
            with contextlib.suppress(Exception):
                writer.domain.destroy()


@contextlib.contextmanager
def held(*writers: Writer) -> Iterator[None]:
    """Keep guests paused by a client other than samepaged."""
    with contextlib.ExitStack() as stack:
        for writer in writers:
            writer.domain.suspend()
            stack.callback(writer.domain.resume)
        yield


@contextlib.contextmanager
def in_a_job(writer: Writer, directory: Path) -> Iterator[None]:
    """Keep a guest in a libvirt job: a live dump into a FIFO that is not read."""
    fifo = directory / "never-read"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def dump() -> None:
        flags = libvirt.VIR_DUMP_MEMORY_ONLY | libvirt.VIR_DUMP_LIVE
        with contextlib.suppress(libvirt.libvirtError):  # the FIFO's read end is closed at the end
            writer.domain.coreDumpWithFormat(str(fifo), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, flags)

    thread = threading.Thread(target=dump)
    thread.start()
    try:
        # Do not query the job: the dump blocks the connection.
        assert select.select([reader], [], [], 20)[0], "no dump has begun"
        yield
    finally:
        os.close(reader)
        thread.join()
        fifo.unlink()
