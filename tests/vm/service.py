"""The installed service and the guest that it scans, observed from outside, for tests/vm/test_unit.py."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt

from tests.support.waiting import wait_for
from tests.vm.conftest import URI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "samepaged-unit"
CONFIG = Path("/etc/samepaged/config.yaml")
METRICS = "http://127.0.0.1:9953/metrics"
SAMPLE = re.compile(r"(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
# Timeout of all waits: the host is emulated, and slow.
PATIENCE = 90.0
# Longer than a test needs between stopping the scanner and killing it.
MAX_PAUSE = "60s"


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True, timeout=200).stdout


def wait_until(what: str, done: Callable[[], object], seconds: float = PATIENCE) -> None:
    wait_for(done, seconds, lambda: f"{what}\n{log()}", every=0.2)


def log(lines: int = 60) -> str:
    words = ["journalctl", "--unit=samepaged", "--unit=samepaged-web", "--no-pager", "--output=short-monotonic"]
    return subprocess.check_output([*words, f"--lines={lines}"], text=True)


def audit_trail(pid: int) -> list[dict[str, str]]:
    """Return the journal's entries about scans of the guest by the scanner with this pid, oldest first."""
    subprocess.run(["journalctl", "--sync"], check=True, timeout=60)
    words = ["journalctl", "--unit=samepaged", f"SAMEPAGED_DOMAIN={NAME}", f"_PID={pid}", "--output=json"]
    said = subprocess.run([*words, "--no-pager", "--quiet"], check=True, capture_output=True, text=True, timeout=60)
    entries = [json.loads(line) for line in said.stdout.splitlines()]
    return [entry for entry in entries if "SAMEPAGED_RESULT" in entry]


def show(name: str, unit: str = "samepaged") -> str:
    return systemctl("show", "--value", "--property", name, unit).strip()


def status(pid: int, name: str) -> str:
    """Return the value of a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))
    return found


class Subject:
    """The guest that the service scans, over a connection that survives restarts of libvirtd."""

    def __init__(self) -> None:
        self._connection: Any = None

    def domain(self) -> Any:
        if self._connection is None or not self._connection.isAlive():
            self.close()
            self._connection = libvirt.open(URI)
        return self._connection.lookupByName(NAME)

    def is_in(self, state: int) -> bool:
        try:
            found: int = self.domain().state()[0]
        except libvirt.libvirtError:
            return False
        return found == state

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()


class Service:
    """The installed unit."""

    def configure(self, **scan: str) -> bool:
        """Write the configuration. Return whether it changed."""
        settings = {
            "interval": "2s",
            "jitter": "0",
            "max_drift": "1",
            "mode": "snapshot",
            "max_pause": MAX_PAUSE,
        } | scan
        words = ", ".join(f"{key}: {value}" for key, value in settings.items())
        text = f"guests: {{include: [{NAME}]}}\nscan: {{{words}}}\n"
        changed = not CONFIG.exists() or CONFIG.read_text() != text
        CONFIG.write_text(text)
        return changed

    @property
    def pid(self) -> int:
        return int(show("MainPID"))

    def guards(self) -> list[int]:
        """Return the pids of the guard processes in the service's control group."""
        found: list[int] = []
        processes = Path("/sys/fs/cgroup/system.slice/samepaged.service/cgroup.procs")
        with contextlib.suppress(OSError):  # the group, or one of its processes, has ended
            pids = processes.read_text().split()
            found += [
                int(pid) for pid in pids if b"samepaged.guard.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
        return found

    def sample(self, name: str) -> tuple[float, dict[str, str]]:
        """Return value and labels of the guest's sample; 0 and {} if the sample is missing or the service does not
        answer.
        """
        with contextlib.suppress(OSError, HTTPException), urllib.request.urlopen(METRICS, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                found = SAMPLE.fullmatch(line)
                if found is not None and found["name"] == name:
                    labels = dict(LABEL.findall(found["labels"]))
                    if labels.get("domain") == NAME:
                        return float(found["value"]), labels
        return 0.0, {}

    def scanned_as(self) -> dict[str, str]:
        """Return the labels that describe the guest's last scan."""
        return self.sample("samepage_domain_info")[1]

    def wait_for_a_scan(self) -> None:
        """Wait for the success of a scan that completed after this call."""
        asked = time.time()
        wait_until("a scan", lambda: self.sample("samepage_domain_last_scan_success_timestamp_seconds")[0] > asked)

    @contextlib.contextmanager
    def drop_in(self, **settings: str) -> Iterator[None]:
        """Override settings of the unit. Some take effect only when a process starts."""
        path = Path("/run/systemd/system/samepaged.service.d/test.conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\n" + "".join(f"{key}={value}\n" for key, value in settings.items()))
        systemctl("daemon-reload")
        try:
            yield
        finally:
            path.unlink()
            systemctl("daemon-reload")
