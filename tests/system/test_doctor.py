"""`samepaged doctor` reports on real guests and leaves them unchanged."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.daemon import daemon
from tests.support.guests import Spec, in_a_job, running
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

NUMA = (
    "<numa><cell id='0' cpus='0' memory='64' unit='MiB'/><cell id='1' cpus='1' memory='32' unit='MiB'/>"
    "<cell id='2' memory='32' unit='MiB'/></numa>"
)
MEMFD = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


def doctor(samepaged: Samepaged, *words: str, expect: int = 0, **options: Any) -> dict[str, Any]:
    done = samepaged("doctor", "--json", "--config", str(samepaged.config), *words, expect=expect, **options)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == 1
    return found


def named(found: dict[str, Any], name: str, domain: str | None = None) -> dict[str, Any]:
    (check,) = [check for check in found["checks"] if (check["name"], check["domain"]) == (name, domain)]
    return dict(check)


def guest(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [one for one in found["guests"] if one["name"] == name]
    return dict(one)


@contextlib.contextmanager
def suspensions(uri: str, marker: Writer, log: Path) -> Iterator[Callable[[], int]]:
    """How often a guest has been suspended since this began. As events come in their order, `marker` is suspended to
    confirm receipt of all earlier events; these suspensions are not counted.
    """

    def heard() -> int:
        return log.read_text().count("Suspended")

    def mark() -> None:
        line = f"'{marker.name}': Suspended"
        before = log.read_text().count(line)
        marker.domain.suspend()
        marker.domain.resume()
        wait_for(lambda: log.read_text().count(line) > before, 30, log.read_text)

    def listens() -> bool:
        assert listener.poll() is None
        if "Suspended" in log.read_text():
            return True
        marker.domain.suspend()
        marker.domain.resume()
        return False

    words = ["stdbuf", "-oL", "virsh", "--connect", uri, "event", "--loop", "--event", "lifecycle"]
    with log.open("w") as output, subprocess.Popen(words, stdout=output) as listener:
        try:
            wait_for(listens, 30, every=0.3)
            mark()
            marks, begun = 0, heard()

            def count() -> int:
                nonlocal marks
                marks += 1
                mark()
                return heard() - begun - marks

            yield count
        finally:
            listener.terminate()


def test_doctor_suspends_and_creates_nothing(
    samepaged: Samepaged, pair: list[Writer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    a, b = pair
    with suspensions(samepaged.uri, b, tmp_path_factory.mktemp("virsh") / "log") as suspended:
        before = sorted(samepaged.root.iterdir())
        found = doctor(samepaged)
        assert sorted(samepaged.root.iterdir()) == before == [samepaged.config]
        assert suspended() == 0
        samepaged.scan(a.name)  # which raises an event
        assert suspended() >= 1
    assert [one["name"] for one in found["guests"]] == [writer.name for writer in pair]


def test_healthy_host_has_no_failures(samepaged: Samepaged, pair: list[Writer]) -> None:
    done = samepaged("doctor", "--config", str(samepaged.config))
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line and line[0] not in " 0123456789"} <= {"ok", "warning"}
    for writer in pair:
        assert any(line.startswith(f"ok       guest {writer.name}: 96.0 MiB (") for line in lines)
    assert lines[-1].endswith("0 failures")
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_forecast_mode_equals_scan_mode(samepaged: Samepaged, pair: list[Writer], connection: Any, root: Path) -> None:
    a, _ = pair
    with running(connection, root, Spec("samepaged-test-memfd", memory_backing=MEMFD)) as (shared,):
        for asked in (
            "{}",
            "{max_pause: 15ms, max_duty: 1.0}",
            "{mode: precopy}",
            "{mode: live}",
            "{reader: dump, mode: snapshot}",
        ):
            samepaged.configure(f"scan: {asked}")
            found = doctor(samepaged)
            scans = {one["name"]: one for one in samepaged.scan(a.name, shared.name)["domains"]}
            for name, scan in scans.items():
                predicted = guest(found, name)
                assert (asked, predicted["mode"], predicted["reader"]) == (asked, scan["mode"], scan["reader"])
                assert (predicted["predicted_pause_seconds"] == 0) == (scan["mode"] == "live")
                assert predicted["memory_bytes"] == scan["memory_pages"] * 4096
                if scan["reader"] == "process":
                    backed = scan["memory_pages"] - scan["absent_pages"] - scan["swapped_pages"]
                    # the guest runs on in between
                    assert predicted["backed_bytes"] == pytest.approx(backed * 4096, rel=0.1)


def test_fallback_reason_is_shown(samepaged: Samepaged, connection: Any, root: Path) -> None:
    samepaged.configure("scan: {max_pause: 5ms}")
    with running(connection, root, Spec("samepaged-test-memfd", memory_backing=MEMFD)) as (shared,):
        found = doctor(samepaged)
    check = named(found, "guest", shared.name)
    assert check["status"] == "warning"
    assert "its memory is shared" in check["message"]
    assert "scan.max_pause" in check["remedy"]
    assert guest(found, shared.name)["obstacle_code"] == "shared"


def test_skipped_guests_have_a_reason(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    a, b = pair
    samepaged.configure(f"guests: {{exclude: ['{b.name}']}}")
    with in_a_job(a, tmp_path):
        found = doctor(samepaged)
    assert [one["skipped_reason_code"] for one in found["guests"]] == ["in_job", "excluded"]
    busy = named(found, "guest", a.name)
    assert (busy["status"], busy["message"][:17]) == ("warning", "skipped (in_job):")
    assert f"virsh domjobinfo {a.name}" in busy["remedy"]
    assert named(found, "guest", b.name)["status"] == "ok"


@pytest.mark.leaves_paused
def test_paused_guest_is_forecast(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, _ = pair
    a.domain.suspend()
    try:
        found = doctor(samepaged)
        assert a.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    finally:
        a.domain.resume()
    assert guest(found, a.name)["paused"]
    assert guest(found, a.name)["predicted_pause_seconds"] == 0
    assert "already paused, not by samepaged" in named(found, "guest", a.name)["message"]


def test_invalid_configuration_keeps_other_checks(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure("scan: {interval: soon, mod: live}")
    found = doctor(samepaged, "--connect", samepaged.uri, expect=2)
    problems = [check for check in found["checks"] if check["name"] == "configuration"]
    assert [check["status"] for check in problems] == ["failure", "failure"]
    assert ":5:18: scan.interval" in problems[0]["message"]
    assert "did you mean mode" in " ".join(f"{check['message']} {check['remedy']}" for check in problems)
    assert {one["name"] for one in found["guests"]} == {writer.name for writer in pair}


def test_missing_libvirt_keeps_host_checks(samepaged: Samepaged) -> None:
    found = doctor(samepaged, "--connect", "qemu:///system?socket=/nowhere/at-all", expect=3)
    assert named(found, "libvirt")["status"] == "failure"
    assert "not checked" in named(found, "libvirt rights")["message"]
    assert named(found, "pagemap")["status"] == "ok"
    assert found["guests"] == []


def test_non_qemu_driver_is_a_failure(samepaged: Samepaged) -> None:
    found = doctor(samepaged, "--connect", "test:///default", expect=3)
    assert "use the QEMU driver" in named(found, "libvirt")["remedy"] or "QEMU" in named(found, "libvirt")["message"]


def test_read_only_rights_are_a_failure(samepaged: Samepaged, pair: list[Writer]) -> None:
    # It can be opened as if for writing, and refuses each change.
    uri = samepaged.uri.replace("libvirt-sock", "libvirt-sock-ro")
    found = doctor(samepaged, "--connect", uri, expect=1)
    rights = named(found, "libvirt rights")
    assert rights["status"] == "failure"
    assert "read-only access" in rights["message"]
    assert {one["mode"] for one in found["guests"]} == {"snapshot"}


def test_missing_capabilities_are_named(samepaged: Samepaged, pair: list[Writer]) -> None:
    without = ["setpriv", "--bounding-set=-sys_ptrace,-dac_override"]
    done = subprocess.run(
        [*without, *samepaged.command("doctor", "--json", "--config", str(samepaged.config))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert "CAP_SYS_PTRACE" in named(found, "rights")["message"]
    assert named(found, "libvirt")["status"] == "ok"
    for writer in pair:
        check = named(found, "guest", writer.name)
        assert (check["status"], guest(found, writer.name)["skipped_reason_code"]) == ("failure", "no_permission")


def test_verify_layout_agrees_and_taints(samepaged: Samepaged, connection: Any, root: Path) -> None:
    specs = [
        Spec("samepaged-test-plain", machine="pc"),
        Spec("samepaged-test-numa", memory=128, numa=NUMA, vcpus=2),
        Spec("samepaged-test-memfd", memory_backing=MEMFD),
    ]
    with running(connection, root, *specs) as writers:
        tainted = [tuple(writer.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING)) for writer in writers]
        found = doctor(samepaged)
        assert not [check for check in found["checks"] if check["name"] == "layout"]
        assert tainted == [tuple(w.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING)) for w in writers]
        found = doctor(samepaged, "--verify-layout")
        for writer in writers:
            check = named(found, "layout", writer.name)
            assert check["status"] == "ok", check
            assert "tainted" in check["message"]
            assert any("monitor" in text for text in writer.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING))
    assert named(found, "layout", "samepaged-test-numa")["message"].count(" MiB at 0x") == 3


def test_names_are_quoted_in_commands(samepaged: Samepaged, connection: Any, root: Path, tmp_path: Path) -> None:
    name = "semi;co'lon ünï-名"
    with running(connection, root, Spec(name, memory=84, cmdline="region=1")) as (odd,):
        assert guest(doctor(samepaged), name)["mode"] == "snapshot"
        with in_a_job(odd, tmp_path):
            done = samepaged("doctor", "--config", str(samepaged.config))
    assert f"guest {name}: skipped (in_job)" in done.stdout
    assert "virsh domjobinfo 'semi;co'\"'\"'lon" in done.stdout


def test_port_of_samepaged_is_ok(samepaged: Samepaged, pair: list[Writer]) -> None:
    with daemon(samepaged) as service:
        port = service.address.rpartition(":")[2]
        other = samepaged.root / "other.yaml"
        other.write_text(samepaged.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        done = samepaged("doctor", "--json", "--config", str(other))
    assert "samepaged listens there now" in named(json.loads(done.stdout), "listen address")["message"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        other.write_text(samepaged.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{server.getsockname()[1]}"))
        done = samepaged("doctor", "--json", "--config", str(other), expect=1)
    check = named(json.loads(done.stdout), "listen address")
    assert (check["status"], "ss -ltnp" in check["remedy"]) == ("failure", True)


def answer(server: socket.socket) -> None:
    """An unrelated web server."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_only_on_terminals(
    samepaged: Samepaged,
    environment: dict[str, str],
    coloured: bool,  # noqa: FBT001 - a case's expectation
) -> None:
    main, side = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(
        samepaged.command("doctor", "--connect", "qemu:///system?socket=/nowhere/at-all"),
        stdout=side,
        env=kept | {"TERM": "xterm"} | environment,
    ) as process:
        os.close(side)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(main, 1 << 16):
                said += part
    os.close(main)
    assert process.returncode == 3
    assert (b"\x1b[31mfailure" in said, b"\x1b" in said) == (coloured, coloured)
