"""The units as a user installs them, under a real systemd: their permissions; and that every way to end the service
leaves the guest running. The service is ended while a guest is suspended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.guests import Spec, running
from tests.support.waiting import wait_for
from tests.vm.conftest import KSM, URI
from tests.vm.service import NAME, PATIENCE, Service, Subject, audit_trail, log, show, status, systemctl, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNING, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED
# systemd reads units, sysusers.d and tmpfiles.d below it, and `make install` installs them there.
PREFIX = Path("/usr/local")
ETC = Path("/etc/samepaged")
RULES = Path("/etc/polkit-1/rules.d/50-samepaged.rules")
LIBVIRTD = Path("/etc/libvirt/libvirtd.conf")
RUNTIME = Path("/run/samepaged")
PROBE = Path(__file__).with_name("probe.py")
UNITS = {"samepaged", "samepaged-web"}


@pytest.fixture(scope="module")
def subject(connection: Any) -> Iterator[Subject]:
    """A separate guest: these tests restart libvirtd, which ends the connections of all others."""
    one = Subject()
    with tempfile.TemporaryDirectory(prefix="lab-") as root:
        Path(root).chmod(0o755)
        with running(connection, Path(root), Spec(NAME, memory=128, accel="kvm", cmdline="region=64")) as (writer,):
            writer.fill(0, 64 * 256, seed=1, distinct=64 * 256)
            yield one
            with contextlib.suppress(libvirt.libvirtError):
                one.domain().destroy()
    one.close()


@pytest.fixture(scope="module")
def service(subject: Subject) -> Iterator[Service]:
    """Install and start the service as a user does."""
    for source, target in {
        "samepaged.sysusers.conf": PREFIX / "lib/sysusers.d/samepaged.conf",
        "samepaged.tmpfiles.conf": PREFIX / "lib/tmpfiles.d/samepaged.conf",
        "samepaged.service": PREFIX / "lib/systemd/system/samepaged.service",
        "samepaged-web.service": PREFIX / "lib/systemd/system/samepaged-web.service",
        "samepaged.rules": RULES,
    }.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((Path("systemd") / source).read_text().replace("@PREFIX@", str(PREFIX)))
    subprocess.run(["systemd-sysusers", "samepaged.conf"], check=True)
    one = Service()
    ETC.mkdir(exist_ok=True)
    one.configure()
    (ETC / "web.yaml").write_text("")
    subprocess.run(["systemd-tmpfiles", "--create", "samepaged.conf"], check=True)
    systemctl("daemon-reload")
    started = subprocess.run(["systemctl", "start", "samepaged"], check=False, timeout=200)
    assert started.returncode == 0, log()
    yield one
    systemctl("stop", "samepaged")


@pytest.fixture(autouse=True)
def the_guest_runs_in_the_end(service: Service, subject: Subject) -> Iterator[None]:
    """Check that each test leaves the guest running. A test begins with a service that is up and has scanned."""
    changed = service.configure()
    if show("ActiveState") != "active":
        systemctl("start", "samepaged")
        service.wait_for_a_scan()
    elif changed:
        systemctl("reload", "samepaged")
        service.wait_for_a_scan()
    yield
    wait_until("the guest runs", lambda: subject.is_in(RUNNING))
    # Between scans, the guest is running and the journal is empty.
    wait_until("the journal is empty", lambda: all(not path.stat().st_size for path in RUNTIME.glob("suspended-*")))


def wait_until_suspended(subject: Subject) -> None:
    wait_for(lambda: subject.is_in(PAUSED), PATIENCE, log, every=0.0005)  # a pause is short


@pytest.fixture
def suspended(service: Service, subject: Subject) -> int:
    """The pid of a scanner stopped by SIGSTOP in the middle of a scan, with its guest suspended."""
    while True:
        wait_until_suspended(subject)
        pid = service.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)  # for a resume that was already on its way
        if subject.is_in(PAUSED):
            return pid
        os.kill(pid, signal.SIGCONT)


# --- the service at work


def test_the_units_are_up_once_they_say_so(service: Service) -> None:
    assert show("Type") == show("Type", "samepaged-web") == "notify"
    assert show("ActiveState") == show("ActiveState", "samepaged-web") == "active"
    assert show("NRestarts") == "0"


@pytest.mark.parametrize("reader", ["process", "dump"])
def test_the_guest_is_scanned_by_either_reader(service: Service, reader: str) -> None:
    service.configure(reader=reader)
    systemctl("reload", "samepaged")
    wait_until(f"a scan by the {reader} reader", lambda: service.scanned_as().get("reader") == reader)


def test_the_guest_is_scanned_by_precopy(service: Service) -> None:
    service.configure(mode="precopy")
    systemctl("reload", "samepaged")
    wait_until("a scan by precopy", lambda: service.scanned_as().get("mode") == "precopy")


def exported_pauses(service: Service) -> tuple[int, float]:
    """Return number and sum of the guest's pauses since the service started, from scrapes with equal numbers."""
    while True:
        count, seconds, again = (
            service.sample(f"samepage_pause_duration_seconds_{part}")[0] for part in ("count", "sum", "count")
        )
        if count == again:
            return int(count), seconds


def test_the_journal_has_an_entry_for_each_scan_of_the_guest(service: Service, subject: Subject) -> None:
    service.wait_for_a_scan()
    pauses, seconds = exported_pauses(service)
    entries = audit_trail(service.pid)
    assert {entry["SAMEPAGED_UUID"] for entry in entries} == {subject.domain().UUIDString()}
    assert {(entry["_TRANSPORT"], entry["SYSLOG_IDENTIFIER"]) for entry in entries} == {("journal", "samepaged")}
    assert entries[-1]["PRIORITY"] == "6"
    assert entries[-1]["MESSAGE"].startswith(f'suspended domain="{NAME}" ')
    assert (entries[-1]["SAMEPAGED_MODE"], entries[-1]["SAMEPAGED_RESULT"]) == ("snapshot", "scanned")
    totals = list(accumulate(int(entry["SAMEPAGED_PAUSES"]) for entry in entries))
    assert pauses in totals  # a scan may have ended since the scrape
    exported = entries[: totals.index(pauses) + 1]
    total = sum(float(entry["SAMEPAGED_PAUSED_SECONDS"]) for entry in exported)
    assert total == pytest.approx(seconds, abs=1e-6 * len(exported))


# --- permissions of the processes


CAPABILITIES = {"cap_dac_override": 1, "cap_dac_read_search": 2, "cap_sys_ptrace": 19}
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def test_process_capabilities_match_the_unit(service: Service) -> None:
    asked = sum(1 << CAPABILITIES[name] for name in show("AmbientCapabilities").split())
    assert asked > 0
    assert all(int(status(service.pid, kind), 16) & ~asked == 0 for kind in SETS)
    assert int(status(service.pid, "CapEff"), 16) == asked
    web = int(show("MainPID", "samepaged-web"))
    assert [int(status(web, kind), 16) for kind in SETS] == [0] * len(SETS)


def test_processes_run_as_separate_users(service: Service) -> None:
    for unit in UNITS:
        user = subprocess.check_output(["id", "--user", unit], text=True).strip()
        assert status(int(show("MainPID", unit)), "Uid").split() == [user] * 4
    assert subprocess.check_output(["id", "--groups", "--name", "samepaged-web"], text=True).split() == [
        "samepaged-web"
    ]


def sockets(pid: int) -> set[str]:
    links = (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_only_the_web_process_listens_on_the_network(service: Service) -> None:
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp", "udp6", "raw")]
    inodes = {line.split()[9] for table in tables for line in table}
    assert sockets(int(show("MainPID", "samepaged-web"))) & inodes
    assert not any(sockets(pid) & inodes for pid in (service.pid, *service.guards()))


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_systemd_exposure_is_bounded(service: Service, unit: str) -> None:
    said = subprocess.check_output(["systemd-analyze", "security", "--no-pager", unit], text=True)
    assert float(said.splitlines()[-1].split(":")[1].split()[0]) <= 2.0, said


def probe(unit: str, *words: str) -> dict[str, str]:
    """Run tests/vm/probe.py in a unit with the settings of this one, and return its results."""
    name, output = f"{unit}-probe", Path(f"results/{unit}-probe.json").resolve()
    left_out = ("Type", "Notify", "ExecStart", "ExecReload", "ExecStop", "Watchdog", "Restart", "Timeout")
    lines = (PREFIX / f"lib/systemd/system/{unit}.service").read_text().partition("[Service]")[2].splitlines()
    kept = [line for line in lines if not line.startswith(left_out)]
    asked = " ".join(f'"{word}"' for word in words)
    started = [f"ExecStart={PREFIX}/lib/samepaged/bin/python -I {PROBE} {asked}", f"StandardOutput=truncate:{output}"]
    text = "\n".join(["[Service]", "Type=oneshot", *started, *kept]).partition("[Install]")[0]
    Path(f"/run/systemd/system/{name}.service").write_text(text + "\n")
    systemctl("daemon-reload")
    subprocess.run(["systemctl", "start", name], check=False, timeout=120)
    assert show("Result", name) == "success", subprocess.check_output(["journalctl", f"--unit={name}"], text=True)
    found: dict[str, str] = json.loads(output.read_text())
    return found


REFUSED_CALLS = {
    "bpf",
    "io_uring_setup",
    "keyctl",
    "mount",
    "perf_event_open",
    "pidfd_getfd",
    "process_vm_writev",
    "ptrace",
    "unshare",
    "userfaultfd",
}


def test_scanner_permissions(service: Service) -> None:
    found = probe(
        "samepaged",
        *("make /var/lib/samepaged", "make /run/samepaged", "read /etc/samepaged/config.yaml", f"write {KSM}/run"),
        *("connect /run/libvirt/libvirt-sock", "connect /run/samepaged-web/feed"),
        *("make /etc", "make /usr/local/bin", "make /run", "make /run/libvirt", "make /var/lib", "make /boot"),
        *("write /proc/sys/vm/swappiness", "write /sys/kernel/mm/transparent_hugepage/enabled"),
        *("run /var/lib/samepaged", "run /run/samepaged", "run /tmp", "run /var/tmp", "run /dev/shm"),
        *("stream AF_INET", "stream AF_INET6", "socket AF_NETLINK", "socket AF_PACKET", "stream AF_VSOCK"),
    )
    assert {name for name, result in found.items() if result == "ok"} == {
        "make /var/lib/samepaged",
        "make /run/samepaged",
        "read /etc/samepaged/config.yaml",
        f"write {KSM}/run",
        "connect /run/libvirt/libvirt-sock",
        "connect /run/samepaged-web/feed",
        "lock memory",
    }
    assert {name for name, result in found.items() if result == "EPERM"} == REFUSED_CALLS | {"memory to write and run"}
    expected = {"make": "EROFS", "write": "EROFS", "run": "EACCES", "stream": "EAFNOSUPPORT", "socket": "EAFNOSUPPORT"}
    others = {name: result for name, result in found.items() if result not in {"ok", "EPERM"}}
    assert others == {name: expected[name.split()[0]] for name in others}


def test_web_process_permissions(service: Service) -> None:
    found = probe(
        "samepaged-web",
        *("make /run/samepaged-web", "read /etc/samepaged/web.yaml", "stream AF_INET", "stream AF_INET6"),
        *("read /etc/samepaged/config.yaml", "read /etc/shadow", "read /var/lib/samepaged/seed", "read /proc/1/status"),
        *("connect /run/libvirt/libvirt-sock", "connect /run/libvirt/libvirt-sock-ro"),
        *("make /etc", "make /run", "make /var/lib", "make /run/samepaged", "run /run/samepaged-web", "run /tmp"),
        *("socket AF_NETLINK", "socket AF_PACKET", "stream AF_VSOCK", "socket AF_INET"),
    )
    assert {name for name, result in found.items() if result == "ok"} == {
        "make /run/samepaged-web",
        "read /etc/samepaged/web.yaml",
        "stream AF_INET",
        "stream AF_INET6",
    }
    assert {name for name, result in found.items() if result == "EPERM"} >= REFUSED_CALLS


# --- libvirt's access driver


@pytest.fixture
def access_driver(service: Service) -> Iterator[None]:
    """libvirtd checks every call with polkit."""
    before = LIBVIRTD.read_text()
    LIBVIRTD.write_text(before + '\naccess_drivers = [ "polkit" ]\n')
    systemctl("restart", "libvirtd")
    yield
    LIBVIRTD.write_text(before)
    systemctl("restart", "libvirtd")


def denials() -> list[str]:
    """Return the denied calls of the current libvirtd."""
    words = ["journalctl", f"_PID={show('MainPID', 'libvirtd')}", "--no-pager", "--output=cat", "--quiet"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [line for line in said.splitlines() if "denied" in line]


def as_samepaged(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", "--reuid=samepaged", "--regid=samepaged", "--init-groups", "virsh", "--connect", URI, *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_libvirt_access_driver_allows_only_scans(service: Service, access_driver: None) -> None:
    service.wait_for_a_scan()
    service.wait_for_a_scan()
    assert denials() == []
    assert as_samepaged("domstate", NAME).returncode == 0
    for refused in ("destroy", "undefine", "dumpxml --security-info", "qemu-monitor-command --hmp info", "reset"):
        name, *rest = refused.split()
        done = as_samepaged(name, NAME, *rest)
        assert done.returncode != 0, refused
        assert "access denied" in done.stderr, (refused, done.stderr)
    target = RUNTIME / "dumped"
    assert "access denied" in as_samepaged("dump", NAME, str(target), "--memory-only").stderr
    assert not target.exists()
    assert "access denied" in as_samepaged("capabilities").stderr


# --- ways to end, each while the guest is suspended


def test_stop_resumes_the_guest(service: Service, subject: Subject, suspended: int) -> None:
    systemctl("stop", "samepaged")  # systemd continues a stopped process, so that it receives the signal
    assert subject.is_in(RUNNING)
    assert (show("ActiveState"), show("Result")) == ("inactive", "success")
    last = audit_trail(suspended)[-1]
    assert last["SAMEPAGED_RESULT"] in {"interrupted", "scanned"}  # it may have read all of the guest
    assert float(last["SAMEPAGED_PAUSED_SECONDS"]) > 0.3  # while the scanner was stopped
    wait_until("the web process goes with it", lambda: show("ActiveState", "samepaged-web") == "inactive")


def test_reload_does_not_end_the_scan(service: Service, subject: Subject, suspended: int) -> None:
    service.configure(reader="dump")
    systemctl("--no-block", "reload", "samepaged")
    os.kill(suspended, signal.SIGCONT)
    wait_until("the new configuration is used", lambda: service.scanned_as().get("reader") == "dump")
    assert service.pid == suspended


def test_watchdog_ends_the_hanging_scanner(service: Service, subject: Subject) -> None:
    service.configure(max_pause="1s")
    with service.drop_in(WatchdogSec="20", RestartSec="1"):
        systemctl("restart", "samepaged")
        service.wait_for_a_scan()
        restarts = int(show("NRestarts"))
        wait_until_suspended(subject)
        pid = service.pid
        os.kill(pid, signal.SIGSTOP)
        # The deadline is two seconds after the suspension; the watchdog acts after twenty.
        wait_until("the guard resumes the guest", lambda: subject.is_in(RUNNING), 15)
        assert service.pid == pid
        wait_until("the watchdog ends the scanner", lambda: service.pid != pid)
    wait_until("it is started again", lambda: int(show("NRestarts")) > restarts)
    wait_until("it is up", lambda: show("ActiveState") == "active")
    service.wait_for_a_scan()


def test_recover_resumes_after_total_kill(service: Service, subject: Subject, suspended: int) -> None:
    # So late that the next start cannot be the cause.
    with service.drop_in(RestartSec="300"):
        systemctl("kill", "--signal=KILL", "samepaged")
        wait_until("recover resumes the guest", lambda: subject.is_in(RUNNING))
        wait_until("the service waits for its restart", lambda: show("SubState") == "auto-restart")
        assert subject.is_in(RUNNING)


def test_service_restarts_after_scanner_kill(service: Service, subject: Subject, suspended: int) -> None:
    os.kill(suspended, signal.SIGKILL)
    wait_until("the guest runs", lambda: subject.is_in(RUNNING), 20)
    wait_until("another scanner is up", lambda: service.pid not in {0, suspended} and show("ActiveState") == "active")


def test_scanner_survives_guard_kill(service: Service, subject: Subject, suspended: int) -> None:
    (guard,) = service.guards()
    os.kill(guard, signal.SIGKILL)
    os.kill(suspended, signal.SIGCONT)
    wait_until("the guest runs", lambda: subject.is_in(RUNNING))
    service.wait_for_a_scan()
    assert service.pid == suspended
    (another,) = service.guards()
    assert another != guard


def test_libvirt_restart_ends_no_process(service: Service, subject: Subject, suspended: int) -> None:
    systemctl("restart", "libvirtd")
    wait_until("libvirt is back, and the guest is still suspended", lambda: subject.is_in(PAUSED))
    os.kill(suspended, signal.SIGCONT)
    wait_until("the guest runs", lambda: subject.is_in(RUNNING))
    service.wait_for_a_scan()
    assert service.pid == suspended


@contextlib.contextmanager
def libvirt_away() -> Iterator[None]:
    units = ["libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"]
    systemctl("stop", *units)
    try:
        yield
    finally:
        systemctl("start", *reversed(units))


def test_recovery_waits_for_libvirt(service: Service, subject: Subject, suspended: int) -> None:
    with libvirt_away():
        systemctl("kill", "--signal=KILL", "samepaged")
        wait_until("the scanner is gone", lambda: service.pid != suspended)
    wait_until("the guest runs", lambda: subject.is_in(RUNNING))
    wait_until("the service is up again", lambda: show("ActiveState") == "active")


def test_stop_waits_for_libvirt(service: Service, subject: Subject, suspended: int) -> None:
    with libvirt_away():
        systemctl("--no-block", "stop", "samepaged")
        wait_until("the service is being stopped", lambda: show("ActiveState") == "deactivating")
        time.sleep(1)
        assert service.pid == suspended
    # While the service is being stopped, libvirt can be started.
    wait_until("the guest runs", lambda: subject.is_in(RUNNING), 40)
    wait_until("the service has stopped", lambda: show("ActiveState") == "inactive")
    assert show("Result") == "success"


def test_stop_leaves_hanging_qemu_to_guard(service: Service, subject: Subject, suspended: int) -> None:
    qemu = int(Path(f"/run/libvirt/qemu/{NAME}.pid").read_text())
    os.kill(qemu, signal.SIGSTOP)
    try:
        systemctl("stop", "samepaged")
        wait_until("the scanner has ended", lambda: service.pid == 0)
        assert show("ActiveState") in {"inactive", "failed"}
        assert service.guards() != []
    finally:
        os.kill(qemu, signal.SIGCONT)
    wait_until("the guest runs", lambda: subject.is_in(RUNNING), 15)
    wait_until("the guard ends by itself", lambda: service.guards() == [], 30)
