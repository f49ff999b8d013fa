"""The daemon: its metrics, signals, systemd integration, and restarts of libvirtd."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.command import Samepaged
from tests.support.daemon import Daemon, daemon
from tests.support.guests import Spec, in_a_job, running
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.prometheus import prometheus
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.guests import Writer

FAST = "scan: {interval: 1s, jitter: 0, max_drift: 1}"


def test_the_daemon_exports_what_a_scan_prints(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure(FAST)
    a, b = pair
    with daemon(samepaged) as one:
        one.wait_scans(2)
        for writer in pair:
            writer.domain.suspend()
        try:
            scan = samepaged.scan()
            one.wait_scans(2)
            metrics = one.metrics()
        finally:
            for writer in pair:
                writer.domain.resume()
        assert one.stop() < 1.5

    def value(name: str, **labels: str) -> float:
        return metrics[name, frozenset(labels.items())]

    for domain in scan["domains"]:
        name = domain["name"]
        for state in ("absent", "swapped", "zero", "distinct", "duplicate"):
            assert value("samepage_domain_memory_bytes", domain=name, state=state) == domain[f"{state}_pages"] * 4096
        assert value("samepage_domain_self_sharing_bytes", domain=name) == domain["duplicate_pages"] * 4096
    assert value("samepage_host_inter_sharing_bytes") == scan["inter_sharing_pages"] * 4096
    assert value("samepage_group_inter_sharing_bytes", group="default") == scan["inter_sharing_pages"] * 4096
    pages = scan["pairs"][0]["inter_sharing_pages"]
    assert value("samepage_pair_inter_sharing_bytes", domain_a=a.name, domain_b=b.name) == pages * 4096
    assert value("samepage_libvirt_up") == 1
    # twice running, and then paused by us: no pause of samepaged's own
    assert value("samepage_pause_duration_seconds_count", domain=a.name) >= 2


def test_a_real_prometheus_scrapes_the_daemon(samepaged: Samepaged, pair: list[Writer], root: Path) -> None:
    samepaged.configure(FAST)
    with daemon(samepaged) as one, prometheus(root / "prometheus", one.address) as server:
        one.wait_scans(1)
        (up,) = server.wait_for('up{job="samepaged"} == 1')
        assert up["metric"]["instance"] == one.address
        series = server.wait_for("samepage_domain_self_sharing_bytes > 0")
        assert {one["metric"]["domain"] for one in series} == {writer.name for writer in pair}
        (whole,) = server.wait_for("sum(samepage_domain_memory_bytes)")
        assert float(whole["value"][1]) == 2 * 96 * 2**20
        assert server.wait_for("histogram_quantile(0.9, samepage_pause_duration_seconds_bucket) > 0")


def test_a_domain_that_ends_is_gone_from_the_next_scrape(
    samepaged: Samepaged, pair: list[Writer], connection: Any, root: Path
) -> None:
    samepaged.configure("scan: {interval: 1h, jitter: 0}")
    spec = Spec("samepaged-test-leaving", memory=84, cmdline="region=1")
    with running(connection, root, spec) as (leaving,), daemon(samepaged) as one:
        one.wait_scans(1)
        host = one.metric("samepage_host_self_sharing_bytes") or 0
        own = one.metric("samepage_domain_self_sharing_bytes", domain=spec.name) or 0
        assert own > 0
        leaving.domain.destroy()
        one.wait_metric(None, "samepage_domain_self_sharing_bytes", domain=spec.name, timeout=5)
        # the next scan is an hour away, yet the host's sum is without it
        one.wait_metric(host - own, "samepage_host_self_sharing_bytes", timeout=5)
        assert one.metric("samepage_domain_self_sharing_bytes", domain=pair[0].name) is not None
        assert not any(spec.name in dict(labels).values() for _, labels in one.metrics())


def paused_seconds(one: Daemon, name: str) -> tuple[float, float]:
    """Suspended time of a domain: since the daemon's start, and since the start of its series."""
    metrics, labels = one.metrics(), frozenset({("domain", name)})
    total = metrics.get(("samepage_domain_paused_seconds_total", labels), 0.0)
    return total, metrics.get(("samepage_pause_duration_seconds_sum", labels), 0.0)


def test_a_renamed_domain_is_the_same_guest(samepaged: Samepaged, connection: Any, root: Path) -> None:
    samepaged.configure(FAST)
    before, after = "samepaged-test-before", "samepaged-test-after"
    domains = [connection.defineXML(Spec(before, memory=84, cmdline="region=1").xml(root / "renamed-1.serial"))]
    try:
        with daemon(samepaged) as one:
            domains[0].create()
            one.wait_higher("samepage_domain_paused_seconds_total", domain=before)
            domains[0].destroy()
            one.wait_metric(None, "samepage_domain_paused_seconds_total", domain=before)
            domains[0].rename(after)
            domains.append(
                connection.defineXML(Spec(before, memory=84, cmdline="region=1").xml(root / "renamed-2.serial"))
            )
            for domain in domains:
                domain.create()
            for name in (before, after):
                one.wait_higher("samepage_pause_duration_seconds_count", domain=name)
            total, own = paused_seconds(one, after)
            assert total > own + 1e-6
            total, own = paused_seconds(one, before)
            assert total == pytest.approx(own, abs=1e-6)
    finally:
        for domain in domains:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefine()


def test_a_failure_is_counted_with_its_reason_and_the_others_are_exported(
    samepaged: Samepaged, pair: list[Writer], tmp_path: Path
) -> None:
    a, b = pair
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        assert one.metric("samepage_scan_failures_total", domain=a.name, reason="in_job") is None
        known = one.metric("samepage_domain_last_scan_success_timestamp_seconds", domain=a.name)
        with in_a_job(a, tmp_path):
            one.wait_scans(2)
            assert (one.metric("samepage_scan_failures_total", domain=a.name, reason="in_job") or 0) >= 1
            # its last results stay, with their age; scans of the other continue
            kept = one.metric("samepage_domain_last_scan_success_timestamp_seconds", domain=a.name) or 0
            assert kept >= (known or 0)
            assert (one.metric("samepage_domain_last_scan_success_timestamp_seconds", domain=b.name) or 0) > kept
        one.wait_scans(2)
        assert (one.metric("samepage_domain_last_scan_success_timestamp_seconds", domain=a.name) or 0) > kept


def test_sighup_reloads_and_a_bad_file_changes_nothing(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, b = pair
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        samepaged.configure(f"{FAST}\nguests: {{exclude: ['{b.name}']}}")
        one.process.send_signal(signal.SIGHUP)
        one.wait_metric(None, "samepage_domain_self_sharing_bytes", domain=b.name)
        assert one.metric("samepage_config_last_reload_successful") == 1

        samepaged.config.write_text("scan: {intervall: 1s}\n")
        one.process.send_signal(signal.SIGHUP)
        one.wait_metric(0, "samepage_config_last_reload_successful")
        assert re.search(r"config\.yaml:1:\d+: .*intervall", one.log)
        one.wait_scans(1)
        assert one.metric("samepage_domain_self_sharing_bytes", domain=a.name) is not None

        samepaged.configure(FAST)
        one.process.send_signal(signal.SIGHUP)
        one.wait_metric(1, "samepage_config_last_reload_successful")


@pytest.fixture
def another_libvirtd(root: Path) -> Iterator[Libvirtd]:
    """One that a test may stop: the shared one has other tests' guests."""
    path = root / "another"
    path.mkdir(exist_ok=True)
    with private_libvirtd(path) as daemon:
        yield daemon


def test_an_absent_and_a_restarting_libvirtd_are_survived(another_libvirtd: Libvirtd, tmp_path: Path) -> None:
    another_libvirtd.stop()
    samepaged = Samepaged(another_libvirtd.uri, tmp_path)
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        one.wait("libvirt unavailable")
        assert one.metric("samepage_libvirt_up") == 0
        another_libvirtd.start()
        one.wait_metric(1, "samepage_libvirt_up")
        with contextlib.closing(libvirt.open(another_libvirtd.uri)) as connection:
            spec = Spec("samepaged-test-survivor", memory=84, cmdline="region=1")
            with running(connection, another_libvirtd.root, spec):
                one.wait_scans(2)
                another_libvirtd.stop(signal.SIGKILL)
                one.wait_metric(0, "samepage_libvirt_up")
                # the last results stay, with their age
                assert one.metric("samepage_domain_self_sharing_bytes", domain=spec.name) is not None
                another_libvirtd.start()
                one.wait_metric(1, "samepage_libvirt_up")
                one.wait_scans(2)
                assert one.process.poll() is None
        with contextlib.closing(libvirt.open(another_libvirtd.uri)) as connection:
            for domain in connection.listAllDomains():
                assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING


def test_systemd_hears_that_it_is_ready_alive_and_stopping(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure(FAST)
    path = samepaged.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        heard: list[str] = []

        def listen() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(listener.recv(4096).decode())
            return sum("STATUS=scanned" in one for one in heard) >= 2

        with daemon(samepaged, notify=path) as one:
            # All the time: the kernel keeps ten datagrams, and the daemon does not wait for room.
            one.wait_until(listen, 60)
            one.stop()
            listen()
    told = "\n".join(heard)
    assert "READY=1" in told
    assert told.count("WATCHDOG=1") >= 2
    assert "STOPPING=1" in told


def test_a_port_in_use_is_said_in_a_line(samepaged: Samepaged) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        samepaged.config.write_text(samepaged.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        done = samepaged("run", "--config", str(samepaged.config), expect=1)
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_while_libvirt_is_away_leaves_the_guest_to_the_guard(
    another_libvirtd: Libvirtd, tmp_path: Path
) -> None:
    samepaged = Samepaged(another_libvirtd.uri, tmp_path)
    samepaged.configure("scan: {interval: 1s, jitter: 0, max_drift: 1, mode: snapshot}")
    with contextlib.closing(libvirt.open(another_libvirtd.uri)) as connection:
        spec = Spec("samepaged-test-stranded", memory=512, cmdline="region=256")
        with running(connection, another_libvirtd.root, spec) as (large,):
            large.fill(0, 256 * 256, 5, 256 * 256)
            with daemon(samepaged) as one:
                large.wait_until_suspended(30, lambda: one.log)
                another_libvirtd.stop(signal.SIGKILL)
                time.sleep(0.3)
                one.process.send_signal(signal.SIGTERM)
                assert one.process.wait(20) == 1, one.log
                assert "its journal entry stays open" in one.log
                another_libvirtd.start()
            with contextlib.closing(libvirt.open(another_libvirtd.uri)) as again:
                domain = again.lookupByName(spec.name)
                wait_for(lambda: domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING, 10, lambda: one.log)
                domain.destroy()


def test_a_libvirtd_that_hangs_does_not_keep_the_daemon_from_leaving(
    another_libvirtd: Libvirtd, tmp_path: Path
) -> None:
    samepaged = Samepaged(another_libvirtd.uri, tmp_path)
    samepaged.configure(FAST)
    pid = int((another_libvirtd.root / "libvirtd.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        with daemon(samepaged) as one:
            one.wait("serving metrics")
            time.sleep(0.5)
            assert one.stop() < 3
    finally:
        os.kill(pid, signal.SIGCONT)


def test_no_descriptor_and_no_thread_is_left_of_a_libvirtd_that_restarted(
    another_libvirtd: Libvirtd, tmp_path: Path
) -> None:
    samepaged = Samepaged(another_libvirtd.uri, tmp_path)
    samepaged.configure(FAST)

    def held(pid: int) -> tuple[int, int]:
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))

    with daemon(samepaged) as one:
        one.wait_metric(1, "samepage_libvirt_up")
        one.wait_scans(1)
        before = held(one.process.pid)
        for _ in range(4):
            another_libvirtd.stop(signal.SIGKILL)
            one.wait_metric(0, "samepage_libvirt_up")
            another_libvirtd.start()
            one.wait_metric(1, "samepage_libvirt_up")
        one.wait_scans(1)

        def nothing_more() -> bool:
            return all(now <= was for now, was in zip(held(one.process.pid), before, strict=True))

        wait_for(nothing_more, 10, lambda: (held(one.process.pid), before), every=0.2)
