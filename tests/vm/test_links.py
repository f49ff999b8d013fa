"""Suspends and the links of macvtap interfaces, on dummy network devices of the lab host, observed by `ip monitor
link`.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
import threading
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from samepaged.hypervisor.guest import parse_domain_xml
from tests.support.guests import Spec, running
from tests.support.waiting import wait_for
from tests.vm.conftest import URI

if TYPE_CHECKING:
    from collections.abc import Iterator

BELOW, TAP = "lab0", "labtap0"
BELOW_PASSTHROUGH, TAP_PASSTHROUGH = "lab1", "labtap1"
SIGNAL = "lab2"
NETWORK = "samepaged-lab-direct"
BRIDGE_GUEST, PASSTHROUGH_GUEST = "samepaged-lab-bridge", "samepaged-lab-passthrough"
INTERFACE = (
    """<interface type='{}'><source {}/><target dev='{}'/><model type='virtio'/><rom enabled='no'/></interface>"""
)
# A line of `ip -oneline monitor link`: 7: labtap0@lab0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 ...
EVENT = re.compile(r"(?:Deleted )?\d+: (?P<name>[^:@]+)(?:@\S+)?: <(?P<flags>[A-Z_,]*)> mtu (?P<mtu>\d+)")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


@pytest.fixture(scope="module")
def dummies() -> Iterator[None]:
    """Network devices of the host without a peer."""
    for module in ("dummy", "macvtap"):
        subprocess.run(["modprobe", module], check=True, timeout=60)
    with contextlib.ExitStack() as stack:
        for name in (BELOW, BELOW_PASSTHROUGH, SIGNAL):
            ip("link", "add", name, "type", "dummy")
            stack.callback(ip, "link", "delete", name)
            ip("link", "set", name, "up")
        yield


@pytest.fixture(scope="module")
def network(connection: Any, dummies: None) -> Iterator[None]:
    """A libvirt network of macvtaps."""
    xml = f"<network><name>{NETWORK}</name><forward mode='private'><interface dev='{BELOW}'/></forward></network>"
    found = connection.networkCreateXML(xml)
    yield
    found.destroy()


@pytest.fixture(scope="module")
def guests(connection: Any, network: None) -> Iterator[dict[str, Any]]:
    """Domains by name: one with macvtaps in modes bridge and private (by the network), one in mode passthrough."""
    bridge = INTERFACE.format("direct", f"dev='{BELOW}' mode='bridge'", TAP)
    private = INTERFACE.format("network", f"network='{NETWORK}'", "labtap2")
    passthrough = INTERFACE.format("direct", f"dev='{BELOW_PASSTHROUGH}' mode='passthrough'", TAP_PASSTHROUGH)
    specs = (
        Spec(BRIDGE_GUEST, memory=96, accel="kvm", devices=bridge + private),
        Spec(PASSTHROUGH_GUEST, memory=96, accel="kvm", devices=passthrough),
    )
    with tempfile.TemporaryDirectory(prefix="lab-") as root, contextlib.ExitStack() as stack:
        Path(root).chmod(0o755)
        # One after the other: two that boot at the same time on an emulated host take more than twice as long.
        writers = [stack.enter_context(running(connection, Path(root), spec))[0] for spec in specs]
        yield {writer.name: writer.domain for writer in writers}


class Monitor:
    """The kernel's link events since the start, oldest first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._process = process
        self._mtu = 1400
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def _events(self) -> list[re.Match[str]]:
        return [found for line in list(self._lines) if (found := EVENT.match(line)) is not None]

    def settle(self) -> None:
        """Wait until all previous events have arrived. The kernel sends events in order, so this waits for an event
        that it triggers itself.
        """
        self._mtu += 1

        def heard() -> bool:
            if any(one["name"] == SIGNAL and int(one["mtu"]) == self._mtu for one in self._events()):
                return True
            ip("link", "set", SIGNAL, "mtu", str(1500))  # again, if the monitor had not started yet
            ip("link", "set", SIGNAL, "mtu", str(self._mtu))
            return False

        wait_for(heard, 20, lambda: self._lines, every=0.1)

    def of(self, name: str) -> list[bool]:
        """Return the state changes of the device `name`, initially up: False for down, True for up."""
        self.settle()
        states = [True, *("UP" in one["flags"].split(",") for one in self._events() if one["name"] == name)]
        return [state for before, state in pairwise(states) if state != before]

    def count(self, name: str) -> int:
        """Return the number of events of the device."""
        self.settle()
        return sum(one["name"] == name for one in self._events())


@pytest.fixture
def monitor(dummies: None) -> Iterator[Monitor]:
    with subprocess.Popen(["ip", "-oneline", "monitor", "link"], stdout=subprocess.PIPE, text=True) as process:
        try:
            one = Monitor(process)
            one.settle()
            yield one
        finally:
            process.kill()


def samepaged(command: str, *words: str, macvtap: str | None = None) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text("{}\n" if macvtap is None else f"scan: {{macvtap: {macvtap}}}\n")
        return subprocess.run(
            ["/usr/local/bin/samepaged", command, "--config", str(config), "--connect", URI, "--json", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def scan(name: str, *, macvtap: str | None = None, mode: str = "snapshot") -> dict[str, Any]:
    done = samepaged("scan", "--mode", mode, name, macvtap=macvtap)
    assert done.returncode in {0, 1}, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def refused(found: dict[str, Any]) -> str:
    """Return the reason why the only guest was skipped."""
    assert found["domains"] == []
    (one,) = found["skipped"]
    return str(one["reason_code"])


def test_live_xml_tells_macvtap_modes(guests: dict[str, Any]) -> None:
    assert parse_domain_xml(guests[BRIDGE_GUEST].XMLDesc()).macvtap == ("bridge", "private")
    assert parse_domain_xml(guests[PASSTHROUGH_GUEST].XMLDesc()).macvtap == ("passthrough",)


def test_default_scan_leaves_the_link_alone(guests: dict[str, Any], monitor: Monitor) -> None:
    assert refused(scan(BRIDGE_GUEST)) == "macvtap"
    assert (monitor.count(TAP), monitor.count("labtap2"), monitor.count(BELOW)) == (0, 0, 0)
    assert guests[BRIDGE_GUEST].state()[0] == libvirt.VIR_DOMAIN_RUNNING


def test_live_scan_leaves_the_link_alone(guests: dict[str, Any], monitor: Monitor) -> None:
    (domain,) = scan(BRIDGE_GUEST, mode="live")["domains"]
    assert domain["pauses"] == 0
    assert monitor.count(TAP) == 0


def test_allowed_scan_takes_the_link_down_and_up(guests: dict[str, Any], monitor: Monitor) -> None:
    (domain,) = scan(BRIDGE_GUEST, macvtap="allow")["domains"]
    assert domain["pauses"] == 1
    assert monitor.of(TAP) == monitor.of("labtap2") == [False, True]
    assert monitor.of(BELOW) == []


def test_allow_excludes_passthrough(guests: dict[str, Any], monitor: Monitor) -> None:
    assert refused(scan(PASSTHROUGH_GUEST, macvtap="allow")) == "macvtap"
    assert (monitor.count(TAP_PASSTHROUGH), monitor.count(BELOW_PASSTHROUGH)) == (0, 0)


def test_passthrough_takes_the_host_device_down(guests: dict[str, Any], monitor: Monitor) -> None:
    (domain,) = scan(PASSTHROUGH_GUEST, macvtap="allow_passthrough")["domains"]
    assert domain["pauses"] == 1
    assert monitor.of(TAP_PASSTHROUGH) == monitor.of(BELOW_PASSTHROUGH) == [False, True]


def test_paused_guest_is_scanned(guests: dict[str, Any], monitor: Monitor) -> None:
    guests[BRIDGE_GUEST].suspend()
    try:
        before = monitor.count(TAP)
        (domain,) = scan(BRIDGE_GUEST)["domains"]
        assert domain["pauses"] == 0
        assert monitor.count(TAP) == before
    finally:
        guests[BRIDGE_GUEST].resume()


def test_doctor_warns_about_macvtap(guests: dict[str, Any]) -> None:
    def checks(macvtap: str | None) -> dict[str, list[str]]:
        found = json.loads(samepaged("doctor", macvtap=macvtap).stdout)["checks"]
        own = [check for check in found if check["domain"] in set(guests)]
        assert all(check["remedy"] for check in own if check["status"] != "ok")
        return {
            name: [check["name"] for check in own if check["domain"] == name and "macvtap" in check["message"]]
            for name in guests
        }

    assert checks(None) == {BRIDGE_GUEST: ["guest"], PASSTHROUGH_GUEST: ["guest"]}
    assert checks("allow") == {BRIDGE_GUEST: ["links"], PASSTHROUGH_GUEST: ["guest"]}


LOCKD = Path("/etc/libvirt/qemu.conf")


def test_doctor_finds_the_lock_manager() -> None:
    def found() -> tuple[str, str]:
        checks = json.loads(samepaged("doctor").stdout)["checks"]
        (one,) = (check for check in checks if check["name"] == "leases")
        return one["status"], one["message"]

    before = LOCKD.read_text()
    assert found()[0] == "ok"
    LOCKD.write_text(before + '\nlock_manager = "lockd"\n')
    try:
        status, message = found()
    finally:
        LOCKD.write_text(before)
    assert (status, "lockd" in message) == ("warning", True)
