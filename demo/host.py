"""The machine's capabilities: its libvirt or a private one, KVM or emulation."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import libvirt

from tests.support.guests import CMDLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from demo.stop import Stop

__all__ = ["MACHINE", "boots_with_kvm", "hypervisor"]

MACHINE = "qemu:///system"
UP = b"samepaged-guest-up"
# A guest that KVM runs is up within two seconds; otherwise it prints nothing or exits at once.
KVM_SECONDS = 8.0
# libvirtd's own start; the guests come later.
LIBVIRTD_SECONDS = 90.0


def _answers(uri: str) -> bool:
    try:
        libvirt.open(uri).close()
    except libvirt.libvirtError:
        return False
    return True


@contextlib.contextmanager
def hypervisor(root: Path, stop: Stop) -> Iterator[str]:
    """The URI of the machine's libvirt if it answers, else of a private one below `root`, gone on leaving."""
    # Errors are raised; libvirt need not print them as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    if _answers(MACHINE):
        yield MACHINE
        return
    keeper = subprocess.Popen(
        [sys.executable, "-m", "demo.keeper", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said = _wait_for_line(keeper, b"\n", LIBVIRTD_SECONDS, stop).decode(errors="replace").strip()
        if not said.startswith("qemu:"):
            message = f"a private libvirtd could not be started: {said or 'it does not answer'}"
            raise RuntimeError(message)
        yield said
    finally:
        # It exits at the end of its standard input.
        keeper.communicate()


def boots_with_kvm(connection: Any, kernel: Path, image: Path, stop: Stop) -> bool:  # noqa: ANN401  # untyped libvirt
    """Whether KVM really boots a guest here: /dev/kvm may exist and not do so, and libvirt may not be let to it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError:
        return False
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "128", "-nodefaults"]
    command += ["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(image)]
    command += ["-append", CMDLINE.format("")]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as qemu:
        try:
            return UP in _wait_for_line(qemu, UP, KVM_SECONDS, stop)
        finally:
            qemu.kill()


def _wait_for_line(process: subprocess.Popen[bytes], word: bytes, patience: float, stop: Stop) -> bytes:
    """Return the output of `process` until `word` appears, the process ends, or `patience` seconds pass."""
    assert process.stdout is not None  # noqa: S101  # it was asked for
    heard, deadline = b"", time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while word not in heard and time.monotonic() < deadline:
            stop.check()
            if selector.select(timeout=0.1):
                said = os.read(process.stdout.fileno(), 4096)
                if not said:
                    break
                heard += said
    return heard
